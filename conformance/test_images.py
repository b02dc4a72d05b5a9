"""IMG: pictures in a chat."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import SURFACE, Requirement
from conformance.listener import Listener
from conformance.openai_shapes import completion_problem
from conformance.questions.images import (
    ASKING,
    BROKEN,
    FOREIGN,
    SEEN,
    UNSEEN,
    picture,
    seeing,
)
from conformance.shapes.choices import refusal_problem, usage_of
from conformance.verdicts import check, not_tested, requirement

# This machine under several names; a filter that knows one of them isn't enough.
HOSTS = {
    "loopback": "127.0.0.1",
    "name": "localhost",
    "number": "2130706433",
    "mapped": "[::ffff:127.0.0.1]",
}


@pytest.mark.parametrize("form", SEEN)
@requirement("IMG-1", profile=SURFACE)
def test_picture_is_answered(demand: Requirement, answers: Answers, form: str) -> None:
    """A picture that brings its own content is looked at."""
    answer = answers.to(SEEN[form])
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@requirement("IMG-2", profile=SURFACE)
def test_picture_counts(demand: Requirement, answers: Answers) -> None:
    """A prompt with a picture is longer than the same without it."""
    seen, unseen = answers.to(SEEN["one"]), answers.to(UNSEEN)
    counts = [usage_of(answer).get("prompt_tokens") for answer in (unseen, seen)]
    without, within = counts
    if not isinstance(without, int) or not isinstance(within, int):
        not_tested("no usage says how long the prompt is")

    check(demand, without < within, f"{without} tokens without the picture, {within} with", seen)


@pytest.mark.parametrize("wrong", BROKEN)
@requirement("IMG-3", profile=SURFACE)
def test_broken_picture_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """What can't be looked at is the client's mistake, and is told so."""
    answer = answers.to(BROKEN[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("host", HOSTS)
@requirement("IMG-4", profile=SURFACE)
def test_own_machine_is_never_asked(demand: Requirement, answers: Answers, host: str) -> None:
    """A picture's address doesn't make the server knock at its own doors."""
    with Listener() as listener:
        url = f"http://{HOSTS[host]}:{listener.port}/picture.png"
        answer = answers.to(seeing(ASKING, picture(url)))
        n_visits = listener.n_visits()
    problem = refusal_problem(answer)

    check(demand, not n_visits, f"{n_visits} connections to {url}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("place", FOREIGN)
@requirement("IMG-4", profile=SURFACE)
def test_private_place_is_refused(demand: Requirement, answers: Answers, place: str) -> None:
    """Neither do addresses that only the server can reach, nor its files."""
    answer = answers.to(FOREIGN[place])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)
