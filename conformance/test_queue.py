"""QUEUE: how many generate, how many wait, for how long, and what the others are told."""

from conformance.catalogue import Requirement
from conformance.crowd import pace_of
from conformance.launch import Launched, Launcher, Turned
from conformance.openai_shapes import envelope_problem
from conformance.queueing import (
    AT_ONCE_S,
    ONE,
    filled,
    n_at_once,
    size_problem,
    timeout_problem,
    waiting,
)
from conformance.trials import started
from conformance.verdicts import check, requirement

TIMEOUT_S = 1
N_PLACES = 2
TWO = Turned(environment={"MAX_CONCURRENCY": "2"})
IMPATIENT = Turned(environment=ONE | {"QUEUE_TIMEOUT": str(TIMEOUT_S)})
SMALL = Turned(environment=ONE | {"QUEUE_SIZE": str(N_PLACES)})
TOO_LATE = {408, 429, 503, 504}


@requirement("QUEUE-1", profile="managed")
def test_no_more_generate_than_allowed(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """Of many streams only as many speak at the same time as have a permit."""
    pace = pace_of(launched.server)
    n = n_at_once(started(demand, launcher, TWO).server, pace)

    check(demand, n <= 2, f"{n} streams spoke at once with {TWO}")


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
        is_at_once = stream.answer.total_s <= AT_ONCE_S
        check(demand, is_at_once, f"after {stream.answer.total_s:.2f} s", stream.answer)
