"""A few hundred requests that are nearly right; `python -m tests.fuzz` sends as many as there is time for."""

from __future__ import annotations

from tests.fuzz.__main__ import run
from tests.fuzz.requests import request
from tests.fuzz.soak import MAX_GROWTH_MB, growth_mb
from tests.live import LiveServer

N_REQUESTS = 300


def test_requests_that_are_nearly_right(server: LiveServer) -> None:
    """None of them is answered by a fault of ours, and the engine is the same after."""
    engine = server.engine_pid()
    seen, faults = run(server.url, range(N_REQUESTS), seed=1, n_clients=4)

    assert [] == faults
    assert {200, 400} <= seen.keys()
    assert engine == server.engine_pid()


def test_request_is_made_of_its_number_alone() -> None:
    """So that one that found a fault can be sent again."""
    assert request(7, 1) == request(7, 1)
    assert 40 < len({request(number, 1) for number in range(50)})


def test_judge_of_a_soak_sees_a_leak() -> None:
    """What settles and what swings is no growth; what grows steadily is, however slowly."""
    settled = [100 + min(i, 40) + (i % 7) for i in range(300)]
    leaking = [100 + min(i, 40) + (i % 7) + i / 8 for i in range(300)]

    assert abs(growth_mb(settled)) < 5
    assert growth_mb(leaking) > MAX_GROWTH_MB
