"""COMPL: bare texts, which a model goes on with."""

from collections.abc import Callable
from typing import Any

import pytest

from conformance.answers import Answers, Question
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange
from conformance.openai_shapes import chunks, framing_problem, is_count, usage_chunk_problem
from conformance.questions.chat import BOUND, N_CHOICES
from conformance.questions.completions import (
    ALONE,
    COMPLETED,
    CUT,
    LISTS,
    LOGGED,
    LOGGED_PROMPT,
    LONG,
    N_TOKENS,
    N_TOP,
    NO_TOKENS,
    PROMPTS,
    SUFFIXED,
    TOKENS,
    UNSTOPPED,
    WRONG,
    completion,
)
from conformance.questions.stops import LENGTHS, N_STOP, STOPS, place_to_stop
from conformance.shapes.choices import (
    choice_of,
    choices_of,
    mapping,
    mappings,
    param_of,
    refusal_problem,
    usage_of,
)
from conformance.shapes.completions import (
    chunk_problem,
    completion_problem,
    likelihood_problem,
    lists_problem,
    offset_problem,
)
from conformance.verdicts import check, inapplicable, not_tested, requirement

STREAM_ASPECTS: dict[str, Callable[[Exchange], str]] = {
    "framing": framing_problem,
    "chunks": chunk_problem,
}
# How many choices each prompt of a list has.
N_EACH = {"list": 1, "list-streamed": 1, "several": N_CHOICES}


def refused(demand: Requirement, answer: Exchange, param: str) -> bool:
    """Whether a parameter is refused, which is demanded to be done by its name."""
    if answer.status == 200:
        return False
    problem = refusal_problem(answer)
    check(demand, not problem, problem, answer)
    check(demand, param_of(answer) == param, f"the refusal names {param_of(answer)!r}", answer)
    return True


def n_tokens_of(answer: Exchange, name: str) -> int:
    """Return a count of the usage; leave the check open where there is none."""
    count = usage_of(answer).get(name)
    return count if is_count(count) else not_tested(f"no usage.{name}")


def logprobs_of(answer: Exchange) -> dict[str, Any]:
    """Return the first choice's log probabilities."""
    (choice, *_) = mappings(answer.fields().get("choices")) or [{}]
    return mapping(choice.get("logprobs"))


def lists_of(answers: Answers, question: Question) -> dict[str, Any]:
    """Return the first choice's lists; leave the check open where they can't be read."""
    found = logprobs_of(answers.to(question))
    if problem := lists_problem(found):
        not_tested(problem)
    return found


@requirement("COMPL-1", profile=SURFACE)
def test_completion_has_its_shape(demand: Requirement, answers: Answers) -> None:
    """A completion is what OpenAI's older clients expect."""
    answer = answers.to(COMPLETED["whole"])
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("aspect", STREAM_ASPECTS)
@requirement("COMPL-2", profile=SURFACE)
def test_stream_has_its_shape(demand: Requirement, answers: Answers, aspect: str) -> None:
    """A stream is pieces of text under one id."""
    answer = answers.to(COMPLETED["streamed"])
    problem = STREAM_ASPECTS[aspect](answer)

    check(demand, not problem, f"{aspect}: {problem}", answer)


@requirement("COMPL-2", profile=SURFACE)
def test_stream_ends_with_usage(demand: Requirement, answers: Answers) -> None:
    """Where it is asked for, a last chunk without choices carries the usage."""
    answer = answers.to(COMPLETED["streamed"])
    if not chunks(answer):
        not_tested("the stream can't be read")
    problem = usage_chunk_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("form", LISTS)
@requirement("COMPL-3", profile=SURFACE)
def test_each_prompt_has_its_choices(demand: Requirement, answers: Answers, form: str) -> None:
    """Whoever sends several prompts finds out by the index which one a choice belongs to."""
    answer = answers.to(LISTS[form])
    if form == "several" and refused(demand, answer, "n"):
        return
    choices, n_each = choices_of(answer), N_EACH[form]
    indexes = sorted(choices)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    expected = list(range(n_each * len(PROMPTS)))
    check(demand, indexes == expected, f"choices {indexes}", answer)
    if not choice_of(answers.to(ALONE[0])).text.startswith(PROMPTS[0]):
        not_tested("without echo nothing shows which prompt a choice belongs to")
    for index, choice in choices.items():
        prompt = PROMPTS[index // n_each]
        check(demand, choice.text.startswith(prompt), f"choice {index} isn't {prompt!r}'s", answer)


@pytest.mark.parametrize("form", TOKENS)
@requirement("COMPL-4", profile=SURFACE)
def test_token_ids_are_completed(demand: Requirement, answers: Answers, form: str) -> None:
    """A prompt that is tokens already is taken as it is."""
    answer = answers.to(TOKENS[form])
    n_choices = {"one": 1, "several": 2}[form]

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, len(choices_of(answer)) == n_choices, f"not {n_choices} choices", answer)


@pytest.mark.parametrize("wrong", NO_TOKENS)
@requirement("COMPL-4", profile=SURFACE)
def test_unknown_token_ids_are_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """A number that no token has is told, before a model reads beyond its table."""
    answer = answers.to(NO_TOKENS[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", CUT)
@requirement("COMPL-5", profile=SURFACE)
def test_completion_is_bounded(demand: Requirement, answers: Answers, how: str) -> None:
    """A choice has no more tokens than asked for, and says that it was cut."""
    answer = answers.to(CUT[how])
    check(demand, answer.status == 200, f"status {answer.status}", answer)
    n_tokens, reason = n_tokens_of(answer, "completion_tokens"), choice_of(answer).finish_reason

    check(demand, n_tokens <= BOUND, f"{n_tokens} tokens, asked for {BOUND} at most", answer)
    if n_tokens < BOUND:
        not_tested(f"the model had no more to say than {n_tokens} tokens")
    check(demand, reason == "length", f"ends as {reason!r}", answer)


@pytest.mark.parametrize("how", STOPS)
@requirement("COMPL-6", profile=SURFACE)
def test_completion_ends_at_stop_text(demand: Requirement, answers: Answers, how: str) -> None:
    """With a piece of its own text as stop, a choice ends right before it."""
    unstopped, length = choice_of(answers.to(UNSTOPPED)).text, LENGTHS.get(how, N_STOP)
    at = place_to_stop(unstopped, length)
    if at < 0:
        not_tested("the model says nothing to stop at")
    fields = STOPS[how](unstopped[at : at + length])
    answer = answers.to(completion({**LONG, "max_tokens": N_TOKENS, **fields}))
    choice = choice_of(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, choice.text.rstrip() == unstopped[:at].rstrip(), f"not at {fields}", answer)
    check(demand, choice.finish_reason == "stop", f"ends as {choice.finish_reason!r}", answer)


@requirement("COMPL-7", profile=SURFACE)
def test_prompt_is_echoed(demand: Requirement, answers: Answers) -> None:
    """The prompt stands before what the model says to it, word for word."""
    for prompt, question in zip(PROMPTS, ALONE, strict=True):
        answer = answers.to(question)
        found = choice_of(answer).text

        check(demand, found.startswith(prompt), f"{found!r} after {prompt!r}", answer)


@requirement("COMPL-8", profile=SURFACE)
def test_logprobs_are_lists(demand: Requirement, answers: Answers) -> None:
    """Each token has how likely it was, what else was, and where it stands."""
    answer = answers.to(LOGGED)
    found, said = logprobs_of(answer), choice_of(answer).text
    problem = lists_problem(found)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)
    for logprob, top, token in zip(
        found["token_logprobs"], found["top_logprobs"], found["tokens"], strict=True
    ):
        problem = likelihood_problem(logprob, top, token, N_TOP)
        check(demand, not problem, problem, answer)
    # OpenAI's own offsets count the prompt, though it isn't there.
    problem = offset_problem(found, said, base=found["text_offset"][0])
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", LOGGED_PROMPT)
@requirement("COMPL-9", profile=SURFACE)
def test_prompt_has_its_logprobs(demand: Requirement, answers: Answers, how: str) -> None:
    """The prompt's own tokens are told as well, the first of which follows nothing."""
    n_alone = len(lists_of(answers, LOGGED)["tokens"]) if how == "continued" else 0
    found, answer = lists_of(answers, LOGGED_PROMPT[how]), answers.to(LOGGED_PROMPT[how])
    said, n_tokens = choice_of(answer).text, len(found["tokens"])
    first, *others = found["token_logprobs"]

    check(demand, n_tokens > n_alone, f"{n_tokens} tokens, {n_alone} of them said", answer)
    is_all = how == "continued" or said == PROMPTS[0]
    check(demand, is_all, f"{said!r} instead of {PROMPTS[0]!r}", answer)
    check(demand, first is None, f"the first token's log probability is {first}", answer)
    for logprob, top, token in zip(
        others, found["top_logprobs"][1:], found["tokens"][1:], strict=True
    ):
        problem = likelihood_problem(logprob, top, token, N_TOP)
        check(demand, not problem, problem, answer)
    problem = offset_problem(found, said, base=0)
    check(demand, not problem, problem, answer)


@requirement("COMPL-10", profile=SURFACE)
def test_suffix_is_heeded(demand: Requirement, answers: Answers) -> None:
    """A text that shall come after the gap makes the prompt longer, or is refused by its name."""
    plain, answer = answers.to(COMPLETED["whole"]), answers.to(SUFFIXED)
    if refused(demand, answer, "suffix"):
        return
    n_tokens, n_plain = (n_tokens_of(each, "prompt_tokens") for each in (answer, plain))

    check(demand, n_tokens > n_plain, f"{n_tokens} tokens with and {n_plain} without", answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("COMPL-11", profile=SURFACE)
def test_wrong_request_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """Errors look as they do everywhere else."""
    answer = answers.refusal_of(wrong, WRONG[wrong])
    problem = refusal_problem(answer, *([400, 404] if wrong == "unknown-model" else [400]))

    check(demand, not problem, problem, answer)


@requirement("COMPL-12", profile=SURFACE)
def test_all_prompts_are_counted(demand: Requirement, answers: Answers) -> None:
    """Several prompts cost what they would one by one."""
    expected = sum(n_tokens_of(answers.to(each), "prompt_tokens") for each in ALONE)
    answer = answers.to(LISTS["list"])
    found = n_tokens_of(answer, "prompt_tokens")

    check(demand, found == expected, f"prompt_tokens {found}, one by one {expected}", answer)


@requirement("COMPL-12", profile=SURFACE)
def test_all_choices_are_counted(demand: Requirement, answers: Answers) -> None:
    """Two choices of each prompt are more tokens than one, and the prompts are no more."""
    single, answer = answers.to(LISTS["list"]), answers.to(LISTS["several"])
    if answer.status == 400:
        inapplicable("several choices are refused")
    (n_prompt, n_tokens), (n_prompt_alone, n_alone) = (
        [n_tokens_of(each, f"{part}_tokens") for part in ("prompt", "completion")]
        for each in (answer, single)
    )

    check(demand, n_tokens > n_alone, f"completion_tokens {n_tokens}, alone {n_alone}", answer)
    is_once = n_prompt == n_prompt_alone
    check(demand, is_once, f"prompt_tokens {n_prompt}, alone {n_prompt_alone}", answer)
