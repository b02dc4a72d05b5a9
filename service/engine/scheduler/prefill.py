"""
Prompts being read: where to stop for a copy, and who had better wait for it.

A prompt that begins like one that is being read waits for that part of it: both together would take the time
of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import CacheList

from service.engine.cache.prefix_cache import MIN_SHARED, MIN_TOKENS, Cache, Held, Ids, n_shared


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

    @property
    def unread(self) -> list[int]:
        """How many tokens are left to read of each prompt that has any; its last one is read in decoding."""
        left = (len(each.ids) - 1 - each.n_read for each in self.prompts.values())
        return [n for n in left if n]

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
