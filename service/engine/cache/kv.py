"""
What the keys and values of one row are kept in: in full, in few bits, or only the newest of them.

All of it goes through mlx-lm's batch: rows join, leave and are taken out again as any others do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.models import cache as mlx_lm_cache
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

_log = logging.getLogger(__name__)

GROUP_SIZES = (64, 32)


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
        return create_attention_mask(N, self._idx, return_array, window_size)

    def extract(self, idx: int) -> RowCache:
        """Return row *idx* of the batch by itself."""
        row = RowCache()
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


# mlx-lm looks the classes of a file up in its own module.
mlx_lm_cache.RowCache, mlx_lm_cache.QuantizedCache = RowCache, QuantizedCache


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
        bytes_per_token: what one token more takes in memory, until a bound is reached; 0: nothing grows.

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
        self.bytes_per_token: int = sum(
            cache.nbytes // cache.keys.shape[2] for cache in self._filled(self._made(KVCache))
        )

    def make(self) -> list[Any]:
        """Return the empty cache of one row, an entry per layer, as `BatchGenerator.insert` takes it."""
        return self._made(self._part)

    def n_bytes(self, n_tokens: int) -> int:
        """Return what a row of *n_tokens* takes in memory, in all layers that grow."""
        n_bytes: int = min(n_tokens, self._max_kv_size or n_tokens) * self.bytes_per_token
        return n_bytes

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

    def _filled(self, caches: list[Any]) -> list[Any]:
        """Return the caches that grow, of these *caches* of a row, once they hold a token."""
        self._model(mx.array([[0]]), cache=caches)
        return [cache for cache in _growing(caches) if not cache.empty()]

    def _try(self) -> None:
        """Generate in a batch of two unlike rows: what the model can't do with such caches, it shows."""
        generator = BatchGenerator(self._model)
        try:
            generator.insert([[0], [0, 0, 0]], max_tokens=[2, 3], caches=[self.make(), self.make()])
            while generator.next() != ([], []):
                pass
        except Exception as error:
            _log.exception("the model does not run on such a cache")
            raise UnfitModel(
                "it does not run with KV_BITS or MAX_KV_SIZE as they are set; see the log"
            ) from error
        finally:
            generator.close()


class FullCaches(Caches):
    """Caches that keep windows in full: no token can be taken back into a window that it has left."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, kv_bits=None, max_kv_size=None)

    def _own(self) -> list[Any]:
        return [_replaced(cache, RotatingKVCache, KVCache) for cache in super()._own()]


def straighten(cache: Sequence[Any]) -> None:
    """
    Bring windows that have gone round into the order of time, for several tokens to be read at once.

    mlx-lm does so itself, but only after it has made the mask, which is then off by one (0.32.2).
    """
    for part in cache:
        if isinstance(part, CacheList):
            straighten(part.caches)
        elif isinstance(part, BatchRotatingKVCache):
            part._temporal_order()


def rewind(cache: Sequence[Any], n_tokens: Sequence[int]) -> None:
    """
    Take the last tokens back out of the *cache* of a batch or of a row alone.

    A window gives back only what was read in the last step.

    Rows that take back more than others are moved to the right, as after a prompt that was padded there.

    Args:
        cache: one part per layer.
        n_tokens: how many of each row, fewer than were read.
    """
    for part in cache:
        if isinstance(part, CacheList):
            rewind(part.caches, n_tokens)
            continue
        if isinstance(part, RotatingKVCache):
            cut_off(part, *n_tokens)
            continue
        left = list(n_tokens)
        if not isinstance(part, BatchRotatingKVCache):  # one that is full has no end to cut off
            part.trim(min(left))
            left = [n - min(left) for n in left]
        if any(left):
            part.prepare(lengths=[-n for n in left], right_padding=left)
            part.finalize()


def cut_off(window: RotatingKVCache, n: int) -> None:
    """Take the last *n* tokens back out of a row's *window*, fewer than were read in its last step."""
    window._idx -= n
    window.offset -= n
    window.keys, window.values = (x[..., : window._idx, :] for x in (window.keys, window.values))


def squeeze(cache: Sequence[Any], n_tokens: Iterable[int]) -> None:
    """
    Take out of a batch's *cache* the places in front that all of its rows have for padding alone.

    mlx-lm's windows keep them: each group of rows that joins others would add its length, until a window
    is full of nothing and all rows pay for all of it.

    Args:
        cache: one part per layer; those of a row alone stay as they are.
        n_tokens: how many tokens each row has in it.
    """
    longest = max(n_tokens, default=0)
    for part in cache:
        if isinstance(part, CacheList):
            squeeze(part.caches, [longest])
        elif isinstance(part, BatchKVCache | BatchRotatingKVCache) and not part.empty():
            _squeeze(part, longest)


def _squeeze(part: Any, longest: int) -> None:
    is_window = isinstance(part, BatchRotatingKVCache)
    n = (part.keys.shape[2] if is_window and part.rotated else part._idx) - longest
    if n <= 0:
        return
    if is_window:
        part._temporal_order()
    part.keys, part.values = (x[..., n:, :] for x in (part.keys, part.values))
    part.left_padding = part.left_padding - n
    part._idx -= n
    if is_window:
        part._offset = part._idx


def merged(cache: Sequence[Any]) -> list[Any]:
    """Return a row's *cache* as a batch of one."""
    return [part.merge([part]) for part in cache]


def extracted(cache: Sequence[Any], place: int) -> list[Any]:
    """Return the cache of the row at *place* of a batch's by itself."""
    return [part.extract(place) for part in cache]


def _group_size(growing: list[Any]) -> int:
    """Return how many numbers of these caches' heads can share a scale, as many as possible."""
    sizes = {array.shape[-1] for cache in growing for array in (cache.keys, cache.values)}
    if not sizes:
        raise UnfitModel("KV_BITS has nothing to quantize in it: none of its caches grows")
    for group_size in GROUP_SIZES:
        if all(size % group_size == 0 for size in sizes):
            return group_size
    heads = " and ".join(map(str, sorted(sizes)))
    raise UnfitModel(f"KV_BITS needs heads in multiples of {GROUP_SIZES[-1]}; its are {heads} wide")


def _growing(caches: Iterable[Any]) -> Iterator[Any]:
    """Yield the caches that take more memory for each token, those inside of others included."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _growing(cache.caches)
        elif type(cache) is KVCache:
            yield cache


def _replaced(cache: Any, kind: type, new: Callable[[], Any]) -> Any:
    """Return *cache*, or *new* in its place if it is of this *kind*, also inside of others."""
    if isinstance(cache, CacheList):
        return CacheList(*(_replaced(each, kind, new) for each in cache.caches))
    return new() if type(cache) is kind else cache
