"""
All that is known here of the inside of mlx-lm's caches, which mlx-lm does not promise to keep.

Its caches offer little of what a batch needs: no shortening of one row of several, no way to give padding up.
What is needed beyond is done here to their attributes, and nowhere else in the engine; a test holds both this
file against the installed mlx-lm and the other files against this rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as mlx_lm_cache
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)

_KEYS = ("keys", "values", "offset", "nbytes", "state")

_ROW = (*_KEYS, "update_and_fetch", "trim", "is_trimmable", "empty", "merge")
_BATCH = ("nbytes", "state", "filter", "extend", "extract", "merge", "prepare", "finalize")
_IN_BATCH = (*_KEYS, *_BATCH, "update_and_fetch", "_idx", "left_padding", "make_mask", "empty")

RELIED_UPON: dict[type, tuple[str, ...]] = {
    KVCache: (*_ROW, "step", "size", "from_state"),
    RotatingKVCache: (*_ROW, "_idx", "max_size"),
    BatchKVCache: (*_IN_BATCH, "trim"),
    BatchRotatingKVCache: (*_IN_BATCH, "_offset", "rotated", "_temporal_order", "max_size"),
    ArraysCache: _BATCH,
    CacheList: (*_BATCH, "caches", "is_trimmable", "trim"),
    ChunkedKVCache: (*_KEYS, "chunk_size", "start_position", "trim", "is_trimmable", "empty"),
}
"""The classes of mlx-lm and what of each is used in this room. Seen in mlx-lm 0.32.2."""


def register(*kinds: type) -> None:
    """Let mlx-lm find *kinds* when it loads a file of caches: it looks names up in its own module."""
    for kind in kinds:
        setattr(mlx_lm_cache, kind.__name__, kind)


def leaves(cache: Any) -> Iterator[Any]:
    """Yield the parts of *cache*, a list of parts or a part, those that stand inside of others included."""
    if isinstance(cache, CacheList):
        cache = cache.caches
    if isinstance(cache, list | tuple):
        for part in cache:
            yield from leaves(part)
    else:
        yield cache


def n_places(part: BatchKVCache | BatchRotatingKVCache) -> int:
    """Return how many tokens a batch's *part* holds of its longest row, padding included."""
    if isinstance(part, BatchRotatingKVCache) and part.rotated:
        return int(part.keys.shape[2])
    return int(part._idx)


def bytes_per_place(part: Any) -> int:
    """Return what a *part* that has read something takes for one token; 0: it is no array of tokens."""
    return int(part.nbytes // part.keys.shape[2]) if _has_places(part) else 0


def head_sizes(part: Any) -> set[int]:
    """Return how many numbers a key and a value have in a *part* that has read something."""
    return {part.keys.shape[-1], part.values.shape[-1]} if _has_places(part) else set()


def fill(part: Any, n_tokens: int) -> None:
    """Let a row's *part*, which has read something, hold *n_tokens* more that say nothing; states stay."""
    if not _has_places(part) or n_tokens < 1:
        return
    keys, values = (
        mx.zeros((*x.shape[:2], n_tokens, x.shape[3]), x.dtype) for x in (part.keys, part.values)
    )
    part.update_and_fetch(keys, values)


def most_places(part: Any) -> int | None:
    """Return how many tokens *part* remembers at most; None: all."""
    name = "chunk_size" if isinstance(part, ChunkedKVCache) else "max_size"
    size: int | None = getattr(part, name, None)
    return size


def has_all(part: Any) -> bool:
    """Whether a row's *part* has forgotten nothing; of other parts than chunks, they say so themselves."""
    return not isinstance(part, ChunkedKVCache) or part.start_position == 0


def turn_to_temporal_order(window: BatchRotatingKVCache) -> None:
    """Put the oldest token of a batch's *window* first again, where it has gone round."""
    window._temporal_order()


def take_last(window: RotatingKVCache, n_tokens: int) -> None:
    """
    Take the last tokens back out of a row's *window*, whether or not it is full.

    `trim` only counts back, which is wrong once a step of several tokens has made the arrays longer.

    Args:
        window: read last in a step of more than *n_tokens* tokens, and so in temporal order.
        n_tokens: how many.
    """
    window._idx -= n_tokens
    window.offset -= n_tokens
    window.keys, window.values = (x[..., : window._idx, :] for x in (window.keys, window.values))


def take_first(part: BatchKVCache | BatchRotatingKVCache, n_places: int) -> None:
    """Take the first places out of a batch's *part*, which are padding in every row of it."""
    if isinstance(part, BatchRotatingKVCache):
        part._temporal_order()
    part.keys, part.values = (x[..., n_places:, :] for x in (part.keys, part.values))
    part.left_padding = part.left_padding - n_places
    part._idx -= n_places
    if isinstance(part, BatchRotatingKVCache):
        part._offset = part._idx


def _has_places(part: Any) -> bool:
    return getattr(part, "keys", None) is not None
