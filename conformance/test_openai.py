"""OAI: the OpenAI surface, as far as the guide promises it."""

from typing import NamedTuple

import pytest

from conformance.answers import ERRORS, GREETING, JSON_TYPE, UNKNOWN_ROUTE, Answers
from conformance.catalogue import OF_ANY, Requirement
from conformance.client import CHAT, Exchange, Server
from conformance.crowd import Pace
from conformance.lag import Lag
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
N_STREAMED = (64, 256, 256, 1024)
N_SEEN = 2
N_LEAVING = 12  # more than the permits that servers have by themselves
N_LEFT_TOKENS = 256
N_LAGS = 5
MEASURABLE_S = 0.06
SHARE_SEEN = 0.25
ACCEPTS = ["application/json", "application/xml", "text/html", "text/event-stream", "*/*"]


def streamed(answers: Answers, kind: str) -> Exchange:
    """Return a stream whose framing is right; leave the check open where it isn't."""
    answer = answers.truly_of(kind)
    if problem := framing_problem(answer):
        not_tested(f"the stream can't be read: {problem}")
    return answer


@requirement("OAI-1", profile=OF_ANY)
def test_completion_has_its_shape(demand: Requirement, answers: Answers) -> None:
    """A chat completion is what OpenAI's clients expect."""
    answer = answers.of("completion")
    problem = completion_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("aspect", STREAM_ASPECTS)
@requirement("OAI-2", profile=OF_ANY)
def test_stream_has_its_shape(demand: Requirement, answers: Answers, aspect: str) -> None:
    """A stream is events of chunks: a role, deltas, one finish reason, one [DONE]."""
    answer = answers.of("stream")
    problem = STREAM_ASPECTS[aspect](answer)

    check(demand, not problem, f"{aspect}: {problem}", answer)


@requirement("OAI-2", profile=OF_ANY)
def test_stream_ends_with_usage_on_request(demand: Requirement, answers: Answers) -> None:
    """With include_usage, a last chunk without choices carries the usage."""
    answer = streamed(answers, "usage-stream")
    problem = usage_chunk_problem(answer)

    check(demand, not problem, problem, answer)


class Flow(NamedTuple):
    """How long a stream took, its text took to come, and this machine was late meanwhile, at worst."""

    total_s: float
    lasted_s: float
    lag_s: float


def flow(server: Server, n_tokens: int) -> Flow | None:
    """Stream so many tokens, or to the answer's own end; return None where that is refused."""
    with Lag() as lag:
        stream = Pace(n_tokens, {}).stream(server).run()
    if stream.was_refused:
        return None
    if not stream.answer or not stream.times:
        not_tested(f"asked for a stream, got {stream.error or stream.answer}")
    return Flow(stream.answer.total_s, stream.lasted_s, lag.worst_s)


@requirement("OAI-6", profile=OF_ANY)
def test_stream_comes_while_it_is_generated(demand: Requirement, server: Server) -> None:
    """The time that more tokens take is time in which a client sees some of them."""
    shortest = flow(server, 1) or not_tested("a stream of one token is refused")
    seen, lag_s = [], 0.0
    for n_tokens in N_STREAMED:
        if not (found := flow(server, n_tokens)):
            break  # longer than the context
        generated_s = found.total_s - shortest.total_s
        if generated_s < MEASURABLE_S:
            continue
        if generated_s < N_LAGS * found.lag_s:
            lag_s = max(lag_s, found.lag_s)
            continue
        if found.lasted_s >= generated_s * SHARE_SEEN:
            return
        seen.append(
            f"{n_tokens} tokens took {generated_s:.2f} s, their text {found.lasted_s:.3f} s"
        )
    if len(seen) < N_SEEN and lag_s:
        not_tested(f"this machine is up to {lag_s:.2f} s late, too much to tell")
    if len(seen) < N_SEEN:
        inapplicable("it is so fast that nobody sees the difference")

    check(demand, False, "; ".join(seen))


@pytest.mark.closing  # a server that fails it answers nobody any more
@requirement("OAI-7", profile="openai-api")
def test_who_leaves_takes_nothing_along(demand: Requirement, server: Server) -> None:
    """After more than can be served at once have hung up, a chat is answered as before."""
    for n_left in range(N_LEAVING):
        stream = Pace(N_LEFT_TOKENS, {}).stream(server)
        stream.leaves_early = True
        if not stream.run().times:
            if not n_left:
                not_tested(f"asked for a stream, got {stream.error or stream.answer}")
            break
    answer = server.chat(GREETING, max_tokens=1)

    check(demand, answer.status == 200, f"status {answer.status} after {N_LEAVING} left", answer)


@pytest.mark.parametrize("body", NOT_JSON)
@requirement("OAI-3", profile=OF_ANY)
def test_invalid_json_is_refused(demand: Requirement, server: Server, body: str) -> None:
    """A body that can't be read is the client's mistake, and is told so in the envelope."""
    answer = server.send(server.request("POST", CHAT, [JSON_TYPE], NOT_JSON[body]))
    problem = envelope_problem(answer)

    check(demand, answer.status == 400, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("accept", ACCEPTS)
@requirement("OAI-4", profile=OF_ANY)
def test_unknown_route_is_not_found(demand: Requirement, server: Server, accept: str) -> None:
    """An unknown route answers in JSON, whatever the client would rather have."""
    answer = server.get(UNKNOWN_ROUTE, [("Accept", accept)])
    problem = envelope_problem(answer)

    check(demand, answer.status == 404, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("kind", ERRORS)
@requirement("OAI-4", profile=OF_ANY)
def test_error_has_the_envelope(demand: Requirement, answers: Answers, kind: str) -> None:
    """So does every other error that can be had for nothing."""
    answer = answers.truly_of(kind)
    problem = envelope_problem(answer)

    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("kind", ["completion", "usage-stream"])
@requirement("OAI-5", profile=OF_ANY)
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
