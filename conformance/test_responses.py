"""RESP: the responses route, which newer clients of OpenAI's use instead of chats."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange, Server
from conformance.questions.chat import HOW
from conformance.questions.responses import (
    CONTINUED,
    CUT,
    INPUTS,
    N_LEAST,
    RESPONDED,
    RESPONSES,
    STORED,
    WRONG,
    given_back,
    response,
)
from conformance.shapes.choices import mapping, refusal_problem, text
from conformance.shapes.responses import (
    delta_problem,
    final_of,
    framing_problem,
    order_problem,
    response_problem,
    text_of,
)
from conformance.verdicts import check, not_tested, requirement

STREAM_ASPECTS = {"framing": framing_problem, "order": order_problem}


def final(answer: Exchange) -> str:
    """Look at the response that an answer comes to."""
    return f"status {answer.status}" if answer.status != 200 else response_problem(final_of(answer))


def id_of(answer: Exchange) -> str:
    """Return a response's id; leave the check open where it has none."""
    found = text(final_of(answer).get("id"))
    return found or not_tested(f"status {answer.status}, no response with an id")


@pytest.mark.parametrize("how", HOW)
@requirement("RESP-1", profile=SURFACE)
def test_response_has_its_shape(demand: Requirement, answers: Answers, how: str) -> None:
    """A response is what OpenAI's clients expect, and a stream ends with one."""
    answer = answers.to(RESPONDED[how])
    problem = final(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", HOW)
@requirement("RESP-2", profile=SURFACE)
def test_response_is_bounded(demand: Requirement, answers: Answers, how: str) -> None:
    """A response that had more to say tells that it was cut, and by what."""
    answer = answers.to(CUT[how])
    body = final_of(answer)
    n_tokens = mapping(body.get("usage")).get("output_tokens")
    if final(answer) or not isinstance(n_tokens, int):
        not_tested(final(answer) or "no usage")

    check(demand, n_tokens <= N_LEAST, f"{n_tokens} tokens, {N_LEAST} at most", answer)
    if n_tokens < N_LEAST:
        not_tested(f"the model had no more to say than {n_tokens} tokens")
    reason = mapping(body.get("incomplete_details")).get("reason")
    check(demand, body.get("status") == "incomplete", f"status {body.get('status')!r}", answer)
    check(demand, reason == "max_output_tokens", f"reason {reason!r}", answer)


@pytest.mark.parametrize("aspect", STREAM_ASPECTS)
@requirement("RESP-3", profile=SURFACE)
def test_events_are_in_order(demand: Requirement, answers: Answers, aspect: str) -> None:
    """What opens is closed, around the text and around the whole."""
    answer = answers.to(RESPONDED["streamed"])
    problem = STREAM_ASPECTS[aspect](answer)

    check(demand, not problem, f"{aspect}: {problem}", answer)


@requirement("RESP-4", profile=SURFACE)
def test_deltas_make_the_text(demand: Requirement, answers: Answers) -> None:
    """Whoever reads along and whoever waits for the end reads the same."""
    answer = answers.to(RESPONDED["streamed"])
    if problem := final(answer):
        not_tested(problem)
    problem = delta_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("RESP-5", profile=SURFACE)
def test_wrong_request_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """Errors look as they do everywhere else."""
    answer = answers.refusal_of(wrong, WRONG[wrong])
    problem = refusal_problem(answer, *([400, 404] if wrong == "unknown-model" else [400]))

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("form", INPUTS)
@requirement("RESP-6", profile=SURFACE)
def test_input_is_answered(demand: Requirement, answers: Answers, form: str) -> None:
    """Each form of input that clients send is taken."""
    answer = answers.to(INPUTS[form])
    problem = final(answer)

    check(demand, not problem, problem, answer)


@requirement("RESP-7", profile=SURFACE)
def test_stored_response_can_be_read(demand: Requirement, answers: Answers, server: Server) -> None:
    """What was stored is there by its id, word for word."""
    stored = answers.to(STORED)
    answer = server.get(f"{RESPONSES}/{id_of(stored)}")
    found, expected = text_of(answer.fields()), text_of(stored.fields())

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, answer.fields().get("id") == id_of(stored), "another id", answer)
    check(demand, found == expected, f"{found!r} instead of {expected!r}", answer)


@requirement("RESP-8", profile=SURFACE)
def test_stored_response_can_be_continued(demand: Requirement, answers: Answers) -> None:
    """A conversation goes on from what the server remembers."""
    previous = id_of(answers.to(STORED))
    answer = answers.to(response(previous_response_id=previous))
    problem = final(answer)

    check(demand, not problem, problem, answer)
    named = final_of(answer).get("previous_response_id")
    check(demand, named == previous, f"previous_response_id {named!r}", answer)


@requirement("RESP-9", profile=SURFACE)
def test_unstored_response_is_gone(demand: Requirement, answers: Answers, server: Server) -> None:
    """What shall not be kept isn't."""
    answer = server.get(f"{RESPONSES}/{id_of(answers.to(RESPONDED['whole']))}")

    check(demand, answer.status in {404, 405}, f"status {answer.status}", answer)


@requirement("RESP-10", profile=SURFACE)
def test_unknown_conversation_is_refused(demand: Requirement, answers: Answers) -> None:
    """A conversation that the server doesn't know isn't begun anew without a word."""
    answer = answers.to(CONTINUED)
    problem = refusal_problem(answer, 400, 404)

    check(demand, not problem, problem, answer)


@requirement("RESP-11", profile=SURFACE)
def test_own_output_is_taken_back(demand: Requirement, answers: Answers) -> None:
    """A client that has nothing stored keeps the output that it got, and sends it along."""
    first = answers.to(RESPONDED["whole"])
    output = final_of(first).get("output")
    if first.status != 200 or not isinstance(output, list) or not output:
        not_tested("there was no output to send back")
    answer = answers.to(given_back(output))
    problem = final(answer)

    check(demand, not problem, problem, answer)
