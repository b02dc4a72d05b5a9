"""
How many tokens of prompts one step may prefill, learnt from the steps before.

A step that prefills is one in which everyone who decodes waits, so it is kept about as short as their steps.
"""

from __future__ import annotations

import numpy as np

from service.engine.cache.memory_plan import MAX_STEP_TOKENS
from service.engine.decoding.step_costs import INERTIA

FIRST_STEP_TOKENS = (
    256  # of which no time is known yet: a slow machine is learnt in a second (taste)
)
MIN_STEP_TOKENS = 2  # or a prompt would never end
GROUP_TOKENS = 128  # of short prompts together: weights are read for nothing with fewer (measured)
ALONE_S = 0.25  # how long a step may be where nobody decodes: a cancel waits for it (taste)
SHARE = 1.1  # how long prefill may make a step, in steps that only decode (measured)
CROWD = 4.0  # how much longer, for each that waits for its first token beside one that decodes (measured)
MEMORY = (
    0.9  # of a line, for what it has learnt with each measurement more: the last ten count (taste)
)
MIN_SPREAD = 1e-6  # relative, below which numbers are all the same and tell no slope (rounding)


class Line:
    """A straight line through what was measured of late: seconds over a number of rows."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)
        self._slope_s = 0.0

    def learn(self, n: int, took_s: float) -> None:
        """Take in that *n* of them took *took_s* seconds; what is old counts less and less."""
        self._sums = MEMORY * self._sums + (1, n, n * n, took_s, n * took_s)
        weight, ns, squares, times, products = self._sums
        spread = weight * squares - ns * ns
        if spread > MIN_SPREAD * weight * squares:
            self._slope_s = max((weight * products - ns * times) / spread, 0.0)

    def at(self, n: int) -> float:
        """Return how long *n* of them should take, in seconds; 0: nothing was measured."""
        weight, ns, _, times, _ = self._sums
        if not weight:
            return 0.0
        return max(float(times + self._slope_s * (weight * n - ns)) / weight, 0.0)


class PrefillBudget:
    """
    What decoding and prefilling take, and so how much to prefill in a step.

    Args:
        max_tokens: most tokens to prefill in one step.
    """

    def __init__(self, max_tokens: int = MAX_STEP_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._decode = Line()
        self._token_s = ALONE_S / FIRST_STEP_TOKENS

    def n_tokens(self, n_waiting: int, n_decoding: int) -> int:
        """
        Return how many tokens to prefill in this step.

        Args:
            n_waiting: how many sequences wait for their first token: a crowd may keep a few longer.
            n_decoding: how many wait for their next one meanwhile.
        """
        decode_s = self._decode.at(n_decoding)
        if not n_decoding or not decode_s:  # nobody waits, or nothing is known of their steps yet
            return self._fitting(ALONE_S, MIN_STEP_TOKENS)
        crowd = 1 + CROWD * (n_waiting - 1) / n_decoding
        allowed_s = min(SHARE * decode_s * crowd, ALONE_S)
        return self._fitting(allowed_s, GROUP_TOKENS if crowd >= 2 else MIN_STEP_TOKENS)

    def _fitting(self, allowed_s: float, least: int) -> int:
        """Return how many tokens take *allowed_s*, but no fewer than the *least*."""
        return min(max(int(allowed_s / self._token_s), least), self._max_tokens)

    def learn(self, took_s: float, n_prefilled: int, n_decoding: int) -> None:
        """Take in that a step took *took_s* seconds for *n_prefilled* tokens and *n_decoding* rows."""
        if n_prefilled:
            prefill_s = max(took_s - self._decode.at(n_decoding), 0.0) if n_decoding else took_s
            weight = (1 - INERTIA) * min(n_prefilled / GROUP_TOKENS, 1.0)  # few say little of each
            self._token_s += weight * (prefill_s / n_prefilled - self._token_s)
        elif n_decoding:
            self._decode.learn(n_decoding, took_s)
