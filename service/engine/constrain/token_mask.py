"""Which tokens may come next in one row, and the masks of all gated rows; belongs to the MLX thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from mlx_lm.generate import StopSequences
from numpy.typing import NDArray


class Gate:
    """
    Says which tokens may come next in one row.

    Args:
        matcher: at the beginning of the answer.
        thoughts_end: finds the end of the thoughts in which the row begins; None where it doesn't.
        thoughts_start: the token that may open thoughts before the answer; None: none may.
        turn_ends: tokens that would end the answer, which may not happen amid thoughts.

    Attributes:
        is_broken: the grammar grew too complex to be followed; the answer is not to be trusted.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        thoughts_end: StopSequences.Matcher | None = None,
        thoughts_start: int | None = None,
        turn_ends: Sequence[int] = (),
    ) -> None:
        self.is_broken = False
        self._matcher = matcher
        self._thoughts_end = thoughts_end
        self._thoughts_start = thoughts_start
        self._turn_ends = turn_ends
        self._is_thinking = thoughts_end is not None and thoughts_start is None

    def advance(self, token: int) -> None:
        """Take the token that was drawn."""
        if self._is_thinking:
            assert self._thoughts_end is not None
            self._is_thinking = not self._thoughts_end.advance(token)
        elif token == self._thoughts_start:
            self._is_thinking, self._thoughts_start = True, None
        elif not self._matcher.is_stopped():
            self._thoughts_start = None
            self.is_broken = not self._matcher.consume_token(token)

    def fill(self, mask: NDArray[np.int32], place: int) -> None:
        """Write the tokens that may come next as bits into *mask* at *place*."""
        if self._is_thinking:
            mask[place] = -1
            for word, bit in (divmod(token, 32) for token in self._turn_ends):
                mask.view(np.uint32)[place, word] &= ~np.uint32(1 << bit)
            return
        fill_next_token_bitmask(self._matcher, mask, place)
        if self._thoughts_start is not None:
            word, bit = divmod(self._thoughts_start, 32)
            mask.view(np.uint32)[place, word] |= np.uint32(1 << bit)


def masks(gates: Sequence[Gate], n_logits: int) -> NDArray[np.bool_]:
    """Return which tokens each of *gates* lets through, shape (gates, *n_logits*)."""
    bits = allocate_token_bitmask(len(gates), n_logits)
    for place, gate in enumerate(gates):
        gate.fill(bits, place)
    found = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return found[:, :n_logits].view(np.bool_)
