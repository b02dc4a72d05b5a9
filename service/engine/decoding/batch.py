"""
Sequences that decode together: one row each, one KV cache, one order.

A step feeds each row the token that it drew last and begins to compute the next one; while that runs, the
tokens that were fed are read and said. Where guesses are checked, each row is fed several tokens, and those
that were drawn in their place are accepted.

A row alone is no batch: its cache is its own, without the padding and masks that rows need together.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Several
from typing import Any, NamedTuple

import mlx.core as mx

from service.engine.cache.kv import (
    drop_common_padding,
    extend,
    extract,
    keep_rows,
    merge,
    n_bytes,
    to_temporal_order,
    trim_each,
)
from service.engine.cache.prefix_cache import Cache
from service.engine.decoding.prompt_lookup import accepted
from service.engine.decoding.sampling import BatchSampling, are_finite, draw_ahead, rows_of
from service.engine.decoding.sequence import Sequence, Status

CHECKS_PER_TIDY = (
    64  # rows that take tokens back leave padding behind, a place or two each time (taste)
)


class Advance(NamedTuple):
    """
    What a step brought one sequence.

    Attributes:
        sequence: which one.
        tokens: the new ones; none where what was fed is known already, as a prompt's last token is.
        n_fed: how many tokens its cache has more.
        is_finite: the new tokens were drawn from numbers; else they mean nothing.
    """

    sequence: Sequence
    tokens: list[int]
    n_fed: int
    is_finite: bool = True


class Batch:
    """
    Sequences that decode together. Belongs to the MLX thread.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits, shape (rows, n, vocabulary).

    Attributes:
        sequences: the rows, in order.
        is_ahead: the tokens drawn last are still being computed, or were when somebody last looked.
    """

    def __init__(self, model: Any) -> None:
        self.sequences: list[Sequence] = []
        self.is_ahead = False
        self._model = model
        self._cache: Cache = []
        self._drawn = mx.zeros(0, dtype=mx.uint32)
        self._are_finite = mx.zeros(0, dtype=mx.bool_)  # what the drawn tokens were drawn from
        self._sampling: BatchSampling | None = None
        self._n_checks = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values, padding included."""
        return n_bytes(self._cache)

    def join(self, sequences: Several[Sequence], cache: Cache) -> None:
        """
        Take in *sequences*, which are prefilled.

        Args:
            sequences: at least one.
            cache: of all of them as one batch; of a sequence alone its own. It is the batch's from now on.
        """
        drawn = mx.array([each.tokens[-1] for each in sequences], dtype=mx.uint32)
        are_finite = mx.ones(len(sequences), dtype=mx.bool_)
        if self.sequences:
            self._cache = merge([self._cache]) if len(self.sequences) == 1 else self._cache
            extend(self._cache, merge([cache]) if len(sequences) == 1 else cache)
            drawn = mx.concatenate([self._drawn, drawn])
            are_finite = mx.concatenate([self._are_finite, are_finite])
        else:
            self._cache = cache
        self._drawn, self._are_finite = drawn, are_finite
        self.sequences += sequences
        for each in sequences:
            each.status, each.cache = Status.DECODING, None
        self._arrange()

    def leave(self, leaving: Collection[Sequence]) -> None:
        """Take out all *leaving* sequences that are here, in one pass."""
        keep = [i for i, each in enumerate(self.sequences) if each not in leaving]
        if len(keep) == len(self.sequences):
            return
        if len(keep) > 1:
            keep_rows(self._cache, keep)
        else:
            self._cache = extract(self._cache, keep[0]) if keep else []
        rows = mx.array(keep, dtype=mx.uint32)
        self._drawn, self._are_finite = self._drawn[rows], self._are_finite[rows]
        self.sequences = [self.sequences[i] for i in keep]
        self._arrange()

    def last_cache(self, sequence: Sequence) -> Cache:
        """Return the cache of a *sequence* that leaves next, by itself, and not computed yet."""
        if len(self.sequences) == 1:
            return self._cache
        return extract(self._cache, self.sequences.index(sequence))

    def drawn(self) -> list[int]:
        """Return what each row has drawn last; waits until it is computed."""
        self.is_ahead = False
        return rows_of(self._drawn)

    def read(self) -> list[Advance]:
        """Read what each row has drawn last, at once and not with the next step."""
        return [
            Advance(each, each.read(token), 0, is_finite)
            for each, token, is_finite in zip(
                self.sequences, self.drawn(), rows_of(self._are_finite), strict=True
            )
        ]

    def decode(self) -> list[Advance]:
        """Feed each row the token that it drew last; return what was fed."""
        fed, were_finite = self._drawn, self._are_finite
        logits = self._model(fed[:, None], cache=self._cache)[:, -1]
        self._drawn, self._are_finite = self._laid_out().draw(logits, fed), are_finite(logits)
        mx.async_eval(self._drawn, self._are_finite)  # type: ignore[no-untyped-call]  # mlx's stubs
        self.is_ahead = True
        return [
            Advance(each, each.take([token]), 1, is_finite)
            for each, token, is_finite in zip(
                self.sequences, rows_of(fed), rows_of(were_finite), strict=True
            )
        ]

    def check(self, guesses: Several[list[int]]) -> list[Advance]:
        """
        Feed each row the token that it drew last and its guess; return what was accepted.

        Args:
            guesses: one for each row, some of them empty.
        """
        n_wide = max(map(len, guesses))
        padded = [guess + [0] * (n_wide - len(guess)) for guess in guesses]
        fed = mx.concatenate([self._drawn[:, None], mx.array(padded, dtype=mx.uint32)], axis=1)
        to_temporal_order(self._cache)
        logits = self._model(fed, cache=self._cache)
        drawn = self._draw_along(logits, fed[:, 0], guesses)
        finite = rows_of(self._are_finite & are_finite(logits))
        self._are_finite = mx.ones(len(finite), dtype=mx.bool_)
        n_before = [each.n_in_cache for each in self.sequences]
        advances = []
        for i, token in enumerate(rows_of(fed[:, 0])):
            each = self.sequences[i]
            tokens = each.take([token, *accepted(guesses[i], drawn[i])])
            n_fed = each.n_in_cache - n_before[i]
            advances.append(Advance(each, tokens, n_fed, finite[i]))
        trim_each(self._cache, [n_wide + 1 - one.n_fed for one in advances])
        for one in advances:
            one.sequence.sampling.n_drawn += one.n_fed - 1
        self._sampling, self.is_ahead = None, False
        last = [drawn[i][one.n_fed - 1] for i, one in enumerate(advances)]
        self._drawn = mx.array(last, dtype=mx.uint32)
        self._n_checks += 1
        if self._n_checks % CHECKS_PER_TIDY == 0:
            self._arrange()
        return advances

    def _draw_along(
        self, logits: mx.array, fed: mx.array, guesses: Several[list[int]]
    ) -> list[list[int]]:
        """Return what each row draws after the token *fed*, and after each token of its guess."""
        first = self._laid_out().draw(logits[:, 0], fed)
        places = [(i, n) for i, guess in enumerate(guesses) for n in range(len(guess))]
        rows, columns = mx.array(places).T
        samplings = [self.sequences[i].sampling for i, _ in places]
        later = draw_ahead(samplings, [n for _, n in places], logits[rows, columns + 1])
        drawn = [[token] for token in rows_of(first)]
        for (i, _), token in zip(places, rows_of(later), strict=True):
            drawn[i].append(token)
        return drawn

    def _laid_out(self) -> BatchSampling:
        if self._sampling is None:
            self._sampling = BatchSampling([each.sampling for each in self.sequences])
        return self._sampling

    def _arrange(self) -> None:
        """Take in that rows have come, gone or moved: no padding that all have, and a new order."""
        self._sampling = None
        if len(self.sequences) > 1:
            drop_common_padding(self._cache, [each.n_in_cache for each in self.sequences])
