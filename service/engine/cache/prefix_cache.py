"""
Keys and values of prompts that have been read before, for whoever begins the same. For the MLX thread.

Token sequences are compared as arrays, their heads all at once: mlx-lm's trie of prompts looks for its
shortest continuation, which takes seconds where a hundred long prompts begin alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import trim_prompt_cache
from numpy.typing import NDArray

from service.engine.cache.kv import Cache as Cache
from service.engine.cache.kv import arrays, can_be_cut, n_bytes
from service.engine.model.images import FIRST_ID

# Where each value comes from; measured: on two cores, with the built-in model, which reads a token in 0.6 ms.
MAX_ENTRIES = (
    256  # measured: to compare a prompt with all takes 0.05 ms, and 0.15 ms after one more came
)
MIN_TOKENS = 8  # taste: a row's arrays have 256 places however little it has read
MIN_SHARED = (
    32  # taste: fewer only where they are half of a prompt; a copy took 0.05 ms, these 20 ms
)
N_HEAD = 64  # taste: enough to tell most prompts apart; the few that are alike are compared to their ends
NO_TOKEN = (1 << 32) - 1  # no vocabulary is that large

Ids = NDArray[np.uint32]


class PrefixHit(NamedTuple):
    """
    How much of a prompt has been read before.

    Attributes:
        n_tokens: so many of its first tokens are in `cache`.
        cache: one part per layer, the caller's own; None where `n_tokens` is 0.
        n_seen: so many of its first tokens have been seen, whether or not they can be had.
    """

    n_tokens: int
    cache: Cache | None
    n_seen: int


class Entry:
    """
    A sequence and what reading it left behind.

    Attributes:
        ids: the tokens, shape (n,).
        head: the first of them, shape (`N_HEAD`,).
        cache: one part per layer; never changed again.
        n_bytes: its size.
        can_be_cut: it can be shortened to any of its prefixes; a window that has slid or a state that
            has moved on can't.
        path: its file, if it has one.
    """

    def __init__(self, ids: Ids, cache: Cache, path: Path | None = None) -> None:
        self.ids = ids
        self.head = _head(ids)
        self.cache = cache
        self.n_bytes = n_bytes(cache)
        self.can_be_cut = can_be_cut(cache)
        self.path = path

    def usable(self, n: int) -> int:
        """Return how many of the *n* tokens that a sequence shares with it it can stand in for."""
        return n if self.can_be_cut or n == len(self.ids) else 0


class PrefixStore(Protocol):
    """Where entries outlive the process."""

    def load(self, max_bytes: int) -> Iterable[Entry]:
        """Return what is there, the newest at the end, at most so many bytes of it."""

    def save(self, entry: Entry) -> None:
        """Take *entry* as well."""

    def delete(self, entry: Entry) -> None:
        """Give *entry* up: another stands in for it."""


class PrefixCache:
    """
    Entries by their tokens; those that were not used for longest are evicted first.

    Args:
        max_bytes: of keys and values; 0 keeps nothing.

    Attributes:
        n_kept: how many entries there have ever been; what `match_length` says grows no sooner.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._store: PrefixStore | None = None
        self._entries: list[Entry] = []  # the one used last at the end
        self._heads: Ids | None = (
            None  # of all entries, shape (n, N_HEAD); None: to be put together
        )
        self._n_bytes = 0
        self.n_kept = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    @property
    def max_bytes(self) -> int:
        """Most bytes of keys and values that it may hold."""
        return self._max_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values in all entries."""
        return self._n_bytes

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries, the one used last at the end."""
        return self._entries

    def match_length(self, ids: Ids) -> int:
        """Return how many of the first of *ids* have been read."""
        return max(self._usable(self._shared(ids)), default=0)

    def find(self, ids: Ids) -> PrefixHit:
        """Return the longest beginning of *ids* that has been read; one token is always left to be read."""
        shared = self._shared(ids[:-1])
        usable = self._usable(shared)
        n_seen, n_tokens = max(shared, default=0), max(usable, default=0)
        if n_tokens < min(max(MIN_TOKENS, len(ids) // 2), MIN_SHARED):
            return PrefixHit(0, None, n_seen)
        best = self._entries.pop(usable.index(n_tokens))
        self._entries.append(best)
        self._heads = None
        cache = copy.deepcopy(best.cache)  # the arrays are shared until one is written to
        if n_tokens < len(best.ids):
            trim_prompt_cache(cache, len(best.ids) - n_tokens)
        return PrefixHit(n_tokens, cache, n_seen)

    def keep(self, ids: Ids, cache: Cache) -> None:
        """Keep what reading *ids* left in *cache*, which is this one's from now on."""
        entry = Entry(ids, cache)
        shared = self._shared(ids)
        is_known = max(self._usable(shared), default=0) == len(ids)
        if len(ids) < MIN_TOKENS or is_known or entry.n_bytes > self._max_bytes:
            return
        mx.async_eval(arrays(cache))  # type: ignore[no-untyped-call]  # mlx's stubs
        for other, n in zip(self._entries.copy(), shared, strict=True):
            if not entry.usable(n) == n == len(other.ids):
                continue
            self._remove(other)
            if self._store:
                self._store.delete(other)
        self._put(entry)
        if self._store and int(ids.max()) < FIRST_ID:  # another process counts images anew
            mx.eval(arrays(cache))  # no other thread can do that: MLX's streams are of this one
            self._store.save(entry)

    def keep_on(self, store: PrefixStore) -> None:
        """Take in what *store* holds, and keep everything there as well from now on."""
        for entry in store.load(self._max_bytes):
            self._put(entry)
        self._store = store

    def turn_off(self) -> None:
        """Forget everything, and keep nothing from now on."""
        self.clear()
        self._max_bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._heads = None
        self._n_bytes = 0

    def _put(self, entry: Entry) -> None:
        """Take in an entry as the one used last; others go where there is no room for it."""
        self.n_kept += 1
        self._entries.append(entry)
        self._heads = None
        self._n_bytes += entry.n_bytes
        self._evict(self._max_bytes)

    def _evict(self, max_bytes: int) -> None:
        while self._n_bytes > max_bytes or len(self._entries) > MAX_ENTRIES:
            self._remove(self._entries[0])

    def _shared(self, ids: Ids) -> list[int]:
        """Return for each entry how many tokens it and *ids* have in common before they part."""
        if not self._entries:
            return []
        if self._heads is None:
            self._heads = np.stack([each.head for each in self._entries])
        parts = self._heads != _head(ids)
        n_alike = np.where(parts.any(axis=1), parts.argmax(axis=1), N_HEAD).tolist()
        return [
            n_shared(each.ids, ids) if n == N_HEAD else n
            for each, n in zip(self._entries, n_alike, strict=True)
        ]

    def _usable(self, shared: Sequence[int]) -> list[int]:
        """Return for each entry how many of the tokens that it shares it can stand in for."""
        return [each.usable(n) for each, n in zip(self._entries, shared, strict=True)]

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self._heads = None
        self._n_bytes -= entry.n_bytes


def _head(ids: Ids) -> Ids:
    head = np.full(N_HEAD, NO_TOKEN, dtype=np.uint32)
    head[: len(ids)] = ids[:N_HEAD]
    return head


def n_shared(one: Ids, other: Ids) -> int:
    """Return how many tokens two sequences have in common before they part."""
    n = min(len(one), len(other))
    parts = one[:n] != other[:n]
    first = int(parts.argmax()) if n else 0
    return first if n and parts[first] else n
