"""TOOLS: functions that a model asks to have called."""

from typing import Any

import pytest

from conformance.answers import Answers
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange, read_json
from conformance.openai_shapes import completion_problem
from conformance.questions.tools import (
    CALLED,
    CALLED_ONCE,
    CUT,
    LAMP,
    PARAMETERS,
    UNCALLED,
    WRONG_CALLS,
    given_back,
)
from conformance.shapes.choices import choice_of, mapping, refusal_problem, text
from conformance.shapes.forms import form_problem
from conformance.shapes.tools import calls_problem, delta_problem
from conformance.verdicts import check, not_tested, requirement

GIVEN: dict[str, object] = {
    "text": "14 degrees",
    "list": [{"type": "text", "text": "14 "}, {"type": "text", "text": "degrees"}],
}


def called(answers: Answers, how: str) -> Exchange:
    """Return an answer that must call a tool; leave the check open where it was cut in the call."""
    answer = answers.to(CALLED[how])
    choice = choice_of(answer)
    if choice.finish_reason == "length" and (choice.calls or not choice.text):
        not_tested("the call was cut before its end")
    return answer


def calls_of(answers: Answers, how: str) -> list[dict[str, Any]]:
    """Return its calls; leave the check open where there are none that can be read."""
    choice = choice_of(called(answers, how))
    if problem := calls_problem(choice, PARAMETERS):
        not_tested(problem)
    return choice.calls


@requirement("TOOLS-1", profile=SURFACE)
def test_forced_call_has_its_shape(demand: Requirement, answers: Answers) -> None:
    """A tool that must be called is called, whatever the model makes of the question."""
    answer = called(answers, "required")
    choice = choice_of(answer)
    problem = completion_problem(answer) or calls_problem(choice, PARAMETERS)

    check(demand, not problem, problem, answer)
    reason = choice.finish_reason
    check(demand, reason == "tool_calls", f"ends as {reason!r}", answer)


@requirement("TOOLS-2", profile=SURFACE)
def test_named_tool_is_called(demand: Requirement, answers: Answers) -> None:
    """The function that the client names is the one that is called."""
    answer = called(answers, "named")
    choice = choice_of(answer)
    problem = calls_problem(choice, [LAMP])

    check(demand, not problem, problem, answer)
    # OpenAI's own interface ends a named call as stop.
    is_ended = choice.finish_reason in {"tool_calls", "stop"}
    check(demand, is_ended, f"ends as {choice.finish_reason!r}", answer)


@pytest.mark.parametrize("how", UNCALLED)
@requirement("TOOLS-3", profile=SURFACE)
def test_no_tool_is_called(demand: Requirement, answers: Answers, how: str) -> None:
    """Where calls are ruled out, there is text."""
    answer = answers.to(UNCALLED[how])
    choice = choice_of(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not choice.calls, "a tool call", answer)
    reason = choice.finish_reason
    check(demand, reason in {"stop", "length"}, f"ends as {reason!r}", answer)


@pytest.mark.parametrize("how", CALLED)
@requirement("TOOLS-4", profile=SURFACE)
def test_arguments_fit_the_parameters(demand: Requirement, answers: Answers, how: str) -> None:
    """What the tool gets is what it said that it takes."""
    calls, answer = calls_of(answers, how), answers.to(CALLED[how])
    for call in calls:
        name, arguments = call["function"]["name"], call["function"]["arguments"]

        is_object = isinstance(read_json(arguments), dict)
        check(demand, is_object, f"{name}: no JSON object: {arguments}", answer)
        problem = form_problem(arguments, PARAMETERS[name])
        check(demand, not problem, f"{name}: {problem}", answer)


@requirement("TOOLS-5", profile=SURFACE)
def test_streamed_call_comes_in_deltas(demand: Requirement, answers: Answers) -> None:
    """Put together by index, the deltas are whole calls."""
    answer = called(answers, "streamed")
    choice = choice_of(answer)
    problem = delta_problem(answer) or calls_problem(choice, PARAMETERS)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)
    reason = choice.finish_reason
    check(demand, reason == "tool_calls", f"ends as {reason!r}", answer)


@pytest.mark.parametrize("form", GIVEN)
@requirement("TOOLS-6", profile=SURFACE)
def test_result_is_taken_back(demand: Requirement, answers: Answers, form: str) -> None:
    """The model's own call and its result are a conversation that goes on."""
    call, *_ = calls_of(answers, "required")
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = answers.to(given_back(message, call["id"], GIVEN[form]))
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@requirement("TOOLS-7", profile=SURFACE)
def test_ids_of_calls_are_their_own(demand: Requirement, answers: Answers) -> None:
    """Results are given back by id, so no id can mean two calls."""
    ids = [call["id"] for how in CALLED for call in calls_of(answers, how)]

    check(demand, len(set(ids)) == len(ids), f"ids {ids}", answers.to(CALLED["required"]))


@requirement("TOOLS-8", profile=SURFACE)
def test_calls_come_one_at_a_time(demand: Requirement, answers: Answers) -> None:
    """A client that can't do two things at once isn't asked to."""
    answer = answers.to(CALLED_ONCE)
    n_calls = len(choice_of(answer).calls)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, n_calls <= 1, f"{n_calls} calls", answer)


@pytest.mark.parametrize("wrong", WRONG_CALLS)
@requirement("TOOLS-9", profile=SURFACE)
def test_wrong_choice_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """A call that can't come about is the client's mistake."""
    answer = answers.to(WRONG_CALLS[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", CUT)
@requirement("TOOLS-10", profile=SURFACE)
def test_cut_call_says_so(demand: Requirement, answers: Answers, how: str) -> None:
    """No client shall make a call that isn't whole."""
    answer = answers.to(CUT[how])
    reason = choice_of(answer).finish_reason

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, reason == "length", f"ends as {reason!r}", answer)


@pytest.mark.parametrize("how", CUT)
@requirement("TOOLS-11", profile=SURFACE)
def test_cut_call_leaves_nothing_broken(demand: Requirement, answers: Answers, how: str) -> None:
    """A client that shows the content shows no markup, and one that reads arguments can go on."""
    answer = answers.to(CUT[how])
    choice = choice_of(answer)
    check(demand, not choice.text, f"text: {choice.text}", answer)
    for call in choice.calls:
        arguments = text(mapping(call.get("function")).get("arguments"))

        check(demand, arguments[:1] in {"", "{"}, f"no JSON object: {arguments}", answer)
