"""MSG: messages, as Anthropic's clients send and expect them."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import Requirement
from conformance.client import Exchange
from conformance.openai_shapes import is_count
from conformance.questions.chat import BOUND
from conformance.questions.messages import (
    CALLED,
    CONVERSED,
    COUNTED,
    CUT,
    LENGTHS,
    LONG,
    N_TOKENS,
    SAID,
    STREAMED_CALL,
    UNSTOPPED,
    USED,
    WRONG,
    given_back,
    gone_on,
    message,
)
from conformance.questions.stops import N_STOP, SEQUENCES, place_to_stop
from conformance.questions.tools import LAMP, PARAMETERS
from conformance.shapes.choices import mapping
from conformance.shapes.messages import (
    ending_problem,
    error_problem,
    framing_problem,
    message_of,
    message_problem,
    order_problem,
    text_of,
    uses_of,
    uses_problem,
)
from conformance.verdicts import check, not_tested, requirement

STREAM_ASPECTS = {"framing": framing_problem, "order": order_problem, "ending": ending_problem}
OFFERED = {"any": list(PARAMETERS), "named": [LAMP]}
GIVEN: dict[str, object] = {"text": "14 degrees", "blocks": [{"type": "text", "text": "14"}]}


def final(answer: Exchange) -> str:
    """Look at the message that an answer comes to."""
    if answer.status != 200:
        return f"status {answer.status}"
    return message_problem(message_of(answer))


def count_of(answer: Exchange) -> int:
    """Return how many tokens an input was counted to be; leave the check open where it wasn't."""
    body = answer.fields()
    told = mapping(body.get("usage", body))
    count = told.get("input_tokens")
    cached = [told.get(name) for name in ("cache_read_input_tokens", "cache_creation_input_tokens")]
    if is_count(count):  # what comes from a cache is told apart from it
        return int(count) + sum(each for each in cached if is_count(each))
    return not_tested(f"status {answer.status}, no input_tokens")


def uncut(answer: Exchange) -> Exchange:
    """Return an answer that must use a tool; leave the check open where it was cut in that."""
    message = message_of(answer)
    is_use = bool(uses_of(answer)) or not message.get("content")
    if message.get("stop_reason") == "max_tokens" and is_use:
        not_tested("the use was cut before its end")
    return answer


@requirement("MSG-1", profile="openai")
def test_message_has_its_shape(demand: Requirement, answers: Answers) -> None:
    """A message is what Anthropic's clients expect."""
    answer = answers.to(SAID["whole"])
    problem = final(answer)

    check(demand, not problem, problem, answer)
    check(demand, bool(text_of(answer)), "no text", answer)


@pytest.mark.parametrize("aspect", STREAM_ASPECTS)
@requirement("MSG-2", profile="openai")
def test_events_are_in_order(demand: Requirement, answers: Answers, aspect: str) -> None:
    """What opens is closed, under names that clients listen for."""
    answer = answers.to(SAID["streamed"])
    problem = STREAM_ASPECTS[aspect](answer)

    check(demand, not problem, f"{aspect}: {problem}", answer)


@pytest.mark.parametrize("how", CUT)
@requirement("MSG-3", profile="openai")
def test_message_is_bounded(demand: Requirement, answers: Answers, how: str) -> None:
    """A message that had more to say tells that it was cut."""
    answer = answers.to(CUT[how])
    found = message_of(answer)
    n_tokens = mapping(found.get("usage")).get("output_tokens")
    if final(answer) or not is_count(n_tokens):
        not_tested(final(answer))

    check(demand, n_tokens <= BOUND, f"{n_tokens} tokens, {BOUND} at most", answer)
    if n_tokens < BOUND:
        not_tested(f"the model had no more to say than {n_tokens} tokens")
    reason = found.get("stop_reason")
    check(demand, reason == "max_tokens", f"stop_reason {reason!r}", answer)


@pytest.mark.parametrize("how", SEQUENCES)
@requirement("MSG-4", profile="openai")
def test_message_ends_at_stop_sequence(demand: Requirement, answers: Answers, how: str) -> None:
    """With a piece of its own text as stop, a message ends right before it, and says at which."""
    unstopped = text_of(answers.to(UNSTOPPED))
    at = place_to_stop(unstopped)
    if at < 0:
        not_tested("the model says nothing to stop at")
    stop = unstopped[at : at + N_STOP]
    answer = answers.to(message({**LONG, "max_tokens": N_TOKENS, **SEQUENCES[how](stop)}))
    found, said = message_of(answer), text_of(answer)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, said.rstrip() == unstopped[:at].rstrip(), f"not at {stop!r}", answer)
    reason, sequence = found.get("stop_reason"), found.get("stop_sequence")
    check(demand, reason == "stop_sequence", f"stop_reason {reason!r}", answer)
    check(demand, sequence == stop, f"stop_sequence {sequence!r} instead of {stop!r}", answer)


@pytest.mark.parametrize("form", CONVERSED)
@requirement("MSG-5", profile="openai")
def test_conversation_is_answered(demand: Requirement, answers: Answers, form: str) -> None:
    """Each form of instructions and turns that clients send is taken."""
    answer = answers.to(CONVERSED[form])
    problem = final(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("choice", CALLED)
@requirement("MSG-6", profile="openai")
def test_forced_tool_is_used(demand: Requirement, answers: Answers, choice: str) -> None:
    """A tool that must be used is used, whatever the model makes of the question."""
    answer = uncut(answers.to(CALLED[choice]))
    problem = uses_problem(answer, OFFERED[choice])

    check(demand, not problem, problem, answer)


@requirement("MSG-7", profile="openai")
def test_use_is_streamed_in_deltas(demand: Requirement, answers: Answers) -> None:
    """Put together, the deltas are the input of the tool that was named."""
    answer = uncut(answers.to(STREAMED_CALL))
    problem = order_problem(answer) or uses_problem(answer, [LAMP])

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("form", GIVEN)
@requirement("MSG-8", profile="openai")
def test_result_is_taken_back(demand: Requirement, answers: Answers, form: str) -> None:
    """The model's own use of tools and their results are a conversation that goes on."""
    used = answers.to(CALLED["any"])
    if problem := uses_problem(used, PARAMETERS):
        not_tested(problem)
    answer = answers.to(given_back(uses_of(used), GIVEN[form]))
    problem = final(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("wrong", WRONG)
@requirement("MSG-9", profile="openai")
def test_wrong_request_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """Errors are what Anthropic's clients tell their users."""
    answer = answers.refusal_of(wrong, WRONG[wrong])
    problem = error_problem(answer, 404 if wrong == "unknown-model" else 400)

    check(demand, not problem, problem, answer)


@requirement("MSG-10", profile="openai")
def test_input_is_counted(demand: Requirement, answers: Answers) -> None:
    """How much there is to read can be asked without having it read."""
    answer = answers.to(COUNTED["short"])
    count = answer.fields().get("input_tokens")

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, is_count(count) and count > 0, f"input_tokens {count}", answer)


@pytest.mark.parametrize("length", LENGTHS)
@requirement("MSG-11", profile="openai")
def test_counts_agree(demand: Requirement, answers: Answers, length: str) -> None:
    """The count beforehand is the one on the bill."""
    used, counted = answers.to(USED[length]), answers.to(COUNTED[length])
    found, expected = count_of(counted), count_of(used)

    check(demand, found == expected, f"{found} tokens, the message used {expected}", counted)


@requirement("MSG-12", profile="openai")
def test_own_message_is_taken_back(demand: Requirement, answers: Answers) -> None:
    """A client keeps the content that it got, and sends it with its next question."""
    first = answers.to(SAID["whole"])
    content = message_of(first).get("content")
    if first.status != 200 or not content:
        not_tested("there was no message to send back")
    answer = answers.to(gone_on(content))
    problem = final(answer)

    check(demand, not problem, problem, answer)
