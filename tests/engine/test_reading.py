"""How long a step may take, and who waits for whose prompt: `reading` and `pace`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from service.engine.cache.prefix_cache import Held, Ids
from service.engine.decoding.costs import ALONE_S, MAX_STEP_TOKENS, MIN_STEP_TOKENS, Line, Pace
from service.engine.scheduler.prefill import (
    Prompt,
    Readings,
    window_of,
)

NOTHING = Held(0, None, 0)


def span(n: int, tail: int = 0) -> Ids:
    """Return *n* tokens that all such begin with, and one that is *tail*."""
    return np.array([*range(n), 100_000 + tail], dtype=np.uint32)


def test_pace_keeps_a_step_about_as_short_as_a_decode_step() -> None:
    """Reading beside those who decode takes a small multiple of their own step; alone it takes its time."""
    pace = Pace()
    for _ in range(40):
        pace.learn(0.010, 0, 4)
        pace.learn(0.030, 100, 4)

    long = [9000]
    assert pace.n_tokens(long, 1, 4) == 64  # 15 ms and a quarter at 0.2 ms a token, a power of two
    assert pace.n_tokens(long * 2, 2, 4) == 32
    assert pace.n_tokens(long * 4, 4, 4) == 32
    assert pace.n_tokens(long, 12, 4) == 256
    assert pace.n_tokens(long, 1, 0) == 1 << int(math.log2(ALONE_S / 0.0002))


def test_short_prompts_are_read_in_even_parts() -> None:
    """Those that come together are read to their ends in the same step, with few tokens at a time."""
    pace = Pace()
    for _ in range(40):
        pace.learn(0.010, 0, 4)
        pace.learn(0.030, 100, 4)

    assert pace.n_tokens([100] * 8, 8, 4) == 25  # in four steps, not three of 28 and one of 16
    assert pace.n_tokens([21, 24] * 8, 16, 4) == 12
    assert pace.n_tokens([21, 24] * 4, 8, 4) == 24
    assert pace.n_tokens([5] * 8, 8, 4) == 5


def test_pace_knows_how_steps_grow_with_their_rows() -> None:
    """What few rows take is known from many, and reading isn't blamed for what others decode."""
    pace = Pace()
    for n_rows in (1, 8, 1, 8):
        pace.learn(0.004 + 0.001 * n_rows, 0, n_rows)
    for _ in range(40):
        pace.learn(0.004 + 0.016 + 0.020, 100, 16)

    assert pace.n_tokens([9000] * 16, 16, 16) == int(2 * 1.5 * 0.020 / 0.0002 / 16)


def test_pace_stays_within_bounds() -> None:
    """However slow or fast it is, something is read and no step is endless."""
    slow, fast = Pace(), Pace()
    for _ in range(40):
        slow.learn(10.0, 10, 0)
        fast.learn(1e-6, 1000, 0)

    assert slow.n_tokens([9000] * 8, 8, 0) == MIN_STEP_TOKENS
    assert fast.n_tokens([9000], 1, 0) == MAX_STEP_TOKENS
    assert Pace().n_tokens([], 0, 1) == MIN_STEP_TOKENS


def test_line_is_steady() -> None:
    """It keeps its slope where one number is all that is measured, and never says less than nothing."""
    line = Line()
    assert line.at(5) == 0

    for n in (2, 4):
        line.learn(n, 0.1 * n)
    for _ in range(2000):
        line.learn(2, 0.2)

    assert line.at(4) == pytest.approx(0.4)
    assert line.at(-100) == 0


def test_marks_stand_where_others_part() -> None:
    """Before its own end, and where what waits, is read or was seen goes another way."""
    readings = Readings(math.inf, is_keeping=True)

    assert readings.marks(span(200), NOTHING, []) == (200,)
    assert readings.marks(span(200), NOTHING, [span(80), span(120)]) == (120, 200)
    assert readings.marks(span(200), Held(0, None, 150), [span(80)]) == (150, 200)
    assert readings.marks(span(200), Held(100, None, 100), [span(120)]) == (200,)
    readings.prompts[1] = Prompt(span(90), 0, (90,))
    assert readings.marks(span(200), NOTHING, []) == (90, 200)
    assert readings.marks(span(200), NOTHING, [], 60) == (60, 90, 200)
    assert Readings(math.inf, is_keeping=False).marks(span(200), NOTHING, [span(80)]) == ()


@pytest.mark.parametrize(
    ("window", "n_read", "n_held", "is_coming"),
    [
        (math.inf, 0, 0, True),
        (math.inf, 100, 0, True),
        (math.inf, 100, 200, False),  # most all of it is there already
        (math.inf, 300, 0, False),  # it has passed its last mark
        (0, 0, 0, False),  # what it brings can't be cut, and goes another way
    ],
)
def test_who_gains_by_waiting_waits(
    window: float, n_read: int, n_held: int, is_coming: bool
) -> None:
    """If another prompt brings more than there is, sooner than it could be read."""
    readings = Readings(window, is_keeping=True)
    readings.prompts[1] = Prompt(span(300), n_read, (300,))
    like = np.concatenate([span(300)[:280], span(5, tail=1)])

    assert readings.is_coming(like, n_held) is is_coming


def test_long_detours_are_not_waited_for() -> None:
    """A prompt that shares little with a very long one reads it for itself."""
    readings = Readings(math.inf, is_keeping=True)
    readings.prompts[1] = Prompt(span(5000), 0, (5000,))

    assert not readings.is_coming(span(100, tail=1), 0)


def test_copies_are_taken_for_others_or_where_they_will_never_be() -> None:
    """At a mark: if someone waits who begins alike, or if nothing longer can be cut to it."""
    at_mark, between = Prompt(span(300), 200, (200, 300)), Prompt(span(300), 150, (200, 300))
    endless, short = Readings(math.inf, is_keeping=True), Readings(64, is_keeping=True)

    assert not endless.is_wanted(at_mark, [])
    assert endless.is_wanted(at_mark, [span(250, tail=1)])
    assert not endless.is_wanted(at_mark, [span(4, tail=1)])
    assert not endless.is_wanted(between, [span(250, tail=1)])
    assert short.is_wanted(at_mark, [])


def test_windows_of_caches() -> None:
    """All of it, a window, a state that never goes back; the smallest of all layers counts."""
    window = RotatingKVCache(64)

    assert window_of([KVCache()]) == math.inf
    assert window_of([KVCache(), window, RotatingKVCache(128)]) == 64
    assert window_of([CacheList(KVCache(), window)]) == 64
    assert window_of([KVCache(), ArraysCache(2)]) == 0
