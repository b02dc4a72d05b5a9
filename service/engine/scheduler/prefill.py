"""
Sequences being prefilled: which one comes next, where to stop for a copy, and who had better wait for it.

Each is prefilled into a cache of its own, in pieces where it is long; short ones are put together in groups.
A prompt that begins like one that is being prefilled waits for that part of it, since both together would
take the time of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx

from service.engine.cache.kv import merge, pad_right, unpad
from service.engine.cache.prefix_cache import (
    MIN_SHARED,
    MIN_TOKENS,
    Cache,
    Ids,
    PrefixHit,
    n_shared,
)
from service.engine.decoding.sequence import Sequence

MAX_UNLIKE = (
    128  # tokens by which rows of a group may differ: all are padded to the longest (taste)
)


class Prefills:
    """
    The sequences being prefilled now.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        window: caches of as many tokens or more can't be shortened; may be infinite.
        is_keeping: what is prefilled is kept for others.

    Attributes:
        sequences: first come first.
    """

    def __init__(self, model: Any, window: float, *, is_keeping: bool) -> None:
        self.sequences: list[Sequence] = []
        self._model = model
        self._window = window
        self._is_keeping = is_keeping
        self._is_turn_of_oldest = False

    def stops(
        self, ids: Ids, hit: PrefixHit, waiting: Iterable[Ids], last_turn_at: int = 0
    ) -> tuple[int, ...]:
        """
        Return where to stop in a prompt that begins: where others part from it, and before its end.

        Others will also part from it at *last_turn_at*.
        """
        if not self._is_keeping or len(ids) < MIN_TOKENS:
            return ()
        others = [*waiting, *(each.ids for each in self.sequences)]
        most = max([hit.n_seen, *(n_shared(each, ids[:-1]) for each in others)])
        stops = sorted({most, last_turn_at})
        worth = [stop for stop in stops if hit.n_tokens + MIN_SHARED <= stop < len(ids) - 1]
        return (*worth, len(ids) - 1)

    def is_coming(self, ids: Ids, match_length: int) -> bool:
        """Whether one of the sequences soon brings more of *ids* than the *match_length* that there is."""
        return any(
            n_usable - match_length >= max(MIN_SHARED, n_ahead / 2)
            for each in self.sequences
            for n_usable, n_ahead in self._brings(each, ids[:-1])
        )

    def is_wanted(self, sequence: Sequence, waiting: Iterable[Ids]) -> bool:
        """Whether a copy of the cache of *sequence* is worth taking: now, or never again."""
        if sequence.n_in_cache not in sequence.stops:
            return False
        return sequence.n_in_cache >= self._window or any(
            n_shared(sequence.ids, ids) >= MIN_SHARED for ids in waiting
        )

    def ready_group(self) -> list[Sequence]:
        """Return sequences of which nothing is left to prefill, about as long as the first of them."""
        ready = [each for each in self.sequences if not each.n_left]
        return [each for each in ready if each is ready[0] or _are_alike(each, ready[0])]

    def next_group(
        self, n_tokens: int, group_tokens: int, max_padding: int = MAX_UNLIKE
    ) -> list[Sequence]:
        """
        Return which sequences to prefill together in this step; alone, it may not be to its end.

        The one with the least left leads, and every other time the oldest, so that neither a short prompt
        waits for all of a long one nor a long one for all short ones that come.

        Args:
            n_tokens: most tokens of a step, padding included.
            group_tokens: most tokens of several sequences together.
            max_padding: by how many tokens what is left of them may differ from what leads.
        """
        self._is_turn_of_oldest = not self._is_turn_of_oldest
        lead = self.sequences[0]
        if not self._is_turn_of_oldest:
            lead = min(self.sequences, key=lambda each: each.n_left)
        group, n_wide = [lead], lead.n_left
        if n_wide > n_tokens or self._next_stop(lead) < len(lead.tokens) - 1:
            return group
        for each in self.sequences:
            n_wider = max(n_wide, each.n_left)
            fits = n_wider * (len(group) + 1) <= min(n_tokens, group_tokens)
            fits = fits and each is not lead and _are_alike(each, lead)
            fits = fits and abs(each.n_left - lead.n_left) <= max_padding
            if fits and self._next_stop(each) == len(each.tokens) - 1:
                group.append(each)
                n_wide = n_wider
        return group

    def feed(self, group: list[Sequence], n_tokens: int) -> tuple[Cache, int]:
        """
        Begin to compute the next piece of *group*; return its cache, and how many tokens were fed.

        Args:
            group: as `next_group` gave it.
            n_tokens: most tokens of a sequence alone.
        """
        if len(group) == 1:
            (each,) = group
            assert each.cache is not None
            n = min(self._next_stop(each) - each.n_in_cache, n_tokens)
            if n:
                piece = each.tokens[each.n_in_cache : each.n_in_cache + n]
                self._model(mx.array([piece]), cache=each.cache)
                each.n_in_cache += n
            return each.cache, n
        pieces = [each.tokens[each.n_in_cache : -1] for each in group]
        lengths = [len(piece) for piece in pieces]
        n_wide = max(lengths)
        cache = merge([each.cache or [] for each in group])
        if n_wide:
            padded = [piece + [0] * (n_wide - len(piece)) for piece in pieces]
            if min(lengths) < n_wide:
                pad_right(cache, lengths)
            self._model(mx.array(padded), cache=cache)
            if min(lengths) < n_wide:
                unpad(cache)
        for each, n in zip(group, lengths, strict=True):
            each.n_in_cache += n
        return cache, sum(lengths)

    def _brings(self, sequence: Sequence, ids: Ids) -> Iterator[tuple[int, int]]:
        """Yield how many of *ids* a stop ahead will stand for, and how many tokens away it is."""
        n_common = n_shared(sequence.ids, ids)
        for stop in sequence.stops:
            if stop > sequence.n_in_cache:
                n_usable = min(stop, n_common) if stop < self._window else stop * (stop <= n_common)
                yield n_usable, stop - sequence.n_in_cache

    def _next_stop(self, sequence: Sequence) -> int:
        """Return up to which token the next piece of *sequence* may go."""
        ahead = [stop for stop in sequence.stops if stop > sequence.n_in_cache]
        return min(ahead, default=len(sequence.tokens) - 1)


def _are_alike(one: Sequence, other: Sequence) -> bool:
    """Whether two may be rows of one group: neither is padded much, and each has a cache to merge."""
    is_near = abs(len(one.tokens) - len(other.tokens)) <= MAX_UNLIKE
    return is_near and all(each.n_in_cache or each.n_left for each in (one, other))
