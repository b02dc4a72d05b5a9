"""PARAM: the parameters of a chat that every client of OpenAI's relies upon."""

import math
import re
from collections.abc import Callable, Iterator

import pytest

from conformance.answers import N_TOKENS, Answers, context_of
from conformance.catalogue import SURFACE, Requirement
from conformance.client import CHAT, Exchange, Server, models_in, read_json
from conformance.openai_shapes import completion_problem, is_count
from conformance.questions.chat import (
    BOUND,
    BOUNDED,
    BY_CHANCE,
    CHOSEN,
    CONVERSED,
    HARMLESS,
    HOW,
    LIKELIEST,
    LONG,
    N_CHOICES,
    READ,
    SAME,
    SAMPLED,
    SEEDED,
    WRONG,
    WRONG_FIELDS,
    chat,
    given_back,
)
from conformance.questions.demanding import DEMANDING, NAMES, UNPICTURED
from conformance.questions.stops import LENGTHS, N_STOP, STOPS, place_to_stop
from conformance.questions.structured import COLOUR
from conformance.shapes.choices import (
    choice_of,
    choices_of,
    mapping,
    mappings,
    param_of,
    refusal_problem,
    usage_of,
)
from conformance.shapes.forms import form_problem
from conformance.verdicts import check, inapplicable, not_tested, requirement

N_MORE = 4
FALSE_ALARM = 1e-6


def n_prompt_tokens(answer: Exchange) -> int:
    """Return how long the server found the prompt; 0 where it doesn't say."""
    count = usage_of(answer).get("prompt_tokens")
    return count if isinstance(count, int) else 0


def has(answer: Exchange, name: str) -> bool:
    """Whether a chat's message has something under *name*."""
    choices = mappings(answer.fields().get("choices"))
    return any(mapping(choice.get("message")).get(name) for choice in choices)


def root_of(param: str) -> str:
    """Return the parameter of which *param* is perhaps a part."""
    return re.split(r"[.\[]", param)[0]


def bounded(seen: list[Exchange]) -> Iterator[tuple[Exchange, int]]:
    """Yield the chats with one choice that were given a bound, with the bound."""
    for answer in seen:
        asked = mapping(read_json(answer.request.body))
        bound = asked.get("max_completion_tokens") or asked.get("max_tokens")
        is_one = asked.get("n") in {None, 1}
        if answer.request.target.endswith(CHAT) and is_count(bound) and is_one:
            yield answer, bound


HONOURED: dict[str, Callable[[Exchange, Answers], bool]] = {
    "logprobs": lambda answer, _: bool(choice_of(answer).entries),
    "tools": lambda answer, _: bool(choice_of(answer).calls),
    "json_schema": lambda answer, _: not form_problem(choice_of(answer).text, COLOUR),
    "functions": lambda answer, _: has(answer, "function_call"),
    "logit_bias": lambda answer, answers: (
        choice_of(answer).text != choice_of(answers.to(SAME["whole"])).text
    ),
    "web_search": lambda answer, _: has(answer, "annotations"),
    "audio": lambda answer, _: has(answer, "audio"),
    "picture": lambda answer, answers: (
        n_prompt_tokens(answer) > n_prompt_tokens(answers.to(UNPICTURED))
    ),
}


@pytest.mark.parametrize("how", BOUNDED)
@requirement("PARAM-1", profile=SURFACE)
def test_answer_is_bounded(demand: Requirement, answers: Answers, how: str) -> None:
    """An answer has no more tokens than asked for, and says that it was cut."""
    unbound = answers.truly_of("completion")
    answer = answers.to(BOUNDED[how])
    choice, n_tokens = choice_of(answer), usage_of(answer).get("completion_tokens")

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    if not is_count(n_tokens):
        not_tested("no usage says how many tokens it has")
    check(demand, n_tokens <= BOUND, f"{n_tokens} tokens, asked for {BOUND} at most", answer)
    n_unbound = usage_of(unbound).get("completion_tokens")
    if not is_count(n_unbound) or n_unbound <= BOUND:
        not_tested(f"the model doesn't say more than {BOUND} tokens")
    is_shorter = len(choice.text) < max(len(choice_of(unbound).text), 1)
    check(demand, is_shorter, f"no shorter than with {N_TOKENS} tokens", answer)
    check(demand, choice.finish_reason == "length", f"ends as {choice.finish_reason!r}", answer)


@pytest.mark.parametrize("how", STOPS)
@requirement("PARAM-2", profile=SURFACE)
def test_answer_ends_at_stop_text(demand: Requirement, answers: Answers, how: str) -> None:
    """With a piece of its own text as stop, an answer ends right before it."""
    unstopped, length = choice_of(answers.truly_of("completion")).text, LENGTHS.get(how, N_STOP)
    at = place_to_stop(unstopped, length)
    if at < 0:
        not_tested("the model says nothing to stop at")
    stop = unstopped[at : at + length]
    answer = answers.to(chat({**LONG, "max_tokens": N_TOKENS, **STOPS[how](stop)}))
    choice = choice_of(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, stop not in choice.text, f"{stop!r} is part of the answer", answer)
    if not unstopped.startswith(choice.text) and not choice.text.startswith(unstopped[:at]):
        not_tested("at temperature 0 the model says something else each time")
    check(demand, choice.text.rstrip() == unstopped[:at].rstrip(), f"not at {stop!r}", answer)
    check(demand, choice.finish_reason == "stop", f"ends as {choice.finish_reason!r}", answer)


@requirement("PARAM-3", profile=SURFACE)
def test_seed_repeats_the_answer(demand: Requirement, answers: Answers) -> None:
    """Two requests with one seed are answered alike."""
    first, second = answers.to(SAMPLED), answers.anew(SAMPLED)
    others = (choice_of(answers.to(question)).text for question in SEEDED)
    if all(text == choice_of(first).text for text in others):
        not_tested("answers are alike, whatever the seed")
    texts = [choice_of(answer).text for answer in (first, second)]

    check(demand, first.status == second.status == 200, f"status {second.status}", second)
    check(demand, texts[0] == texts[1], f"first {texts[0]!r}, then {texts[1]!r}", second)


def answers_by_chance(answers: Answers) -> list[Exchange]:
    """Return a few answers to one question at temperature 1, with log probabilities if it has them."""
    how = "with-logprobs" if answers.to(BY_CHANCE["with-logprobs"]).status == 200 else "alone"
    return [answers.to(BY_CHANCE[how]), *(answers.anew(BY_CHANCE[how]) for _ in range(N_MORE))]


def n_texts(found: list[Exchange]) -> int:
    """Return how many texts there are among answers, all of which have to be good ones."""
    for answer in found:
        if answer.status != 200:
            not_tested(f"status {answer.status}")
    return len({choice_of(answer).text for answer in found})


def chance_of_likeness(answer: Exchange) -> float:
    """
    Return how likely it was at most that all others would come out like this one.

    At a temperature above 1 the likeliest tokens are less likely than what is told of them. It is
    1 where nothing is told.
    """
    logprobs = [entry.get("logprob") for entry in choice_of(answer).entries or []]
    told = [each for each in logprobs if isinstance(each, int | float)]
    return math.exp(N_MORE * min(0.0, sum(told)))


@requirement("PARAM-14", profile=SURFACE)
def test_temperature_leaves_answers_to_chance(demand: Requirement, answers: Answers) -> None:
    """Of a few answers at temperature 2 not all are the same, unless the model leaves no choice."""
    found = answers_by_chance(answers)
    if n_texts(found) > 1:
        return
    chance = chance_of_likeness(found[0])
    if chance > FALSE_ALARM:
        not_tested(f"{len(found)} answers are alike, of which the chance is {chance:.2g}, if known")

    check(demand, False, f"{len(found)} answers are alike: a chance of {chance:.2g}", found[-1])


@requirement("PARAM-15", profile=SURFACE)
def test_top_p_leaves_the_likeliest(demand: Requirement, answers: Answers) -> None:
    """With next to nothing for top_p all answers are the same, though they aren't without it."""
    first = answers.to(LIKELIEST)
    if first.status == 400:
        inapplicable("it is refused")
    found = [first, *(answers.anew(LIKELIEST) for _ in range(N_MORE))]
    if n_texts(answers_by_chance(answers)) == 1:
        not_tested("answers are alike without it, too")

    check(demand, n_texts(found) == 1, f"{n_texts(found)} texts in {len(found)} answers", found[-1])


@pytest.mark.parametrize("how", HOW)
@requirement("PARAM-4", profile=SURFACE)
def test_choices_are_as_many_as_asked_for(demand: Requirement, answers: Answers, how: str) -> None:
    """A request for two answers brings two, or the word that it can't."""
    answer = answers.to(CHOSEN[how])
    if answer.status != 200:
        problem = refusal_problem(answer)
        check(demand, not problem, problem, answer)
        check(demand, param_of(answer) == "n", f"the refusal names {param_of(answer)!r}", answer)
        return
    choices = choices_of(answer)
    indexes = sorted(choices)

    check(demand, indexes == list(range(N_CHOICES)), f"choices {indexes}", answer)
    is_ended = all(choice.finish_reason for choice in choices.values())
    check(demand, is_ended, "a choice without finish_reason", answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("PARAM-5", profile=SURFACE)
def test_wrong_parameter_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """What can't be meant is the client's mistake, and is told so."""
    answer = answers.to(WRONG[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("PARAM-6", profile=SURFACE)
def test_wrong_parameter_is_named(demand: Requirement, answers: Answers, wrong: str) -> None:
    """The client is told which parameter, and perhaps where in it."""
    answer = answers.to(WRONG[wrong])
    if answer.status != 400:
        not_tested(f"status {answer.status}, no refusal")
    found, expected = param_of(answer), next(iter(WRONG_FIELDS[wrong]))

    check(demand, root_of(found) == expected, f"param {found!r}", answer)


@pytest.mark.parametrize("asked", DEMANDING)
@requirement("PARAM-7", profile=SURFACE)
def test_demanding_parameter_is_heeded(demand: Requirement, answers: Answers, asked: str) -> None:
    """What changes the answer shows in it, or is refused."""
    answer = answers.to(DEMANDING[asked])
    if answer.status == 200:
        is_heeded, choice = HONOURED[asked](answer, answers), choice_of(answer)
        if not is_heeded and choice.finish_reason == "length" and not choice.text.strip():
            not_tested("the answer was cut before it began")
        check(demand, is_heeded, f"{asked}: nothing of it", answer)
        return
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("form", CONVERSED)
@requirement("PARAM-8", profile=SURFACE)
def test_conversation_is_answered(demand: Requirement, answers: Answers, form: str) -> None:
    """Each role and form of content that chat clients send is taken."""
    answer = answers.to(CONVERSED[form])
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@requirement("PARAM-9", profile=SURFACE)
def test_stream_says_the_same(demand: Requirement, answers: Answers) -> None:
    """Without chance in it, an answer doesn't depend on how it comes."""
    whole, streamed = (answers.to(SAME[how]) for how in HOW)
    if whole.status != 200 or streamed.status != 200:
        not_tested(f"status {whole.status} whole, {streamed.status} streamed")
    one, other = choice_of(whole), choice_of(streamed)

    check(demand, one.text == other.text, f"whole {one.text!r}, not {other.text!r}", streamed)
    reasons = f"ends as {one.finish_reason!r} whole, {other.finish_reason!r} streamed"
    check(demand, one.finish_reason == other.finish_reason, reasons, streamed)


@pytest.mark.parametrize("field", HARMLESS)
@requirement("PARAM-10", profile=SURFACE)
def test_harmless_field_changes_nothing(demand: Requirement, answers: Answers, field: str) -> None:
    """The answer is the one without the field."""
    answer, plain = answers.to(HARMLESS[field]), answers.to(SAME["whole"])
    found, expected = choice_of(answer).text, choice_of(plain).text

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, found == expected, f"{found!r} instead of {expected!r}", answer)


@pytest.mark.parametrize("how", HOW)
@requirement("PARAM-11", profile=SURFACE)
def test_all_choices_are_counted(demand: Requirement, answers: Answers, how: str) -> None:
    """Two answers cost more than one, but the prompt is read once."""
    single, answer = answers.to(SAME[how]), answers.to(CHOSEN[how])
    if answer.status == 400:
        inapplicable("several choices are refused")
    counts = [
        [usage_of(each).get(f"{part}_tokens") for part in ("prompt", "completion")]
        for each in (answer, single)
    ]
    (n_prompt, n_tokens), (n_prompt_alone, n_alone) = counts
    if not is_count(n_tokens) or not is_count(n_alone):
        not_tested("no usage says how many tokens there are")

    check(demand, n_tokens > n_alone, f"completion_tokens {n_tokens}, alone {n_alone}", answer)
    is_once = n_prompt == n_prompt_alone
    check(demand, is_once, f"prompt_tokens {n_prompt}, alone {n_prompt_alone}", answer)


@pytest.mark.parametrize("asked", DEMANDING)
@requirement("PARAM-12", profile=SURFACE)
def test_unsupported_parameter_is_named(demand: Requirement, answers: Answers, asked: str) -> None:
    """The client is told what it has to do without."""
    answer = answers.to(DEMANDING[asked])
    if answer.status == 200:
        inapplicable("it isn't refused")
    if answer.status != 400:
        not_tested(f"status {answer.status}, no refusal")
    found = param_of(answer)

    check(demand, root_of(found) in NAMES[asked], f"param {found!r}", answer)


@pytest.mark.closing
@requirement("PARAM-13", profile=SURFACE)
def test_only_the_bound_cuts(demand: Requirement, server: Server, answers: Answers) -> None:
    """Of all chats that were seen in this run, none says that it was cut where it wasn't."""
    answers.of("completion")
    n_checked, context = 0, context_of(models_in(answers.of("models")), server.model)
    for answer, bound in bounded(server.journal.seen):
        n_tokens, n_all = (
            usage_of(answer).get(f"{part}_tokens") for part in ("completion", "total")
        )
        if context and is_count(n_all) and n_all >= context:
            continue  # the context's end cut it
        if is_count(n_tokens) and n_tokens < bound:
            n_checked += 1
            is_cut = choice_of(answer).finish_reason == "length"
            check(demand, not is_cut, f"{n_tokens} of {bound} tokens, ends as 'length'", answer)
    if not n_checked:
        answers.demand_chat()
        not_tested("no answer was shorter than its bound")


@requirement("PARAM-16", profile=SURFACE)
def test_own_answer_is_taken_back(demand: Requirement, answers: Answers) -> None:
    """A client keeps the message that it got, and sends it with its next question."""
    first = answers.to(SAME["whole"])
    (choice, *_) = mappings(first.fields().get("choices")) or [{}]
    message = mapping(choice.get("message"))
    if first.status != 200 or not message.get("content"):
        not_tested("there was no answer to send back")
    answer = answers.to(given_back(message))
    problem = completion_problem(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("more", READ)
@requirement("PARAM-17", profile=SURFACE)
def test_each_message_is_read(demand: Requirement, answers: Answers, more: str) -> None:
    """A chat template may leave out what it has no place for; the server may not."""
    shorter, longer = (answers.to(question) for question in READ[more])
    if shorter.status != 200 or not n_prompt_tokens(shorter):
        not_tested(f"the shorter conversation: status {shorter.status}, no count")
    if longer.status == 400:
        problem = refusal_problem(longer)
        check(demand, not problem, problem, longer)
        return
    counts = n_prompt_tokens(shorter), n_prompt_tokens(longer)

    check(demand, longer.status == 200, f"status {longer.status}", longer)
    check(demand, counts[0] < counts[1], f"{counts[1]} tokens, and {counts[0]} without it", longer)
