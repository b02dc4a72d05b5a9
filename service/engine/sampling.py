"""
How the next token is chosen: mlx-lm's filters, and a random key of its own for each seeded request.

A sampler takes log-probabilities, shape (rows, vocabulary), and returns token ids, shape (rows,).
BatchGenerator calls one sampler once for the whole batch where all rows share the object, so requests
that ask for the same get the same one.
"""

from __future__ import annotations

import functools

import mlx.core as mx
from mlx_lm.sample_utils import (
    Sampler,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_sampler,
)

from service.protocol import Sampling

MIN_TEMPERATURE = (
    1e-4  # below, dividing by it leaves the range of numbers: the likeliest token it is
)
MIN_TOP_P = 1e-6  # below, the sum of no token at all would be enough


def sampler_for(wanted: Sampling, defaults: Sampling, n_logits: int) -> Sampler:
    """
    Return the sampler for one request.

    Args:
        wanted: what the request says; None where it says nothing.
        defaults: what the model's own files say; nothing is None but `seed`.
        n_logits: the logit width; `top_k` at or above it takes all tokens.
    """
    temperature = _or(wanted.temperature, defaults.temperature)
    top_p = max(_or(wanted.top_p, defaults.top_p), MIN_TOP_P)
    min_p = _or(wanted.min_p, defaults.min_p)
    top_k = int(_or(wanted.top_k, defaults.top_k))
    if top_k >= n_logits:
        top_k = 0
    if temperature < MIN_TEMPERATURE:
        return greedy_sampler
    if wanted.seed is None:
        return _shared_sampler(temperature, top_p, min_p, top_k)
    return _SeededSampler(wanted.seed, temperature, top_p, min_p, top_k)


def _or(wanted: float | None, default: float | None) -> float:
    value = default if wanted is None else wanted
    assert value is not None
    return value


@functools.lru_cache(maxsize=256)
def _shared_sampler(temperature: float, top_p: float, min_p: float, top_k: int) -> Sampler:
    return make_sampler(temp=temperature, top_p=top_p, min_p=min_p, top_k=top_k)


class _SeededSampler:
    """Draws from a key of its own, split once per token: no neighbour can move it."""

    def __init__(
        self, seed: int, temperature: float, top_p: float, min_p: float, top_k: int
    ) -> None:
        self._key = mx.random.key(seed)
        self._temperature = temperature
        self._top_p = top_p
        self._min_p = min_p
        self._top_k = top_k

    def __call__(self, logprobs: mx.array) -> mx.array:
        # The filters in mlx-lm's own order, so that a seed changes the draw and nothing else.
        if self._top_p < 1:
            logprobs = apply_top_p(logprobs, self._top_p)
        if self._min_p > 0:
            logprobs = apply_min_p(logprobs, self._min_p)
        if self._top_k > 0:
            logprobs = apply_top_k(logprobs, self._top_k)
        self._key, key = mx.random.split(self._key)
        return mx.random.categorical(logprobs / self._temperature, key=key)
