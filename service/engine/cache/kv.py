"""
What the keys and values of rows are kept in, and what a batch does with it.

A `Cache` has one part for each layer of the model: of one row, or of a batch, which is several rows padded on
the left to the longest of them. A part keeps everything, in full or in few bits, or only the newest tokens (a
window), or a state of fixed size. Rows join a batch and leave it; each is then as if it had been alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    create_attention_mask,
    make_prompt_cache,
)

from service.catalog.card import UnfitModel
from service.engine.cache import inside

_log = logging.getLogger(__name__)

GROUP_SIZES = (
    64,
    32,
)  # numbers that share a scale: those that MLX has kernels for; 128 costs precision

Cache = list[Any]


class RowCache(KVCache):  # type: ignore[misc]  # mlx-lm ships no types
    """All keys and values of one row and one layer."""

    @staticmethod
    def merge(rows: Sequence[KVCache]) -> BatchCache:
        """Return *rows* as one batch."""
        if all(row.empty() for row in rows):  # mlx-lm's own makes its own class of them
            return BatchCache([0] * len(rows))
        merged: BatchCache = BatchCache.merge(rows)
        return merged


class BatchCache(BatchKVCache):  # type: ignore[misc]  # mlx-lm ships no types
    """Those of a batch. A row that is alone has no padding, and then nothing is masked for it."""

    def make_mask(self, N: int, return_array: bool = False, **options: Any) -> Any:  # noqa: N803
        """Return what may be attended to by *N* tokens more; None: all, each by those after it."""
        if self.offset.shape[0] > 1:
            return super().make_mask(N, return_array, **options)
        window_size = options.get("window_size")
        return create_attention_mask(N, inside.n_places(self), return_array, window_size)

    def extract(self, idx: int) -> RowCache:
        """Return row *idx* of the batch by itself."""
        row = RowCache()
        if self.empty():
            return row
        row.state = super().extract(idx).state
        return row


class QuantizedCache(CacheList):  # type: ignore[misc]  # mlx-lm ships no types
    """
    Keys and values of one layer in few bits, of one row or of a batch.

    It is three of mlx-lm's caches in step, for the three arrays that `mx.quantize` gives: the packed
    numbers, the scales and the biases of their groups. Each moves its array as any cache does, and so
    padding, joining and forgetting are theirs. mlx-lm's attention sees `bits` and computes with that.

    Args:
        parts: the three, all for one row or all for a batch, empty or filled alike.
        bits: of a number, 4 or 8.
        group_size: how many numbers share a scale; divides the head's size.
    """

    def __init__(self, parts: Iterable[Any], bits: int, group_size: int) -> None:
        super().__init__(*parts)
        self.bits = bits
        self.group_size = group_size

    @property
    def offset(self) -> Any:
        """Tokens so far, those that are forgotten included; of a batch as an array, shape (rows,)."""
        return self.caches[0].offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, ...]:
        """Add *keys* and *values*, shapes (rows, heads, n, size); return all, three arrays for each."""
        new = zip(self._quantized(keys), self._quantized(values), strict=True)
        for part, (some_keys, some_values) in zip(self.caches, new, strict=True):
            part.update_and_fetch(some_keys, some_values)
            # Nobody reads the others' own count, which would grow into a chain of sums never done.
            part.offset = self.offset
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, ...]:
        """Return all keys and all values, three arrays for each."""
        return tuple(zip(*(part.keys_and_values() for part in self.caches), strict=True))

    def make_mask(self, *args: Any, **options: Any) -> Any:
        """Return what may be attended to, as the parts' own class says."""
        return self.caches[0].make_mask(*args, **options)

    @classmethod
    def merge(cls, rows: Sequence[QuantizedCache]) -> QuantizedCache:
        """Return *rows* as one batch."""
        merged = CacheList.merge(rows)
        return cls(merged.caches, rows[0].bits, rows[0].group_size)

    def extract(self, idx: int) -> QuantizedCache:
        """Return row *idx* of a batch by itself."""
        return QuantizedCache(super().extract(idx).caches, self.bits, self.group_size)

    @property
    def state(self) -> tuple[Any, ...]:
        """All that it is made of; `from_state` makes an equal one."""
        return self.bits, self.group_size, CacheList.state.fget(self)

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self.bits, self.group_size, parts = state
        CacheList.state.fset(self, parts)

    def _quantized(self, x: mx.array) -> Any:
        return mx.quantize(x, group_size=self.group_size, bits=self.bits)


inside.register(RowCache, BatchCache, QuantizedCache)


class Caches:
    """
    Makes the caches of a model's rows.

    Layers that keep a window or a state of fixed size stay as the model has them; the others, which grow
    with each token, are what the two settings are about.

    Args:
        model: maps token ids, shape (batch, n), and a cache to logits.
        kv_bits: bits of a number in keys and values, 4 or 8; None: as they were computed.
        max_kv_size: most tokens that a layer remembers, the newest; None: all. mlx-lm's own default,
            to keep the first four as well, is lost in its batch, and so isn't asked for.

    Attributes:
        bytes_per_token: what one token more takes in memory in layers that grow, until a bound is reached;
            0: nothing grows.

    Raises:
        UnfitModel: the model can't do what is asked of it; the message is for the operator.
    """

    def __init__(self, model: nn.Module, kv_bits: int | None, max_kv_size: int | None) -> None:
        self._model = model
        self._kv_bits = kv_bits
        self._max_kv_size = max_kv_size
        self._group_size = 0
        if kv_bits is not None:
            self._group_size = _group_size(self._filled(self._own()))
        if kv_bits is not None or max_kv_size is not None:
            self._try()
        grown = self._filled(self._made(KVCache))
        self.bytes_per_token = sum(map(inside.bytes_per_place, _growing(grown)))
        self._sizes = [_Size.of(part) for part in inside.leaves(self._filled(self.make()))]

    def make(self) -> Cache:
        """Return the empty cache of one row, an entry per layer."""
        return self._made(self._part)

    def n_bytes(self, n_tokens: int) -> int:
        """
        Return what a row of *n_tokens* takes in memory at most, windows and states included.

        Arrays grow by `KVCache.step` tokens at a time, so there are up to so many more places than tokens.
        """
        n_places = n_tokens + KVCache.step if n_tokens else 0
        return sum(size.n_bytes(n_places) for size in self._sizes)

    def _made(self, part: Callable[[], Any]) -> list[Any]:
        """Return the model's caches with those that grow made of *part*."""

        def new() -> Any:
            if self._kv_bits is None:
                return part()
            return QuantizedCache([part() for _ in range(3)], self._kv_bits, self._group_size)

        return [_replaced(cache, KVCache, new) for cache in self._own()]

    def _own(self) -> list[Any]:
        """Return the empty cache of one row as the model itself makes it."""
        made: list[Any] = make_prompt_cache(self._model)
        return made

    def _part(self) -> Any:
        return RowCache() if self._max_kv_size is None else RotatingKVCache(self._max_kv_size)

    def _filled(self, cache: Cache) -> Cache:
        """Return *cache*, an empty one of a row, once it holds a token."""
        self._model(mx.array([[0]]), cache=cache)
        return cache

    def _try(self) -> None:
        """See that the model reads several tokens and one with such a cache."""
        try:
            self._read_some(self.make())
        except Exception as error:
            _log.exception("the model does not run on such a cache")
            raise UnfitModel(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        """Return in a sentence which layer can't have the cache that is asked for."""
        settings = {"KV_BITS": self._kv_bits, "MAX_KV_SIZE": self._max_kv_size}
        asked = " and ".join(name for name, value in settings.items() if value is not None)
        layer = self._first_unfit_layer()
        if layer is None:
            return f"it does not run with {asked} as set; see the log"
        if "attention sinks" in str(error):
            return (
                f"{asked} can't be had: layer {layer} has attention sinks, which need full numbers"
            )
        name = type(error).__name__
        return f"{asked} can't be had: layer {layer} does not run on such a cache ({name}); see the log"

    def _first_unfit_layer(self) -> int | None:
        """Return the first layer that fails on such a cache when the others have their own."""
        for layer, part in enumerate(self.make()):
            cache = self._own()
            cache[layer] = part
            try:
                self._read_some(cache)
            except Exception:
                return layer
        return None

    def _read_some(self, cache: Cache) -> None:
        """Let several tokens and one more be read; which ones is all the same."""
        for n_tokens in (3, 1):
            mx.eval(self._model(mx.zeros((1, n_tokens), dtype=mx.int32), cache=cache))


class FullCaches(Caches):
    """Caches that keep windows in full: no token can be taken back into a window that it has left."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, kv_bits=None, max_kv_size=None)

    def _own(self) -> list[Any]:
        return [_replaced(cache, RotatingKVCache, KVCache) for cache in super()._own()]


@dataclass(frozen=True)
class _Size:
    """What a part takes: bytes for each token, and for how many tokens at most; or bytes whatever is read."""

    per_place_bytes: int
    most_places: float
    fixed_bytes: int

    @classmethod
    def of(cls, part: Any) -> _Size:
        """Measure a *part* that has read something."""
        per_place_bytes = inside.bytes_per_place(part)
        return cls(
            per_place_bytes,
            inside.most_places(part) or math.inf,
            0 if per_place_bytes else part.nbytes,
        )

    def n_bytes(self, n_places: int) -> int:
        """Return what it takes with so many places."""
        return self.fixed_bytes + self.per_place_bytes * int(min(n_places, self.most_places))


def merge(rows: Sequence[Cache]) -> Cache:
    """Return the caches of several *rows* as that of one batch, which has copies of them."""
    return [parts[0].merge(parts) for parts in zip(*rows, strict=True)]


def extend(batch: Cache, other: Cache) -> None:
    """Append the rows of the batch *other*, which is not used again, to *batch*. Either may be empty."""
    if not batch or not other:
        batch += other
        return
    for part, more in zip(batch, other, strict=True):
        part.extend(more)


def keep_rows(batch: Cache, places: Sequence[int]) -> None:
    """Keep only the rows at these *places* of *batch*, in their order; with no place it is empty."""
    if not places:
        batch.clear()
    for part in batch:
        part.filter(list(places))


def extract(batch: Cache, place: int) -> Cache:
    """Return a copy of the cache of the row at *place* of *batch* by itself; *batch* stays as it is."""
    return [part.extract(place) for part in batch]


def pad_right(batch: Cache, lengths: Sequence[int]) -> None:
    """
    Announce that the rows of *batch* read unlike numbers of tokens next.

    The model is then given them with padding on the right, in one pass or several, shape (rows,
    max(lengths)), after which `unpad` must be called, before anything else is done to *batch*.

    Args:
        batch: one part per layer.
        lengths: how many tokens each row reads.
    """
    padding = [max(lengths) - n for n in lengths]
    if any(padding):
        for part in batch:
            part.prepare(lengths=list(lengths), right_padding=padding)


def unpad(batch: Cache) -> None:
    """Move what was padded by `pad_right` to the left of each row, where padding stands in a batch."""
    for part in batch:
        part.finalize()


def to_temporal_order(cache: Cache) -> None:
    """
    Bring windows of a batch that have gone round into the order of time, for a step of several tokens.

    mlx-lm does so itself, but only after it has made the mask, which is then off by one (0.32.2).
    """
    for part in inside.leaves(cache):
        if isinstance(part, BatchRotatingKVCache):
            inside.turn_to_temporal_order(part)


def trim_each(cache: Cache, n_tokens: Sequence[int]) -> None:
    """
    Take the last tokens back out of the *cache* of a batch or of a row alone.

    A window gives back only what was read in the last step. Rows of a batch that give back more than others
    are moved to the right, as after a prompt that was padded there.

    Args:
        cache: one part per layer.
        n_tokens: how many of each row, fewer than were read.
    """
    for part in inside.leaves(cache):
        if isinstance(part, RotatingKVCache):
            inside.take_last(part, *n_tokens)
            continue
        left = list(n_tokens)
        if not isinstance(part, BatchRotatingKVCache):  # one that is full has no end to cut off
            part.trim(min(left))
            left = [n - min(left) for n in left]
        if any(left):
            part.prepare(lengths=[-n for n in left], right_padding=left)
            part.finalize()


def drop_common_padding(cache: Cache, n_tokens: Iterable[int]) -> None:
    """
    Take out of a batch's *cache* the places in front that are padding in all of its rows.

    mlx-lm's windows keep them: each group of rows that joins others would add its length, until a window
    is full of nothing and all rows pay for all of it.

    Args:
        cache: one part per layer; those of a row alone stay as they are.
        n_tokens: how many tokens each row has in it.
    """
    longest = max(n_tokens, default=0)
    for part in inside.leaves(cache):
        if isinstance(part, BatchKVCache | BatchRotatingKVCache) and not part.empty():
            n_common = inside.n_places(part) - longest
            if n_common > 0:
                inside.take_first(part, n_common)


def trimmable_below(cache: Cache) -> float:
    """
    Return the number of tokens from which on a row's cache can't be shortened to any of its prefixes.

    It is that of the smallest window, which forgets what stood before it; 0 where there is a state, which
    can't go back at all; infinite where everything is kept.

    Args:
        cache: that of a row that has read nothing yet.
    """
    return min(
        (
            float(inside.most_places(part) or math.inf) if part.is_trimmable() else 0.0
            for part in inside.leaves(cache)
        ),
        default=math.inf,
    )


def can_be_cut(cache: Cache) -> bool:
    """Whether a row's *cache* can be shortened to any of its prefixes now."""
    return all(part.is_trimmable() and inside.has_all(part) for part in inside.leaves(cache))


def n_bytes(cache: Cache) -> int:
    """Return what *cache* takes in memory now, places ahead and padding included."""
    return sum(part.nbytes for part in cache)


def arrays(cache: Cache) -> list[mx.array]:
    """Return all arrays of *cache*: once `mx.eval` has them, nothing of it is left to be computed."""
    return list(_arrays([part.state for part in cache]))


def _arrays(state: Any) -> Iterator[mx.array]:
    if isinstance(state, mx.array):
        yield state
    elif isinstance(state, list | tuple):
        for each in state:
            yield from _arrays(each)


def _group_size(cache: Cache) -> int:
    """Return how many numbers of the heads in a row's *cache* can share a scale, as many as possible."""
    sizes = {
        layer: set().union(*map(inside.head_sizes, _growing([part])))
        for layer, part in enumerate(cache)
    }
    if not any(sizes.values()):
        raise UnfitModel("KV_BITS has nothing to quantize in it: none of its caches grows")
    for group_size in GROUP_SIZES:
        unfit = {layer: wide for layer, wide in sizes.items() if any(n % group_size for n in wide)}
        if not unfit:
            return group_size
    layer, wide = next(iter(unfit.items()))
    heads = " and ".join(map(str, sorted(wide)))
    raise UnfitModel(
        f"KV_BITS needs heads in multiples of {GROUP_SIZES[-1]}; those of layer {layer} are {heads} wide"
    )


def _growing(cache: Cache) -> Iterator[Any]:
    """Yield the parts that take more memory for each token, those inside of others included."""
    for part in inside.leaves(cache):
        if type(part) is KVCache and not part.empty():
            yield part


def _replaced(cache: Any, kind: type, new: Callable[[], Any]) -> Any:
    """Return *cache*, or *new* in its place if it is of this *kind*, also inside of others."""
    if isinstance(cache, CacheList):
        return CacheList(*(_replaced(each, kind, new) for each in cache.caches))
    return new() if type(cache) is kind else cache
