"""
Batches that are stepped beside each other, so that short rows aren't padded to a long one among them.

A step of two lanes reads the weights twice, a step of one lane reads the padding: the smaller is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from service.engine.decoding.batch import Generator
from service.engine.decoding.costs import MAX_STEP_TOKENS, Economy
from service.engine.decoding.draft_model import Drafter, DraftModel
from service.engine.decoding.sampling import Sampler

MAX_LANES = 3
MIN_LANE_BYTES = 8 << 20  # to read less is not worth a step of its own


class Row(Protocol):
    """What lanes want to know of a row."""

    @property
    def lane(self) -> Generator | None:
        """Where it is stepped."""

    @property
    def length(self) -> int:
        """Tokens of its prompt and its answer so far."""


class Lanes:
    """
    The lanes of one model.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        max_rows: most rows at once.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
        bytes_per_token: of keys and values, in layers that grow.
        draft: guesses what can't be looked up; None: nobody does.
    """

    def __init__(
        self,
        model: nn.Module,
        max_rows: int,
        max_tokens_ahead: int,
        bytes_per_token: int,
        draft: DraftModel | None = None,
    ) -> None:
        self._model = model
        self._max_rows = max_rows
        self._max_tokens_ahead = max_tokens_ahead
        self._bytes_per_token = bytes_per_token
        self._bearable_bytes = max(_size_bytes(model), MIN_LANE_BYTES)
        self._draft = draft if max_tokens_ahead else None
        self._economy = Economy()
        self._has_read = False
        self._lanes: list[Generator] = []

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of all rows, padding included."""
        return sum(lane.prompt_cache_nbytes for lane in self._lanes)

    def best_for(self, n_tokens: int, rows: Iterable[Row]) -> Generator:
        """Return the lane that is padded least with one more row of *n_tokens* beside its *rows*."""
        lengths: dict[Generator, list[int]] = {}
        for row in rows:
            if row.lane is not None:
                lengths.setdefault(row.lane, [n_tokens]).append(row.length)
        n_padded = {lane: max(each) * len(each) - sum(each) for lane, each in lengths.items()}
        best = min(n_padded, key=n_padded.__getitem__, default=None)
        if best is not None and n_padded[best] * self._bytes_per_token <= self._bearable_bytes:
            return best
        empty = next((lane for lane in self._lanes if lane not in lengths), None)
        if empty is None and len(self._lanes) < MAX_LANES:
            empty = self._open()
        return empty or best or self._open()

    def step(self, n_tokens: int) -> tuple[list[Any], list[Any]]:
        """Step each lane, with *n_tokens* of each prompt that is read; return progress and responses."""
        progress: list[Any] = []
        responses: list[Any] = []
        for lane in self._lanes:
            self._economy.is_disturbed = self._has_read or bool(progress)
            lane.prefill_step_size = n_tokens
            read, drawn = lane.next()
            progress += read
            responses += drawn
        self._has_read = bool(progress)
        return progress, responses

    def close(self) -> None:
        """
        Close all lanes, with all that is in them, and forget what steps cost.

        Nothing else closes one: mlx-lm's generators set MLX's wired limit for all, and take it back.
        """
        self._lanes = []
        self._economy = Economy()

    def _open(self) -> Generator:
        draws, drafter = Sampler(), None
        if self._draft is not None:
            drafter = Drafter(self._draft, draws, self._max_tokens_ahead)
        lane = Generator(
            self._model,
            draws,
            self._max_tokens_ahead,
            self._economy,
            drafter,
            first_uid=len(self._lanes) << 40,
            completion_batch_size=self._max_rows,
            prefill_batch_size=self._max_rows,
            prefill_step_size=MAX_STEP_TOKENS,
        )
        self._lanes.append(lane)
        return lane


def _size_bytes(model: nn.Module) -> int:
    """Return the size of a model's weights."""
    weights: dict[str, mx.array] = tree_flatten(model.parameters(), destination={})  # type: ignore[assignment, no-untyped-call]  # mlx's stubs
    return sum(each.nbytes for each in weights.values())
