"""`service.engine.meter`: what an engine measures of itself, and what that costs."""

from __future__ import annotations

import time

import mlx.core as mx
import numpy as np

from service.engine.meter import Meter
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.pulse import BEAT_S, Pulse
from service.protocol import STEP_BUCKETS_S
from tests.engine.test_speculation import Heard, wish

MAX_NOTE_S = 3e-6


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_steps_are_counted_by_what_they_took() -> None:
    """A bound belongs to the steps below it; what is longer than all stands at the end."""
    pulse = Pulse()
    meter = Meter(pulse)
    for seconds in (0.0005, STEP_BUCKETS_S[0], 0.0015, 60.0):
        meter.note_step(seconds)
    meter.look()

    figures = pulse.heartbeat().figures
    assert figures is not None
    assert (2, 1, *[0] * (len(STEP_BUCKETS_S) - 2), 1) == figures.n_steps
    assert 60.003 == figures.steps_s
    assert figures.generation is None


def test_pictures_are_taken_now_and_then() -> None:
    """A step brings one only where the last is old; before the first there is none."""
    pulse, clock = Pulse(), Clock()
    meter = Meter(pulse, clock=clock)
    assert pulse.heartbeat().figures is None
    seen = []
    for seconds in (0, BEAT_S / 2, BEAT_S / 2):
        clock.now_s += seconds
        meter.note_step(0.01)
        assert pulse.figures is not None
        seen.append(sum(pulse.figures.n_steps))

    assert [1, 1, 3] == seen


def test_memory_is_what_mlx_counts() -> None:
    """An array of a megabyte is seen."""
    pulse = Pulse()
    meter = Meter(pulse)
    meter.look()
    before = pulse.figures
    held = mx.zeros(1 << 18)
    mx.eval(held)
    meter.look()

    assert before is not None
    assert pulse.figures is not None
    assert pulse.figures.active_bytes - before.active_bytes >= 1 << 20
    assert pulse.figures.peak_bytes >= pulse.figures.active_bytes


def test_step_costs_next_to_nothing() -> None:
    """To count a step takes at most 3 us of processor time, the pictures included."""
    meter = Meter(Pulse())
    n = 20_000
    began_s = time.process_time()
    for _ in range(n):
        meter.note_step(0.01)

    assert (time.process_time() - began_s) / n < MAX_NOTE_S


def test_guesses_and_prefixes_are_counted(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Of a prompt that comes twice nearly all is had; of its echoes some are guessed."""
    prompt = [int(one) for one in np.tile(np.arange(100, 120), 5)]
    heard = Heard(loaded, vocabulary, 6)
    heard.answers([(prompt, wish())])
    heard.answers([(prompt, wish())])
    counts = heard.scheduler.counts

    assert 2 * len(prompt) == counts.n_queried_tokens
    assert len(prompt) / 2 < counts.n_hit_tokens < len(prompt)
    assert 0 < counts.n_accepted_tokens <= counts.n_proposed_tokens
    heard.scheduler.counts.clear()
    assert 0 == counts.n_proposed_tokens == counts.n_queried_tokens
