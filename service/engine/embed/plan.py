"""How much an encoder may read in one step, by the memory that there is and the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.catalog.card import UnfitModel

MAX_TOKENS = 16_384  # taste: where more go into a step, it is no faster by token, and nobody else gets a turn
MIN_TOKENS = 128  # taste: with fewer the weights are read for too little
SHARE = 0.25  # taste: of the memory that is left, for one step
MIN_CONTEXT = 16  # the least that CONTEXT_LENGTH can be set to
LONG_S, SHORT_S = (
    0.5,
    0.125,
)  # taste: a step between the two lets others have their turn soon enough
_BYTES = 4  # of a number as it is computed, at most
_COPIES = 3  # of what a layer computes, that are there at once: scores, with the mask, as shares


class StepPlan:
    """
    Says which steps there is room for.

    Args:
        config: of the model, which tells how wide it is.
        left_bytes: what the machine has left beside the weights.
    """

    def __init__(self, config: Mapping[str, Any], left_bytes: int) -> None:
        text = {**config, **_section(config, "text_config")}
        width = int(text.get("hidden_size") or 1024)
        self._n_heads = int(text.get("num_attention_heads") or 16)
        self._n_inner = 4 * width + int(text.get("intermediate_size") or 4 * width)
        self._most_bytes = left_bytes * SHARE
        self._n_tokens = MIN_TOKENS  # as long as no step has been timed

    def fits(self, n_rows: int, n_tokens: int) -> bool:
        """Tell whether a step may read so many rows, each padded to so many tokens; one row always may."""
        if n_rows == 1:
            return True
        return (
            n_rows * n_tokens <= self._n_tokens
            and self.n_bytes(n_rows, n_tokens) <= self._most_bytes
        )

    def n_bytes(self, n_rows: int, n_tokens: int) -> int:
        """Return what a step takes, were each layer's attention computed as a whole."""
        scores = n_rows * self._n_heads * n_tokens**2
        return _BYTES * _COPIES * (scores + n_rows * n_tokens * self._n_inner)

    def longest(self, context_length: int) -> int:
        """
        Return how long a text may be, *context_length* tokens at most.

        Raises:
            UnfitModel: there is no room for any worth the name.
        """
        while (
            context_length >= MIN_CONTEXT
            and self.n_bytes(1, context_length) > self._most_bytes / SHARE
        ):
            context_length //= 2
        if context_length < MIN_CONTEXT:
            raise UnfitModel("the machine's memory has no room for what it computes of a text")
        return context_length

    def note(self, seconds: float) -> None:
        """Take in how long a full step took, and make the next ones smaller or larger."""
        if seconds > LONG_S:
            self._n_tokens = max(self._n_tokens // 2, MIN_TOKENS)
        elif seconds < SHORT_S:
            self._n_tokens = min(self._n_tokens * 2, MAX_TOKENS)


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}
