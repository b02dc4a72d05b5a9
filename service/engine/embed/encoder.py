"""What makes vectors, or scores, of token ids: models of several libraries behind one seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from service.catalog.kind import Pooling
from service.engine.embed.texts import Reading


@dataclass(frozen=True)
class Batch:
    """
    Readings side by side, padded at their ends.

    Attributes:
        ids: token ids, shape (rows, n).
        mask: 1 where a token is, 0 where padding is, int32, shape (rows, n).
        segments: which text of a pair a token belongs to, shape (rows, n); None: there are no pairs.
    """

    ids: mx.array
    mask: mx.array
    segments: mx.array | None = None


class Encoder(Protocol):
    """A model that reads a batch, and returns what it computes of each row, shape (rows, numbers)."""

    def __call__(self, batch: Batch) -> mx.array:
        """Read *batch*, lazily."""


class Pooled:
    """
    Makes one vector of those of all tokens.

    Args:
        hidden: what the model computes of each token, shape (rows, n, numbers).
        pooling: how they become one.
    """

    def __init__(self, hidden: Callable[[Batch], mx.array], pooling: Pooling) -> None:
        self._hidden = hidden
        self._pooling = pooling

    def __call__(self, batch: Batch) -> mx.array:
        """Return the vectors of all rows."""
        hidden = self._hidden(batch).astype(mx.float32)
        mask = batch.mask[..., None]
        match self._pooling:
            case "cls":
                return hidden[:, 0]
            case "last":
                rows = mx.arange(hidden.shape[0])
                return hidden[rows, batch.mask.sum(axis=1) - 1]
            case "max":
                return mx.where(mask == 0, -mx.inf, hidden).max(axis=1)
            case "mean":
                # Not a product with the mask: what stands at padding need not be a number.
                return mx.where(mask == 0, 0.0, hidden).sum(axis=1) / mask.sum(axis=1)


def encode(encoder: Encoder, readings: Sequence[Reading], padding: int) -> NDArray[np.float32]:
    """
    Return what *encoder* makes of *readings*, at least one, shape (readings, numbers).

    Args:
        encoder: a model.
        readings: all of pairs, or none.
        padding: the token to pad them with.
    """
    longest = max(len(each.ids) for each in readings)
    ids = np.full((len(readings), longest), padding, np.int32)
    mask = np.zeros_like(ids)
    segments = np.zeros_like(ids)
    for i, reading in enumerate(readings):
        n = len(reading.ids)
        ids[i, :n] = reading.ids
        mask[i, :n] = 1
        segments[i, :n] = reading.segments or 0
    is_paired = readings[0].segments is not None
    batch = Batch(mx.array(ids), mx.array(mask), mx.array(segments) if is_paired else None)
    return np.array(encoder(batch).astype(mx.float32))


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return *vectors*, shape (n, numbers), at length 1; one without a direction stays as it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
