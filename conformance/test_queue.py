"""QUEUE: how many generate, how many wait, for how long, and what the others are told."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance.answers import LONG_TASK, Answers, Question
from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Server
from conformance.crowd import Pace, pace_of
from conformance.launch import Launched, Launcher, Turned
from conformance.openai_shapes import envelope_problem
from conformance.questions.chat import chat
from conformance.questions.completions import completion
from conformance.questions.messages import message
from conformance.questions.responses import response
from conformance.queueing import (
    AT_ONCE_S,
    N_LAGS,
    ONE,
    filled,
    n_at_once,
    refused_by_full_queue,
    shortage,
    size_problem,
    timeout_problem,
    waiting,
)
from conformance.trials import started
from conformance.verdicts import Inapplicable, check, requirement

TIMEOUT_S = 1
N_PLACES = 2
N_BEYOND = 2  # so that it is full even where it has a place more than it should
N_TIMES = 3
SEVERAL = ("2", "3")
IMPATIENT = Turned(environment=ONE | {"QUEUE_TIMEOUT": str(TIMEOUT_S), "QUEUE_SIZE": "100"})
SMALL = Turned(environment=ONE | {"QUEUE_SIZE": str(N_PLACES)})
TOO_LATE = {408, 429, 503, 504}


@pytest.mark.parametrize("n_permits", SEVERAL)
@requirement("QUEUE-1", profile="managed")
def test_no_more_generate_than_allowed(
    demand: Requirement, launcher: Launcher, launched: Launched, n_permits: str
) -> None:
    """Of many streams only as many speak at the same time as have a permit."""
    pace, turned = pace_of(launched.server), Turned(environment={"MAX_CONCURRENCY": n_permits})
    n = n_at_once(started(demand, launcher, turned).server, pace, int(n_permits) + 2)

    check(demand, n <= int(n_permits), f"{n} streams spoke at once with {turned}")


@requirement("QUEUE-2", profile="managed")
def test_long_wait_is_refused(demand: Requirement, launcher: Launcher, launched: Launched) -> None:
    """Who has waited for too long is told so in time, and isn't generated for afterwards."""
    pace = pace_of(launched.server)
    crowd = waiting(started(demand, launcher, IMPATIENT).server, pace, TIMEOUT_S)

    problem = timeout_problem(crowd, pace, TIMEOUT_S)
    check(demand, not problem, f"{problem}, with {IMPATIENT}")
    for stream in crowd.refused:
        assert stream.answer
        problem = envelope_problem(stream.answer)
        check(demand, stream.answer.status in TOO_LATE, "another status", stream.answer)
        check(demand, not problem, problem, stream.answer)


@requirement("QUEUE-3", profile="managed")
def test_full_queue_refuses_at_once(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """Who finds every place taken needn't wait to be told, and is told when to come back."""
    pace = pace_of(launched.server)
    crowd = filled(started(demand, launcher, SMALL).server, pace, N_PLACES)

    problem = size_problem(crowd, N_PLACES)
    check(demand, not problem, f"{problem}, with {SMALL}")
    for stream in crowd.refused:
        assert stream.answer
        problem = envelope_problem(stream.answer)
        check(demand, stream.answer.status == 429, "another status", stream.answer)
        check(demand, not problem, problem, stream.answer)
        check(demand, bool(stream.answer.values("retry-after")), "no Retry-After", stream.answer)
        is_at_once = stream.answer.total_s <= AT_ONCE_S + N_LAGS * crowd.lag_s
        check(demand, is_at_once, f"after {stream.answer.total_s:.2f} s", stream.answer)


ASKED: dict[str, Question] = {
    "chat": chat({"max_tokens": 16}),
    "chat-streamed": chat({"max_tokens": 16, "stream": True}),
    "completion": completion({"max_tokens": 16}),
    "response": response(max_output_tokens=16),
    "message": message({"max_tokens": 16}),
}


@functools.cache
def behind_a_full_queue(
    server: Server, usual: Server
) -> dict[str, Exchange | NoAnswer | Inapplicable]:
    """Return what each kind of generation gets where nobody may wait any more."""
    answers = Answers(server)
    found: dict[str, Exchange | NoAnswer | Inapplicable] = {}
    probes = {}
    for name, question in ASKED.items():
        try:
            body = {"model": answers.capable_model(question.capability), **question.fields}
        except Inapplicable as reason:
            found[name] = reason
        else:
            probes[name] = server.json_request(question.path, body, question.headers)
    return found | refused_by_full_queue(server, pace_of(usual), N_PLACES + N_BEYOND, probes)


@pytest.mark.parametrize("kind", ASKED)
@requirement("QUEUE-4", profile="managed")
def test_every_generation_takes_its_turn(
    demand: Requirement, launcher: Launcher, launched: Launched, kind: str
) -> None:
    """Whole or streamed, by whichever route: nothing is generated past a full queue."""
    server = started(demand, launcher, SMALL).server
    answer = behind_a_full_queue(server, launched.server)[kind]
    if isinstance(answer, Inapplicable | NoAnswer):
        raise answer

    check(demand, answer.status in TOO_LATE, f"status {answer.status} with {SMALL}", answer)


def leave_streams(server: Server, pace: Pace) -> None:
    """Hang up in the middle of a stream, as often as there are permits and places."""
    for _ in range(1 + N_PLACES):
        stream = pace.stream(server, N_TIMES)
        stream.leaves_early = True
        stream.run()


def leave_whole_chats(server: Server, pace: Pace) -> None:
    """Hang up while an answer is awaited that comes as a whole."""
    request = server.chat_request(LONG_TASK, max_tokens=pace.n_tokens)
    for _ in range(1 + N_PLACES):
        server.abandon(request, pace.lasts_s / 2)


def leave_the_queue(server: Server, pace: Pace) -> None:
    """Hang up while waiting."""
    holder, request = pace.stream(server, N_TIMES), server.chat_request(LONG_TASK, max_tokens=1)
    with ThreadPoolExecutor(1 + N_PLACES) as pool:
        held = pool.submit(holder.run)
        holder.speaking.wait(server.timeout_s)
        for _ in range(N_PLACES):
            pool.submit(server.abandon, request, pace.lasts_s)
        held.result()


def be_refused(server: Server, pace: Pace) -> None:
    """Ask for what can't be meant."""
    for _ in range(1 + N_PLACES):
        server.chat(LONG_TASK, max_tokens=-1)


LEAVING: dict[str, Callable[[Server, Pace], None]] = {
    "stream": leave_streams,
    "whole": leave_whole_chats,
    "waiting": leave_the_queue,
    "refused": be_refused,
}


@pytest.mark.parametrize("way", LEAVING)
@requirement("QUEUE-5", profile="managed")
def test_who_leaves_takes_nothing_along(
    demand: Requirement, launcher: Launcher, launched: Launched, way: str
) -> None:
    """Permits and places of clients that hung up, or were refused, are there for others."""
    pace, server = pace_of(launched.server), started(demand, launcher, SMALL).server
    LEAVING[way](server, pace)
    missing = shortage(server, N_PLACES)
    if missing:
        launcher.stop()  # so that another way is tried with one that has all of its permits

    check(demand, not missing, f"not answered with {SMALL} after others had left: {missing}")
