"""LOGP: how likely a model found each of its tokens."""

from typing import Any

import pytest

from conformance.answers import Answers
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange
from conformance.openai_shapes import is_count
from conformance.questions.chat import HOW
from conformance.questions.logprobs import LOGGED, N_TOP, UNLOGGED, WRONG_TOPS
from conformance.shapes.choices import choice_of, refusal_problem, usage_of
from conformance.shapes.logprobs import (
    chosen_problem,
    entries_problem,
    joined,
    plain,
    top_problem,
)
from conformance.verdicts import check, not_tested, requirement


def entries_of(answer: Exchange) -> list[dict[str, Any]]:
    """Return the entries; leave the check open where they can't be read."""
    entries = choice_of(answer).entries
    if problem := entries_problem(entries):
        not_tested(problem)
    return entries or []


def count_problem(answer: Exchange) -> str:
    """Look for as many entries as tokens; the one that ends a turn may have none."""
    choice, n_tokens = choice_of(answer), usage_of(answer).get("completion_tokens")
    if not is_count(n_tokens):
        return ""  # whether usage is there is OAI's
    n_entries = len(choice.entries or [])
    n_silent = 0 if choice.finish_reason == "length" else 1
    is_right = n_tokens - n_silent <= n_entries <= n_tokens
    return "" if is_right else f"{n_entries} entries of {n_tokens} tokens"


def shape_problem(answer: Exchange) -> str:
    """Look for an entry of the right shape for each token."""
    if answer.status != 200:
        return f"status {answer.status}"
    return entries_problem(choice_of(answer).entries) or count_problem(answer)


def text_problem(answer: Exchange) -> str:
    """Look whether the entries' bytes make the text."""
    found, expected = joined(choice_of(answer).entries or []), plain(choice_of(answer).text)
    return "" if found == expected else f"the bytes make {found!r}, the content is {expected!r}"


@requirement("LOGP-1", profile=SURFACE)
def test_each_token_has_its_entry(demand: Requirement, answers: Answers) -> None:
    """Each token comes with how likely it was."""
    answer = answers.to(LOGGED["whole"])
    problem = shape_problem(answer)

    check(demand, not problem, problem, answer)


@requirement("LOGP-2", profile=SURFACE)
def test_bytes_make_the_content(demand: Requirement, answers: Answers) -> None:
    """Nothing that was said lacks its entry, and no entry was not said."""
    answer = answers.to(LOGGED["whole"])
    entries_of(answer)
    problem = text_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", HOW)
@requirement("LOGP-3", profile=SURFACE)
def test_alternatives_are_the_likeliest(demand: Requirement, answers: Answers, how: str) -> None:
    """A token's alternatives are few, sorted, and probabilities."""
    answer = answers.to(LOGGED[how])
    for entry in entries_of(answer):
        problem = top_problem(entry, N_TOP)

        check(demand, not problem, f"{entry['token']!r}: {problem}", answer)


@requirement("LOGP-4", profile=SURFACE)
def test_chosen_token_is_consistent(demand: Requirement, answers: Answers) -> None:
    """The token that was said is the one that was likeliest, with one probability."""
    answer = answers.to(LOGGED["whole"])
    for entry in entries_of(answer):
        if problem := top_problem(entry, N_TOP):
            not_tested(problem)
        problem = chosen_problem(entry)

        check(demand, not problem, problem, answer)


@requirement("LOGP-5", profile=SURFACE)
def test_chunks_carry_their_entries(demand: Requirement, answers: Answers) -> None:
    """Put together, a stream's entries are those of its text."""
    answer = answers.to(LOGGED["streamed"])
    problem = shape_problem(answer) or text_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", HOW)
@requirement("LOGP-6", profile=SURFACE)
def test_nothing_comes_unasked(demand: Requirement, answers: Answers, how: str) -> None:
    """Whoever doesn't want log probabilities doesn't get any."""
    answer = answers.to(UNLOGGED[how])

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not choice_of(answer).entries, "entries that nobody asked for", answer)


@pytest.mark.parametrize("wrong", WRONG_TOPS)
@requirement("LOGP-7", profile=SURFACE)
def test_wrong_number_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """Alternatives have a limit, and belong to something."""
    answer = answers.to(WRONG_TOPS[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)
