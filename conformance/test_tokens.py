"""TOK: texts as a model's tokens, and back."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import Requirement
from conformance.client import Exchange
from conformance.openai_shapes import is_count
from conformance.questions.tokens import (
    COUNTED,
    TEXTS,
    TOKENIZED,
    USED,
    WRONG,
    detokenizing,
)
from conformance.shapes.choices import refusal_problem, text, usage_of
from conformance.verdicts import check, not_tested, requirement


def text_again(answers: Answers, name: str) -> tuple[str, Exchange]:
    """Return a text after it has been tokens; leave the check open where it never was."""
    tokens = answers.to(TOKENIZED[name]).fields().get("tokens")
    if not isinstance(tokens, list):
        not_tested("no tokens to give back")
    answer = answers.to(detokenizing(tokens))
    return text(answer.fields().get("prompt")), answer


@pytest.mark.parametrize("name", TEXTS)
@requirement("TOK-1", profile="openai")
def test_text_has_its_tokens(demand: Requirement, answers: Answers, name: str) -> None:
    """A text becomes ids, and is told how many."""
    answer = answers.to(TOKENIZED[name])
    tokens, count = (answer.fields().get(field) for field in ("tokens", "count"))

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    is_list = isinstance(tokens, list) and bool(tokens) and all(map(is_count, tokens))
    check(demand, is_list, f"tokens {tokens}", answer)
    check(demand, count == len(tokens or []), f"count {count}, {len(tokens or [])} ids", answer)


@pytest.mark.parametrize("name", TEXTS)
@requirement("TOK-2", profile="openai")
def test_text_comes_back(demand: Requirement, answers: Answers, name: str) -> None:
    """The ids are the text again, behind whatever the model has before every text."""
    usual = text_again(answers, "plain")[0].removesuffix(TEXTS["plain"])
    (found, answer), expected = text_again(answers, name), TEXTS[name]

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, found == usual + expected, f"{found!r} instead of {expected!r}", answer)


@pytest.mark.parametrize("form", COUNTED)
@requirement("TOK-3", profile="openai")
def test_counts_agree(demand: Requirement, answers: Answers, form: str) -> None:
    """A client that counts beforehand comes to what the chat will count."""
    used, answer = answers.to(USED[form]), answers.to(COUNTED[form])
    expected = usage_of(used).get("prompt_tokens")
    if not is_count(expected):
        not_tested(f"status {used.status}, no usage.prompt_tokens")
    count = answer.fields().get("count")

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, count == expected, f"count {count}, prompt_tokens {expected}", answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("TOK-4", profile="openai")
def test_wrong_request_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """What is neither a text nor tokens is the client's mistake."""
    answer = answers.to(WRONG[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)
