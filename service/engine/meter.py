"""
What an engine measures of itself while it serves, told by its heartbeats.

The heart is a thread of its own, and what it would have to look at changes under its eyes. So the MLX thread
takes a picture, a few times a second and whenever it has nothing to do, and the heart tells the last one.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable

import mlx.core as mx

from service.engine.cache.memory_plan import MemoryPlan
from service.engine.pulse import BEAT_S, Pulse
from service.engine.scheduler.scheduler import Scheduler
from service.protocol import STEP_BUCKETS_S, Figures, Generation


class Meter:
    """
    Measures steps and takes pictures. Belongs to the MLX thread.

    Args:
        pulse: what is told of it.
        generation: more to tell where the model writes texts.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pulse: Pulse,
        generation: Callable[[], Generation | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pulse = pulse
        self._generation = generation
        self._clock = clock
        self._n_steps = [0] * (len(STEP_BUCKETS_S) + 1)
        self._steps_s = 0.0
        self._due_s = 0.0

    def note_step(self, seconds: float) -> None:
        """Count a step that took so long; a picture is taken if the last one is old."""
        self._n_steps[bisect_left(STEP_BUCKETS_S, seconds)] += 1
        self._steps_s += seconds
        if self._clock() >= self._due_s:
            self.look()

    def look(self) -> None:
        """Take a picture now."""
        self._due_s = self._clock() + BEAT_S
        self._pulse.figures = Figures(
            mx.get_active_memory(),
            mx.get_peak_memory(),
            mx.get_cache_memory(),
            tuple(self._n_steps),
            self._steps_s,
            self._generation(),
        )


def generation(scheduler: Scheduler, memory: MemoryPlan) -> Generation:
    """Return what there is to tell of a language model's requests."""
    prefixes, counts = memory.prefixes, scheduler.counts
    return Generation(
        scheduler.held_bytes(),
        memory.kv_budget_bytes,
        prefixes.n_bytes,
        prefixes.max_bytes,
        len(prefixes),
        counts.n_queried_tokens,
        counts.n_hit_tokens,
        counts.n_proposed_tokens,
        counts.n_accepted_tokens,
        counts.n_preemptions,
    )
