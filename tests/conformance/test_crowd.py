"""How many streams spoke at the same time, as read by a machine that has much else to do."""

import heapq
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from conformance import crowd
from conformance.client import Request, Server
from conformance.crowd import Stream, most_at_once

PIECE = b'data: {"choices": [{"delta": {"content": "word "}}]}\n\n'
N_STREAMS, N_PIECES = 4, 24
STEP_S = 0.005
LASTS_S = N_PIECES * STEP_S


def spoken(n_permits: int) -> list[list[float]]:
    """Return when a server with so many permits sends each piece of each stream."""
    free_s = [0.0] * n_permits
    found = []
    for _ in range(N_STREAMS):
        begins_s = heapq.heappop(free_s)
        found.append([begins_s + STEP_S * (at + 1) for at in range(N_PIECES)])
        heapq.heappush(free_s, found[-1][-1])
    return found


def heard(
    sent_s: list[float], late: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> Stream:
    """Return the stream that a client reads who looks *late*, and once more is late until it has the time."""

    class Late:
        def send(self, _: Request, on_piece: Callable[[bytes], None]) -> None:
            left = list(sent_s)
            now_s = 0.0
            while left:
                now_s = max(now_s, left[0]) + late()
                come = sum(each <= now_s for each in left)
                now_s += late()
                clock = SimpleNamespace(monotonic=lambda now_s=now_s: now_s)
                monkeypatch.setattr(crowd, "time", clock)
                on_piece(PIECE * come)
                left = left[come:]

    return Stream(cast(Server, Late()), cast(Request, None)).run()


@pytest.mark.parametrize("late_s", [0.0001, 0.2 * LASTS_S, LASTS_S, 5 * LASTS_S])
@pytest.mark.parametrize("n_permits", [1, 2])
def test_permits_that_are_kept_are_seen_as_kept(
    n_permits: int, late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late each read is, on an average, by itself."""
    for seed in range(100):
        chance = random.Random(seed)
        late = lambda chance=chance: chance.expovariate(1 / late_s)  # noqa: E731
        streams = [heard(sent_s, late, monkeypatch) for sent_s in spoken(n_permits)]

        assert most_at_once(streams) <= n_permits, seed


@pytest.mark.parametrize("n_spoken", [2, 3, 4])
def test_one_too_many_is_seen(n_spoken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reads are late by some pieces, too."""
    for seed in range(20):
        chance = random.Random(seed)
        late = lambda chance=chance: chance.expovariate(1 / STEP_S)  # noqa: E731
        streams = [heard(sent_s, late, monkeypatch) for sent_s in spoken(n_spoken)]

        assert most_at_once(streams) == n_spoken, seed
