"""OAI: the OpenAI surface, as far as the guide promises it."""

import pytest

from conformance.answers import ERRORS, JSON_TYPE, UNKNOWN_ROUTE, Answers
from conformance.catalogue import Requirement
from conformance.client import CHAT, Exchange, Server
from conformance.crowd import Pace
from conformance.openai_shapes import (
    choice_problem,
    chunk_problem,
    chunks,
    completion_problem,
    envelope_problem,
    framing_problem,
    sum_problem,
    usage_chunk_problem,
)
from conformance.verdicts import check, inapplicable, not_tested, requirement

STREAM_ASPECTS = {"framing": framing_problem, "chunks": chunk_problem, "choices": choice_problem}
NOT_JSON = {
    "cut": b'{"model": "gemma", "messages": [',
    "empty": b"",
    "words": b"hello",
    "trailing": b'{"messages": []} {}',
}
N_STREAMED = (64, 256, 512, 1024)
N_SEEN = 2
IGNORING_THE_END = {"ignore_eos": True}
MEASURABLE_S = 0.06
SHARE_SEEN = 0.25
ACCEPTS = ["application/json", "application/xml", "text/html", "text/event-stream", "*/*"]


def streamed(answers: Answers, kind: str) -> Exchange:
    """Return a stream whose framing is right; leave the check open where it isn't."""
    answer = answers.truly_of(kind)
    if problem := framing_problem(answer):
        not_tested(f"the stream can't be read: {problem}")
    return answer


@requirement("OAI-1")
def test_completion_has_its_shape(demand: Requirement, answers: Answers) -> None:
    """A chat completion is what OpenAI's clients expect."""
    answer = answers.of("completion")
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("aspect", STREAM_ASPECTS)
@requirement("OAI-2")
def test_stream_has_its_shape(demand: Requirement, answers: Answers, aspect: str) -> None:
    """A stream is events of chunks: a role, deltas, one finish reason, one [DONE]."""
    answer = answers.of("stream")
    problem = STREAM_ASPECTS[aspect](answer)

    check(demand, not problem, f"{aspect}: {problem}", answer)


@requirement("OAI-2")
def test_stream_ends_with_usage_on_request(demand: Requirement, answers: Answers) -> None:
    """With include_usage, a last chunk without choices carries the usage."""
    answer = streamed(answers, "usage-stream")
    problem = usage_chunk_problem(answer)

    check(demand, not problem, problem, answer)


def streamed_for(server: Server, n_tokens: int) -> tuple[float, float] | None:
    """Return how long a stream took, and how long its text took to come; None where it is refused."""
    streams = (Pace(n_tokens, fields).stream(server).run() for fields in (IGNORING_THE_END, {}))
    found = next((stream for stream in streams if not stream.was_refused), None)
    if not found:
        return None
    if not found.answer or not found.times:
        not_tested(f"asked for a stream, got {found.error or found.answer}")
    return found.answer.total_s, found.lasted_s


@requirement("OAI-6")
def test_stream_comes_while_it_is_generated(demand: Requirement, server: Server) -> None:
    """The time that more tokens take is time in which a client sees some of them."""
    shortest = streamed_for(server, 1) or not_tested("a stream of one token is refused")
    seen = []
    for n_tokens in N_STREAMED:
        if not (found := streamed_for(server, n_tokens)):
            break  # longer than the context
        generated_s, lasted_s = found[0] - shortest[0], found[1]
        if generated_s >= MEASURABLE_S and lasted_s >= generated_s * SHARE_SEEN:
            return
        if generated_s >= MEASURABLE_S:
            seen.append(f"{n_tokens} tokens took {generated_s:.2f} s, their text {lasted_s:.3f} s")
    if len(seen) < N_SEEN:
        inapplicable("it is so fast that nobody sees the difference")

    check(demand, False, "; ".join(seen))


@pytest.mark.parametrize("body", NOT_JSON)
@requirement("OAI-3")
def test_invalid_json_is_refused(demand: Requirement, server: Server, body: str) -> None:
    """A body that can't be read is the client's mistake, and is told so in the envelope."""
    answer = server.send(server.request("POST", CHAT, [JSON_TYPE], NOT_JSON[body]))
    problem = envelope_problem(answer)

    check(demand, answer.status == 400, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("accept", ACCEPTS)
@requirement("OAI-4")
def test_unknown_route_is_not_found(demand: Requirement, server: Server, accept: str) -> None:
    """An unknown route answers in JSON, whatever the client would rather have."""
    answer = server.get(UNKNOWN_ROUTE, [("Accept", accept)])
    problem = envelope_problem(answer)

    check(demand, answer.status == 404, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("kind", ERRORS)
@requirement("OAI-4")
def test_error_has_the_envelope(demand: Requirement, answers: Answers, kind: str) -> None:
    """So does every other error that can be had for nothing."""
    answer = answers.truly_of(kind)
    problem = envelope_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("kind", ["completion", "usage-stream"])
@requirement("OAI-5")
def test_total_is_the_sum(demand: Requirement, answers: Answers, kind: str) -> None:
    """Prompt and completion make the total, streamed or not."""
    if kind == "completion":
        answer = answers.truly_of(kind)
        usage = answer.fields().get("usage")
    else:
        answer = streamed(answers, kind)
        usage = chunks(answer)[-1].get("usage")
    problem = sum_problem(usage)

    check(demand, not problem, problem, answer)
