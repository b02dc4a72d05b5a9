"""Which tokens may come next where a grammar says what an answer must be; belongs to the MLX thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from service.engine.text.prompt import TokenMask

_ALL = np.int32(-1)  # every bit is set


class EndOfThoughts:
    """
    Finds the end of thoughts by its text, however that is cut into tokens.

    Args:
        marks: texts of which each ends thoughts.
        piece: returns the text of a token as bytes.
    """

    def __init__(self, marks: Sequence[str], piece: Callable[[int], bytes]) -> None:
        self._marks = [mark.encode() for mark in marks]
        self._n_kept = max(map(len, self._marks)) - 1
        self._piece = piece
        self._tail = b""

    def advance(self, token: int) -> bool:
        """Take the next *token* of the thoughts; return whether they end with it."""
        text = self._tail + self._piece(token)
        self._tail = text[-self._n_kept :]
        return any(mark in text for mark in self._marks)


class GrammarMask:
    """
    Says which tokens a grammar lets through next in one answer. It binds the answer and not its thoughts.

    Args:
        matcher: follows the grammar; at its beginning.
        thoughts_end: finds the end of thoughts; None: there are none.
        thoughts_start: the token that may open thoughts before the answer; None: the answer begins inside
            of them, if there are any.
        turn_ends: tokens that would end the answer, which may not happen amid thoughts.

    Attributes:
        is_broken: the grammar grew too complex to be followed; the answer is not to be trusted.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        thoughts_end: EndOfThoughts | None = None,
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
        """Take the *token* that was drawn."""
        if self._is_thinking:
            assert self._thoughts_end is not None
            self._is_thinking = not self._thoughts_end.advance(token)
        elif token == self._thoughts_start:
            self._is_thinking, self._thoughts_start = True, None
        elif not self._matcher.is_stopped():
            self._thoughts_start = None
            self.is_broken = not self._matcher.consume_token(token)

    def fill(self, bits: NDArray[np.int32], row: int) -> None:
        """Write into *row* of *bits*, shape (rows, words of 32 tokens), which tokens may come next."""
        words = bits.view(np.uint32)[row]
        if self._is_thinking:
            bits[row] = _ALL
            for token in self._turn_ends:
                words[token // 32] &= ~_bit(token)
            return
        fill_next_token_bitmask(self._matcher, bits, row)
        if self._thoughts_start is not None:
            words[self._thoughts_start // 32] |= _bit(self._thoughts_start)


class LastingMask:
    """
    Keeps an answer from ending before it has so many tokens, unless nothing else may come.

    Args:
        form: what the answer must be; None: anything.
        min_tokens: so many tokens, thoughts included.
        turn_ends: tokens that would end the answer.

    Attributes:
        is_broken: as of *form*.
    """

    def __init__(self, form: TokenMask | None, min_tokens: int, turn_ends: Sequence[int]) -> None:
        self.is_broken = False
        self._form = form
        self._n_left = min_tokens
        self._turn_ends = turn_ends

    def advance(self, token: int) -> None:
        """Take the *token* that was drawn."""
        self._n_left -= 1
        if self._form is not None:
            self._form.advance(token)
            self.is_broken = self._form.is_broken

    def fill(self, bits: NDArray[np.int32], row: int) -> None:
        """Write into *row* of *bits*, shape (rows, words of 32 tokens), which tokens may come next."""
        if self._form is None:
            bits[row] = _ALL
        else:
            self._form.fill(bits, row)
        if self._n_left <= 0:
            return
        others = bits.view(np.uint32)[row].copy()
        for token in self._turn_ends:
            others[token // 32] &= ~_bit(token)
        if others.any():
            bits.view(np.uint32)[row] = others


def _bit(token: int) -> np.uint32:
    """Return the bit of *token* in its word."""
    return np.uint32(1 << token % 32)


def allowed_tokens(token_masks: Sequence[TokenMask], n_logits: int) -> NDArray[np.bool_]:
    """Return which tokens each of *token_masks* lets through, shape (masks, *n_logits*)."""
    bits = allocate_token_bitmask(len(token_masks), n_logits)
    for row, token_mask in enumerate(token_masks):
        token_mask.fill(bits, row)
    found = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return found[:, :n_logits].view(np.bool_)
