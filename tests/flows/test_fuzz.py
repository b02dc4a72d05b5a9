"""A little of what `tests/fuzz` does for as long as there is time."""

from __future__ import annotations

from tests.fuzz import raw
from tests.fuzz.__main__ import run
from tests.fuzz.accounts import left_over
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


def test_bytes_that_are_hardly_http(server: LiveServer) -> None:
    """A response or an end is all that comes of them, and nothing is left over."""
    engine = server.engine_pid()
    _, faults = raw.run(server, range(150), seed=1, n_clients=8, patience_s=0.5)

    assert [] == faults
    assert left_over(server) is None
    assert engine == server.engine_pid()
    assert "Traceback" not in server.log_text()


def test_request_is_made_of_its_number_alone() -> None:
    """So that one that found a fault can be sent again."""
    assert request(7, 1) == request(7, 1)
    assert raw.conversation(7, 1) == raw.conversation(7, 1)
    assert 40 < len({request(number, 1) for number in range(50)})


def test_judge_of_a_soak_sees_a_leak() -> None:
    """What settles and what swings is no growth; what grows steadily is, however slowly."""
    settled = [100 + min(i, 40) + (i % 7) for i in range(300)]
    leaking = [100 + min(i, 40) + (i % 7) + i / 8 for i in range(300)]

    assert abs(growth_mb(settled)) < 5
    assert growth_mb(leaking) > MAX_GROWTH_MB
