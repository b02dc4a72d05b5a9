"""
Prompts being read: how much of them at a step, where to stop for a copy, and who had better wait for it.

A step that reads is one in which everyone who decodes waits, so it is kept about as short as theirs. A prompt
that begins like one that is being read waits for that part of it: both together would take the time of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import CacheList

from service.engine.prefix_cache import MIN_TOKENS, Cache, Held, Ids, n_shared

MIN_SHARED = 32  # fewer are not worth a stop, nor waiting for
MAX_STEP_TOKENS = 2048
MIN_STEP_TOKENS = 2
EVEN_TOKENS = 32
ALONE_S = 0.25  # how long a step may be where nobody decodes: cancelling waits for it
SHARE = 1.5  # how long it may be otherwise, in steps that only decode
INERTIA = 0.8


class Pace:
    """How many tokens of prompts one step may read, learnt from the steps before."""

    def __init__(self) -> None:
        self._decode_s = 0.0
        self._token_s = ALONE_S / MAX_STEP_TOKENS

    def n_tokens(self, n_prompts: int, n_waiting: int, n_decoding: int) -> int:
        """
        Return how many tokens of each of *n_prompts* to read; many as a power of two.

        Args:
            n_prompts: how many are being read.
            n_waiting: how many wait for their first token, those included: a crowd may keep a few longer.
            n_decoding: how many wait for their next one meanwhile.
        """
        allowed_s = ALONE_S
        if n_decoding:
            crowd = max(1.0, n_waiting / n_decoding)
            allowed_s = min(SHARE * self._decode_s * crowd, ALONE_S)
        wanted = int(allowed_s / self._token_s / max(n_prompts, 1))
        n = min(max(wanted, MIN_STEP_TOKENS), MAX_STEP_TOKENS)
        return n if n < EVEN_TOKENS else 1 << (n.bit_length() - 1)

    def learn(self, took_s: float, n_read: int, *, is_decoding: bool) -> None:
        """Take in that a step took *took_s* seconds and read *n_read* tokens of prompts."""
        if not n_read:
            self._decode_s = _mixed(self._decode_s or took_s, took_s)
        elif is_decoding:
            self._token_s = _mixed(self._token_s, max(took_s - self._decode_s, 0.0) / n_read)
        else:
            self._token_s = _mixed(self._token_s, took_s / n_read)


@dataclass
class Prompt:
    """
    A prompt being read.

    Attributes:
        ids: its tokens, shape (n,).
        n_read: so many of them have been read.
        marks: where a copy of its cache may be taken: numbers of tokens, ascending.
    """

    ids: Ids
    n_read: int
    marks: tuple[int, ...]

    def brings(self, ids: Ids, window: float) -> Iterator[tuple[int, int]]:
        """Yield how many of *ids* a mark ahead will stand for, and how many tokens away it is."""
        n_common = n_shared(self.ids, ids)
        for mark in self.marks:
            if mark > self.n_read:
                n_usable = min(mark, n_common) if mark < window else mark * (mark <= n_common)
                yield n_usable, mark - self.n_read


class Readings:
    """
    The prompts being read now, by the row's number.

    Args:
        window: caches of as many tokens or more can't be shortened.
        is_keeping: what is read is kept for others.
    """

    def __init__(self, window: float, *, is_keeping: bool) -> None:
        self.prompts: dict[int, Prompt] = {}
        self._window = window
        self._is_keeping = is_keeping

    def marks(
        self, ids: Ids, held: Held, waiting: Iterable[Ids], n_before: int = 0
    ) -> tuple[int, ...]:
        """
        Return where to stop in a prompt that begins: where others part from it, and before its end.

        Others will also part from it after *n_before* tokens.
        """
        if not self._is_keeping or len(ids) < MIN_TOKENS:
            return ()
        others = [*waiting, *(prompt.ids for prompt in self.prompts.values())]
        most = max([held.n_seen, *(n_shared(each, ids[:-1]) for each in others)])
        marks = sorted({most, n_before})
        worth = [mark for mark in marks if held.n_tokens + MIN_SHARED <= mark < len(ids) - 1]
        return (*worth, len(ids) - 1)

    def is_coming(self, ids: Ids, n_held: int) -> bool:
        """Whether another prompt soon brings more of *ids* than the *n_held* tokens that there are."""
        return any(
            n_usable - n_held >= max(MIN_SHARED, n_ahead / 2)
            for prompt in self.prompts.values()
            for n_usable, n_ahead in prompt.brings(ids[:-1], self._window)
        )

    def is_wanted(self, prompt: Prompt, waiting: Iterable[Ids]) -> bool:
        """Whether a copy of what *prompt* has read is worth taking: now, or never again."""
        if prompt.n_read not in prompt.marks:
            return False
        return prompt.n_read >= self._window or any(
            n_shared(prompt.ids, ids) >= MIN_SHARED for ids in waiting
        )


def window_of(cache: Cache) -> float:
    """Return how long a sequence must be for its cache not to be shortened any more; may be infinite."""
    return min(map(_window_of, cache), default=math.inf)


def _window_of(part: Any) -> float:
    if isinstance(part, CacheList):
        return window_of(part.caches)
    return float(getattr(part, "max_size", math.inf)) if part.is_trimmable() else 0.0


def _mixed(old: float, new: float) -> float:
    return INERTIA * old + (1 - INERTIA) * new
