"""
Batches that are stepped beside each other, so that short rows aren't padded to a long one among them.

A step of two lanes reads the weights twice, a step of one lane reads the padding: the smaller is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as Several

import mlx.nn as nn

from service.engine.cache.prefix_cache import Cache
from service.engine.decoding.batch import Advance, Batch
from service.engine.decoding.counts import Counts
from service.engine.decoding.draft_model import DraftModel
from service.engine.decoding.drafter import Drafter
from service.engine.decoding.sequence import Sequence
from service.engine.decoding.speculation import Speculation
from service.engine.decoding.step_costs import StepCosts
from service.engine.model.load import size_bytes

MAX_LANES = 3  # each reads all weights in every step (taste)
MIN_LANE_BYTES = 8 << 20  # padding of so little is read faster than a second step begins (measured)
PADDING_SHARE = 1 / 8  # of the KV budget that the padding of one lane may take (taste)


class Lane:
    """
    One batch, and what guesses for it.

    Args:
        batch: the rows.
        speculation: steps them with guesses; None: nothing is guessed.
    """

    def __init__(self, batch: Batch, speculation: Speculation | None) -> None:
        self.batch = batch
        self._speculation = speculation

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((len(each.tokens) for each in self.batch.sequences), default=0)

    def padding(self, joining: Several[int]) -> int:
        """Return how many places would be padding, if rows of so many tokens were *joining*."""
        lengths = [*joining, *(len(each.tokens) for each in self.batch.sequences)]
        return max(lengths) * len(lengths) - sum(lengths)

    def step(self) -> list[Advance]:
        """Advance each row by a token or more."""
        return self._speculation.step() if self._speculation else self.batch.decode()

    def leave(self, leaving: Collection[Sequence]) -> None:
        """Take out all *leaving* sequences that are here."""
        self.batch.leave(leaving)
        if self._speculation:
            self._speculation.leave(leaving)


class Lanes:
    """
    The lanes of one model.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        bytes_per_token: of keys and values, in layers that grow.
        kv_budget_bytes: what the caches of all rows may take together.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
        draft: guesses what can't be looked up; None: nobody does.
        counts: where guesses are counted.
    """

    def __init__(
        self,
        model: nn.Module,
        bytes_per_token: int,
        kv_budget_bytes: float,
        max_tokens_ahead: int,
        draft: DraftModel | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._model = model
        self._bytes_per_token = bytes_per_token
        bearable_bytes = max(size_bytes(model), MIN_LANE_BYTES)
        self._bearable_bytes = min(bearable_bytes, kv_budget_bytes * PADDING_SHARE)
        self._max_tokens_ahead = max_tokens_ahead
        self._draft = draft
        self._counts = counts or Counts()
        self.clear()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def sequences(self) -> list[Sequence]:
        """All rows."""
        return [each for lane in self._lanes for each in lane.batch.sequences]

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values of all rows, padding included."""
        return sum(lane.batch.n_bytes for lane in self._lanes)

    def clear(self) -> None:
        """Drop all rows, and forget what steps cost."""
        self._lanes: list[Lane] = []
        self._costs = StepCosts()

    def join(self, sequences: Several[Sequence], cache: Cache) -> None:
        """Put *sequences*, prefilled into *cache* together, where they are padded least."""
        lane = self._best_for([len(each.tokens) for each in sequences]) or self._open()
        lane.batch.join(sequences, cache)

    def lengths(self, joining: Several[int]) -> list[int]:
        """Return how many places each row has, padding included, once rows of so many tokens have joined."""
        best = self._best_for(joining) if joining else None
        lengths = [] if best else list(joining)
        for lane in self._lanes:
            more = joining if lane is best else ()
            n_rows = len(lane.batch.sequences) + len(more)
            lengths += [max(lane.longest, *more, 0)] * n_rows
        return lengths

    def steps(self, *, is_disturbed: bool) -> Iterator[tuple[Lane, list[Advance]]]:
        """
        Step one lane after another; yield each with what it brought.

        Args:
            is_disturbed: prompts are prefilled meanwhile, so that the time that steps take says nothing.
        """
        self._costs.is_disturbed = is_disturbed
        for lane in self._lanes:
            if lane.batch.sequences:
                yield lane, lane.step()

    def leave(self, leaving: Collection[Sequence]) -> None:
        """Take out all *leaving* sequences, wherever they are, in one pass over each lane."""
        for lane in self._lanes:
            lane.leave(leaving)

    def _best_for(self, joining: Several[int]) -> Lane | None:
        """Return the lane for rows of so many tokens, where they are padded least; None: a new one."""
        used = [lane for lane in self._lanes if lane.batch.sequences]
        best = min(used, key=lambda lane: lane.padding(joining), default=None)
        if best and best.padding(joining) * self._bytes_per_token <= self._bearable_bytes:
            return best
        empty = next((lane for lane in self._lanes if not lane.batch.sequences), None)
        return empty or (best if len(self._lanes) >= MAX_LANES else None)

    def _open(self) -> Lane:
        batch, speculation = Batch(self._model), None
        if self._max_tokens_ahead:
            drafter = Drafter(self._draft, self._max_tokens_ahead) if self._draft else None
            speculation = Speculation(
                batch, self._max_tokens_ahead, self._costs, drafter, self._counts
            )
        lane = Lane(batch, speculation)
        self._lanes.append(lane)
        return lane
