"""
What a step takes beside weights and caches: measured on small steps, and told for large ones.

A step's memory grows with the tokens that it reads. Where attention has no kernel that does without, it also
grows with the product of these tokens and those that they attend to: always on the CPU, and on Metal for some
sizes of heads. And something grows with those alone, such as what keys of few bits become on their way. Three
small steps over keys and values that say nothing show all three.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache

from service.engine.cache import inside
from service.engine.cache.kv import Cache, Caches, arrays

N_TOKENS = 16  # measured: foretells as well as 32; up to 8 have kernels of their own, which foretell nothing
TIMES_S = 0.2  # taste: measured again until then; on the CPU one peak in four is low, as threads free arrays
N_BLOCKS = (
    5  # taste: of `KVCache.step` tokens to attend to, and twice as many: enough for them to count
)
LOGIT_BYTES = 16  # float32, four times: as computed, as log-probabilities, sorted, and on the way


@dataclass(frozen=True)
class StepMemory:
    """
    What steps take.

    Attributes:
        per_token: bytes for each token that is read.
        per_pair: bytes for each token that is read and each that it attends to.
        per_held: bytes for each token that is attended to, however many are read.
        n_logits: the logit width.
    """

    per_token: float
    per_pair: float
    per_held: float
    n_logits: int

    def n_bytes(self, n_tokens: int, n_held: int) -> int:
        """Return what it takes to read *n_tokens*, the last of *n_held*."""
        return int(n_tokens * (self.per_token + self.per_pair * n_held) + self.per_held * n_held)

    def logits_bytes(self, n_drawn: int) -> int:
        """Return what it takes to draw so many tokens at once, guesses included."""
        return n_drawn * self.n_logits * LOGIT_BYTES


def measured(model: nn.Module, caches: Caches, context_length: int) -> StepMemory:
    """Measure small steps of *model*, with its rows' *caches*, no longer than *context_length*."""
    few, many = _lengths(context_length)
    steps = ((N_TOKENS, few), (N_TOKENS, many), (2 * N_TOKENS, many))
    peaks = [0] * len(steps)
    began_s = time.perf_counter()
    while not any(peaks) or time.perf_counter() - began_s < TIMES_S:
        found = [_peak_bytes(model, caches, *step) for step in steps]
        peaks = [max(pair) for pair in zip(peaks, found, strict=True)]
    with_few, with_many, twice = peaks
    by_held = max(with_many - with_few, 0) / (many - few)  # N_TOKENS * per_pair + per_held
    by_read = max(twice - with_many, 0) / N_TOKENS  # per_token + per_pair * many
    per_held = min(max(with_many - N_TOKENS * by_read, 0) / many, by_held)
    per_pair = (by_held - per_held) / N_TOKENS
    n_logits = model(mx.zeros((1, 1), dtype=mx.int32), cache=caches.make()).shape[-1]
    return StepMemory(max(by_read - per_pair * many, 0), per_pair, per_held, n_logits)


def _lengths(context_length: int) -> tuple[int, int]:
    """Return two lengths after which arrays have places for a step: to grow is not part of it."""
    n_blocks = min(context_length // (3 * KVCache.step), N_BLOCKS)
    if not n_blocks:
        return 2, max(context_length // 2, 3)
    return n_blocks * KVCache.step + 2, 2 * n_blocks * KVCache.step + 2


def _peak_bytes(model: nn.Module, caches: Caches, n_tokens: int, n_held: int) -> int:
    """Return the most memory that a step of *n_tokens* takes after *n_held*."""
    cache = caches.make()
    _read(model, cache, 1)
    for part in inside.leaves(cache):
        inside.fill(part, n_held - 2)
    _read(model, cache, 1)  # windows are cut to their size here, and not in the step
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    _read(model, cache, n_tokens)
    return max(mx.get_peak_memory() - before, 1)


def _read(model: nn.Module, cache: Cache, n_tokens: int) -> None:
    model(mx.zeros((1, n_tokens), dtype=mx.int32), cache=cache)
    mx.eval(arrays(cache))
