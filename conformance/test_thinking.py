"""THINK: reasoning, kept apart from the answer."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import Requirement
from conformance.client import Exchange
from conformance.openai_shapes import chunks, is_count
from conformance.questions.chat import HOW
from conformance.questions.thinking import THOUGHT
from conformance.shapes.choices import choice_of, mapping, mappings, text, thought, usage_of
from conformance.verdicts import check, not_tested, requirement

# How families of models mark their reasoning, where nobody has taken it out.
MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>", "<|channel>")


def said_and_thought(answer: Exchange) -> list[tuple[bool, bool]]:
    """Return of each delta whether it says something, and whether it thinks something."""
    deltas = [
        mapping(choice.get("delta"))
        for chunk in chunks(answer)
        for choice in mappings(chunk.get("choices"))
    ]
    return [(bool(text(delta.get("content"))), bool(thought(delta))) for delta in deltas]


@pytest.mark.parametrize("how", HOW)
@requirement("THINK-1", profile="openai")
def test_reasoning_is_kept_apart(demand: Requirement, answers: Answers, how: str) -> None:
    """Whoever shows the content shows the answer, and nothing of how it was found."""
    answer = answers.to(THOUGHT[how])
    choice = choice_of(answer)
    found = [mark for mark in MARKS if mark in choice.text]

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not found, f"{found} in the content", answer)
    if not choice.reasoning:
        not_tested("the model didn't think")


@requirement("THINK-1", profile="openai")
def test_reasoning_comes_first(demand: Requirement, answers: Answers) -> None:
    """What is thought before the answer comes before it, and never together with it."""
    found = [each for each in said_and_thought(answers.to(THOUGHT["streamed"])) if any(each)]
    if (False, True) not in found and (True, True) not in found:
        not_tested("the model didn't think")

    check(demand, found == sorted(found), "reasoning after text", answers.to(THOUGHT["streamed"]))
    check(demand, (True, True) not in found, "both in one", answers.to(THOUGHT["streamed"]))


@pytest.mark.parametrize("how", HOW)
@requirement("THINK-2", profile="openai")
def test_reasoning_is_counted(demand: Requirement, answers: Answers, how: str) -> None:
    """The client learns what thinking cost."""
    answer = answers.to(THOUGHT[how])
    usage = usage_of(answer)
    n_thought = mapping(usage.get("completion_tokens_details")).get("reasoning_tokens", 0)
    if not choice_of(answer).reasoning:
        not_tested("the model didn't think")

    check(demand, is_count(n_thought) and n_thought > 0, f"reasoning_tokens {n_thought}", answer)
    n_tokens = usage.get("completion_tokens")
    if not is_count(n_tokens):
        not_tested("no usage.completion_tokens")
    check(demand, n_thought <= n_tokens, f"{n_thought} of {n_tokens} tokens", answer)
