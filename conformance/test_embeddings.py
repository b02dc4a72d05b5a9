"""EMB: texts as vectors."""

import pytest

from conformance.answers import Answers, Question
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange
from conformance.openai_shapes import is_count
from conformance.questions.embeddings import (
    ALONE,
    EMBEDDED,
    ENCODED,
    N_DIMENSIONS,
    NO_TOKENS,
    SHORTENED,
    TEXTS,
    TOKENS,
    WRONG,
)
from conformance.shapes.choices import mapping, refusal_problem
from conformance.shapes.embeddings import are_alike, decoded, list_problem, vectors_of
from conformance.verdicts import check, not_tested, requirement

N_INPUTS = {"text": 1, "list": len(TEXTS)}


def vectors(answers: Answers, question: Question, n_inputs: int) -> list[list[float]]:
    """Return the embeddings; leave the check open where there aren't as many."""
    found = vectors_of(answers.to(question))
    if len(found) != n_inputs:
        not_tested(f"{len(found)} embeddings of {n_inputs} inputs")
    return found


def input_tokens(answer: Exchange) -> int:
    """Return how many tokens the input has; 0 where nothing says so."""
    count = mapping(answer.fields().get("usage")).get("prompt_tokens")
    return count if isinstance(count, int) else 0


@pytest.mark.parametrize("form", EMBEDDED)
@requirement("EMB-1", profile=SURFACE)
def test_embeddings_have_their_shape(demand: Requirement, answers: Answers, form: str) -> None:
    """A text or several become a list of as many embeddings."""
    answer = answers.to(EMBEDDED[form])
    problem = list_problem(answer, N_INPUTS[form])

    check(demand, not problem, problem, answer)


@requirement("EMB-2", profile=SURFACE)
def test_embeddings_are_in_order(demand: Requirement, answers: Answers) -> None:
    """Each embedding of a list is that of its own text."""
    together = vectors(answers, EMBEDDED["list"], len(TEXTS))
    for index, question in enumerate(ALONE.values()):
        (alone,) = vectors(answers, question, 1)
        is_same = are_alike(together[index], alone)

        check(demand, is_same, f"embedding {index} is another one alone", answers.to(question))


@requirement("EMB-3", profile=SURFACE)
def test_embeddings_have_one_length(demand: Requirement, answers: Answers) -> None:
    """Vectors can be compared only where they are equally long."""
    found = vectors(answers, EMBEDDED["list"], len(TEXTS))
    lengths = {len(vector) for vector in found}

    check(demand, len(lengths) == 1, f"lengths {sorted(lengths)}", answers.to(EMBEDDED["list"]))


@requirement("EMB-4", profile=SURFACE)
def test_length_is_as_asked_for(demand: Requirement, answers: Answers) -> None:
    """A shorter vector is given or refused, never passed over."""
    answer = answers.to(SHORTENED)
    if answer.status != 200:
        problem = refusal_problem(answer)
        check(demand, not problem, problem, answer)
        return
    lengths = sorted({len(vector) for vector in vectors(answers, SHORTENED, len(TEXTS))})

    check(demand, lengths == [N_DIMENSIONS], f"lengths {lengths}, not {N_DIMENSIONS}", answer)


@requirement("EMB-5", profile=SURFACE)
def test_encodings_agree(demand: Requirement, answers: Answers) -> None:
    """Most clients ask for base64 and expect the same numbers."""
    expected = vectors(answers, EMBEDDED["list"], len(TEXTS))
    answer = answers.to(ENCODED)
    found = decoded(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, len(found) == len(TEXTS), "no base64 of 32-bit floats", answer)
    for one, other in zip(found, expected, strict=True):
        check(demand, are_alike(one, other), f"{one[:3]}... instead of {other[:3]}...", answer)


@requirement("EMB-6", profile=SURFACE)
def test_usage_counts_the_input(demand: Requirement, answers: Answers) -> None:
    """The tokens of all inputs are counted, and nothing is generated."""
    one, several = (answers.to(EMBEDDED[form]) for form in EMBEDDED)
    usage = mapping(several.fields().get("usage"))
    count, total = usage.get("prompt_tokens"), usage.get("total_tokens")

    check(demand, is_count(count) and bool(count), f"prompt_tokens {count}", several)
    check(demand, total == count, f"total_tokens {total}, prompt_tokens {count}", several)
    is_more = input_tokens(several) > input_tokens(one)
    check(demand, is_more, f"{count} tokens, as many as its first text alone", several)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("EMB-7", profile=SURFACE)
def test_wrong_input_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """Nothing has no embedding, and neither has what is no text."""
    answer = answers.to(WRONG[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("form", TOKENS)
@requirement("EMB-8", profile=SURFACE)
def test_token_ids_are_embedded_or_refused(
    demand: Requirement, answers: Answers, form: str
) -> None:
    """Some clients send token ids; they get embeddings of these, or a no."""
    answer = answers.to(TOKENS[form])
    n_inputs = {"one": 1, "several": 2}[form]
    problem = refusal_problem(answer) if answer.status != 200 else list_problem(answer, n_inputs)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("wrong", NO_TOKENS)
@requirement("EMB-8", profile=SURFACE)
def test_unknown_token_ids_are_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """A number that no token has is told, before a model reads beyond its table."""
    answer = answers.to(NO_TOKENS[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)
