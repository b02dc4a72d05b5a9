"""
How many tokens of prompts one step may prefill, learnt from the steps before.

A step that prefills is one in which everyone who decodes waits, so it is kept about as short as their steps.
"""

from __future__ import annotations

from service.engine.cache.memory_plan import MAX_STEP_TOKENS
from service.engine.decoding.step_costs import INERTIA, mixed

FIRST_STEP_TOKENS = (
    256  # of which no time is known yet: a slow machine is learnt in a second (taste)
)
MIN_STEP_TOKENS = 2  # or a prompt would never end
GROUP_TOKENS = 128  # of short prompts together: weights are read for nothing with fewer (measured)
ALONE_S = 0.25  # how long a step may be where nobody decodes: a cancel waits for it (taste)
SHARE = 1.5  # how long prefill may make a step, in steps that only decode (measured)
CROWD = 3.0  # how much longer, for each that waits for its first token beside one that decodes (measured)


class PrefillBudget:
    """
    What decoding and prefilling take, and so how much to prefill in a step.

    Args:
        max_tokens: most tokens to prefill in one step.
    """

    def __init__(self, max_tokens: int = MAX_STEP_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._decode_s = 0.0
        self._token_s = ALONE_S / FIRST_STEP_TOKENS

    def n_tokens(self, n_waiting: int, n_decoding: int) -> int:
        """
        Return how many tokens to prefill in this step.

        Args:
            n_waiting: how many sequences wait for their first token: a crowd may keep a few longer.
            n_decoding: how many wait for their next one meanwhile.
        """
        if not n_decoding:
            return self._fitting(ALONE_S, MIN_STEP_TOKENS)
        crowd = 1 + CROWD * (n_waiting - 1) / n_decoding
        allowed_s = min(SHARE * self._decode_s * crowd, ALONE_S)
        return self._fitting(allowed_s, GROUP_TOKENS if crowd >= 2 else MIN_STEP_TOKENS)

    def _fitting(self, allowed_s: float, least: int) -> int:
        """Return how many tokens take *allowed_s*, but no fewer than the *least*."""
        return min(max(int(allowed_s / self._token_s), least), self._max_tokens)

    def learn(self, took_s: float, n_prefilled: int, n_decoding: int) -> None:
        """Take in that a step took *took_s* seconds for *n_prefilled* tokens and *n_decoding* rows."""
        if n_prefilled:
            prefill_s = max(took_s - (self._decode_s if n_decoding else 0.0), 0.0)
            weight = (1 - INERTIA) * min(n_prefilled / GROUP_TOKENS, 1.0)  # few say little of each
            self._token_s += weight * (prefill_s / n_prefilled - self._token_s)
        elif n_decoding:
            self._decode_s = mixed(self._decode_s or took_s, took_s)
