"""
What a step takes beside weights and caches: measured on small steps, and told for large ones.

A step's memory grows with the tokens that it reads. Where attention has no kernel that does without, it also
grows with the product of these tokens and those that they attend to: always on the CPU, and on Metal for some
sizes of heads. Two small steps over empty keys and values, one with twice as many as the other, show both.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from service.engine.cache import inside
from service.engine.cache.kv import Caches, arrays

N_TOKENS = (
    32  # measured: two such steps take 0.1 s with the built-in model, and foretell larger ones
)
N_HELD = (
    1535  # taste: long enough for attention to count; arrays have a place for the next tokens then
)
LOGIT_BYTES = 16  # float32, four times: as computed, as log-probabilities, sorted, and on the way


@dataclass(frozen=True)
class StepMemory:
    """
    What steps take.

    Attributes:
        per_token: bytes for each token that is read.
        per_pair: bytes for each token that is read and each that it attends to.
        n_logits: the logit width.
    """

    per_token: float
    per_pair: float
    n_logits: int

    def n_bytes(self, n_tokens: int, n_held: int) -> int:
        """Return what it takes to read *n_tokens*, the last of *n_held*."""
        return int(n_tokens * (self.per_token + self.per_pair * n_held))

    def logits_bytes(self, n_drawn: int) -> int:
        """Return what it takes to draw so many tokens at once, guesses included."""
        return n_drawn * self.n_logits * LOGIT_BYTES


def measured(model: nn.Module, caches: Caches, context_length: int) -> StepMemory:
    """Measure small steps of *model*, with its rows' *caches*, no longer than *context_length*."""
    n_held = max(min(N_HELD, context_length // 2 - N_TOKENS), 1)
    n_logits, once = _peak_bytes(model, caches, n_held)
    _, twice = _peak_bytes(model, caches, 2 * n_held)
    per_pair = max(twice - once, 0) / N_TOKENS / n_held
    return StepMemory(max(once / N_TOKENS - per_pair * n_held, 0), per_pair, n_logits)


def _peak_bytes(model: nn.Module, caches: Caches, n_held: int) -> tuple[int, int]:
    """Return the logit width, and the most memory that a step takes after *n_held* tokens."""
    cache = caches.make()
    logits = model(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    for part in inside.leaves(cache):
        inside.fill(part, n_held - 1)
    mx.eval(arrays(cache))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model(mx.zeros((1, N_TOKENS), dtype=mx.int32), cache=cache)
    mx.eval(arrays(cache))
    return logits.shape[-1], max(mx.get_peak_memory() - before, 0)
