"""
How the next tokens are chosen, for all rows of a batch at once.

What each sequence wants lies in its `SequenceSampling`; a `BatchSampling` computes with all of them.
Logits have shape (rows, vocabulary), the ids that come back have shape (rows,). A row pays for what it asks
for and for nothing else.

The filters are mlx-lm's: `top_p`, `min_p` and `top_k` look at the model's own probabilities, before the
temperature. What is random comes from a key of the sequence's own and the number of its token, so that no
neighbour can move it.
"""

from __future__ import annotations

import functools
import math
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from service.engine.constrain.token_mask import allowed_tokens
from service.engine.text.prompt import TokenMask
from service.protocol import Sampling

MIN_TEMPERATURE = (
    1e-4  # below, dividing by it leaves the range of numbers: the likeliest token it is
)
MIN_TOP_P = 1e-6  # below, the sum of no token at all would be enough
NO_PENALTIES = (0.0, 0.0, 1.0)  # frequency, presence, repetition, as requests say it

_gumbel: dict[int, Callable[[mx.array], mx.array]] = {}


class Report:
    """
    Log-probabilities of one step's tokens, on the device until they are asked for.

    Args:
        chosen: those of the chosen ones, shape (reporting rows,).
        ids: the likeliest ids, likeliest first, shape (reporting rows, k).
        values: theirs, the same shape.
    """

    def __init__(self, chosen: mx.array, ids: mx.array, values: mx.array) -> None:
        self._arrays = (chosen, ids, values)
        mx.async_eval(self._arrays)  # type: ignore[no-untyped-call]  # mlx's stubs

    @functools.cached_property
    def _lists(self) -> tuple[list[float], list[list[int]], list[list[float]]]:
        chosen, ids, values = self._arrays
        return rows_of(chosen), rows_of(ids), rows_of(values)

    def read(self, place: int) -> tuple[float, list[tuple[int, float]]]:
        """Return the chosen token's value in the row at *place*, and the likeliest ones with theirs."""
        chosen, ids, values = self._lists
        return chosen[place], list(zip(ids[place], values[place], strict=True))


class SequenceSampling:
    """
    How the tokens of one sequence are chosen, and what is remembered of them.

    Args:
        wanted: what the request says; None where it says nothing.
        defaults: what the model's own files say; nothing is None but `seed`.
        prompt: the prompt's token ids, for the repetition penalty.
        n_logits: the logit width; `top_k` at or above it takes all tokens.
        top_logprobs: how many likeliest tokens to report; None: nothing is reported.
        token_mask: what the answer must be; None: anything.

    Attributes:
        n_drawn: how many tokens have been drawn; the next one is drawn with this number.
        is_in_flight: the token to be fed next was drawn, and neither mask nor penalties know it yet.
        reports: one for each token drawn and not yet said, with the row's place in it.
        counts: how often each token was fed after the prompt, shape (n_logits,); None without penalties.
        in_prompt: which tokens the prompt has, shape (n_logits,); None without penalties.
        bias: what is added to the logits, shape (n_logits,); None: nothing.
    """

    def __init__(
        self,
        wanted: Sampling,
        defaults: Sampling,
        prompt: Sequence[int],
        n_logits: int,
        *,
        top_logprobs: int | None = None,
        token_mask: TokenMask | None = None,
    ) -> None:
        temperature = _or(wanted.temperature, defaults.temperature)
        self.is_greedy = temperature < MIN_TEMPERATURE
        self.inverse_temperature = 1.0 if self.is_greedy else 1.0 / temperature
        self.top_p = max(_or(wanted.top_p, defaults.top_p), MIN_TOP_P)
        self.min_p = _or(wanted.min_p, defaults.min_p)
        top_k = int(_or(wanted.top_k, defaults.top_k))
        self.top_k = 0 if top_k >= n_logits else top_k
        if self.is_greedy:  # the likeliest token passes every filter
            self.top_p, self.min_p, self.top_k = 1.0, 0.0, 0
        self.key = _base_key(wanted.seed)
        self.n_drawn = 0
        self.is_in_flight = False
        self.top_logprobs = top_logprobs
        self.token_mask = token_mask
        self.reports: deque[tuple[Report, int]] = deque()
        self.penalties = (
            wanted.frequency_penalty,
            wanted.presence_penalty,
            _or(wanted.repetition_penalty, defaults.repetition_penalty),
        )
        self.counts: NDArray[np.float32] | None = None
        self._n_counted = 0
        self.in_prompt: NDArray[np.bool_] | None = None
        if self.penalties != NO_PENALTIES:
            self.counts = np.zeros(n_logits, dtype=np.float32)
            self.in_prompt = np.zeros(n_logits, dtype=np.bool_)
            self.in_prompt[np.asarray(prompt, dtype=np.int64)] = True
        self.bias = _bias((*defaults.logit_bias, *wanted.logit_bias), n_logits)

    @property
    def can_look_ahead(self) -> bool:
        """Whether what is drawn depends on nothing but logits, key and number."""
        return (
            self.token_mask is None
            and self.top_logprobs is None
            and self.counts is None
            and self.bias is None
        )

    def count(self, token: int, place: int) -> None:
        """Take in that *token* was fed, the answer's first at *place* 1; what was counted is left alone."""
        if place <= self._n_counted:
            return
        self._n_counted = place
        if self.counts is not None:
            self.counts[token] += 1

    def forget_unknown(self, n_known: int) -> None:
        """Take back what was drawn beyond the *n_known* tokens that were read: it will be drawn again."""
        self.n_drawn = n_known
        self.is_in_flight = self._n_counted < n_known
        self.reports.clear()


def are_finite(logits: mx.array) -> mx.array:
    """
    Return which rows of *logits*, shape (rows, ...), can be drawn from, not computed yet, shape (rows,).

    Their largest is no number where any of them is none: one reduction tells.
    """
    return mx.isfinite(mx.max(logits, axis=tuple(range(1, logits.ndim))))


def draw_ahead(
    rows: Sequence[SequenceSampling], n_later: Sequence[int], logits: mx.array
) -> mx.array:
    """
    Return tokens that sequences would draw later, not computed yet, shape (n,); nothing is remembered.

    Args:
        rows: whose tokens; a sequence may stand there several times.
        n_later: how many draws each token is after the sequence's next one.
        logits: the model's there, shape (n, vocabulary).
    """
    return BatchSampling(rows, n_later).chosen(logits.astype(mx.float32))


class BatchSampling:
    """
    How the next tokens of a batch are chosen, laid out for computing with all of its rows at once.

    Args:
        rows: one for each row of the batch, in its order.
        n_later: how many draws each is ahead of its next one; by default none is.
    """

    def __init__(
        self, rows: Sequence[SequenceSampling], n_later: Sequence[int] | None = None
    ) -> None:
        self._rows = list(rows)
        places = range(len(rows))
        self._masked = [i for i in places if rows[i].token_mask is not None]
        self._by_share = [i for i in places if rows[i].top_p < 1]
        self._by_count = [i for i in places if rows[i].top_k > 0]
        self._reporting = [i for i in places if rows[i].top_logprobs is not None]
        self._biased = [i for i in places if rows[i].bias is not None]
        self._bias = mx.stack([row.bias for row in rows if row.bias is not None] or [mx.zeros(0)])
        penalised = [i for i in places if rows[i].counts is not None]
        self._penalties = _Penalties(penalised, [rows[i] for i in penalised]) if penalised else None
        self._is_greedy = all(row.is_greedy for row in rows)
        if not self._is_greedy:
            self._inverse_temperatures = _column(row.inverse_temperature for row in rows)
            self._spread = None
            if any(row.is_greedy for row in rows):
                self._spread = _column(float(not row.is_greedy) for row in rows)
            self._keys = mx.array(np.stack([row.key for row in rows]))
            later = n_later or [0] * len(rows)
            numbers = [[0, row.n_drawn + n] for row, n in zip(rows, later, strict=True)]
            self._numbers = mx.array(np.array(numbers, dtype=np.uint32))
            self._next = mx.array(np.array([0, 1], dtype=np.uint32))
        self._min_p = None
        if any(row.min_p > 0 for row in rows):
            self._min_p = _column(
                math.log(row.min_p) if row.min_p > 0 else -math.inf for row in rows
            )
        self._top_p = _column(rows[i].top_p for i in self._by_share)
        self._top_k = [rows[i].top_k for i in self._by_count]
        self._n_top = max((rows[i].top_logprobs or 0 for i in self._reporting), default=0)

    def draw(self, logits: mx.array, fed: mx.array) -> mx.array:
        """
        Return the next token of each row, not computed yet, shape (rows,).

        Args:
            logits: the model's, shape (rows, vocabulary).
            fed: the tokens that it was given for them, shape (rows,); of a sequence that decodes, those
                drawn last.
        """
        scores = logits.astype(mx.float32)
        if self._penalties is not None:
            scores = self._penalties.applied(scores, fed)
        if self._biased:
            scores = self._put(scores, self._biased, self._at(scores, self._biased) + self._bias)
        if self._masked:
            scores = self._allowed(scores, fed)
        tokens = self.chosen(scores)
        for row in self._rows:
            row.n_drawn += 1
            row.is_in_flight = True
        if self._reporting:
            self._report(logits, tokens)
        return tokens

    def chosen(self, scores: mx.array) -> mx.array:
        """Return the token that each row draws from its *scores*, shape (rows, vocabulary)."""
        return mx.argmax(self._shaken(scores), axis=-1)

    def _allowed(self, scores: mx.array, fed: mx.array) -> mx.array:
        """Leave only the tokens that the masks let through; their cost hides behind the model."""
        mx.async_eval(scores)  # type: ignore[no-untyped-call]  # mlx's stubs
        tokens = rows_of(fed)
        token_masks = []
        for i in self._masked:
            row = self._rows[i]
            assert row.token_mask is not None
            if row.is_in_flight:
                row.token_mask.advance(tokens[i])
            token_masks.append(row.token_mask)
        allowed = mx.array(allowed_tokens(token_masks, scores.shape[-1]))
        left = mx.where(allowed, self._at(scores, self._masked), -mx.inf)
        return self._put(scores, self._masked, left)

    def _at(self, scores: mx.array, places: list[int]) -> mx.array:
        """Return the rows of *scores* at *places*, which ascend."""
        return scores if len(places) == len(self._rows) else scores[mx.array(places)]

    def _put(self, scores: mx.array, places: list[int], changed: mx.array) -> mx.array:
        """Return *scores* with the rows at *places* replaced by those of *changed*."""
        if len(places) == len(self._rows):
            return changed
        scores[mx.array(places)] = changed
        return scores

    def _shaken(self, scores: mx.array) -> mx.array:
        """Return scores whose largest is the token drawn: the Gumbel-max form of sampling."""
        if self._is_greedy:
            return scores
        threshold = self._threshold(scores)
        if threshold is not None:
            scores = mx.where(scores < threshold, -mx.inf, scores)
        noise = _noise(scores.shape[-1])(self._keys + self._numbers)
        self._numbers = self._numbers + self._next
        if self._spread is not None:
            noise = noise * self._spread
        return scores * self._inverse_temperatures + noise

    def _threshold(self, scores: mx.array) -> mx.array | None:
        """Return the least score that passes each row's filters, shape (rows, 1); None without any."""
        found = None
        if self._min_p is not None:
            found = mx.max(scores, axis=-1, keepdims=True) + self._min_p
        for places, least_of in (
            (self._by_share, self._least_by_share),
            (self._by_count, self._least_by_count),
        ):
            if places:
                least = self._spread_out(least_of(self._at(scores, places)), places)
                found = least if found is None else mx.maximum(found, least)
        return found

    def _spread_out(self, least: mx.array, places: list[int]) -> mx.array:
        """Return *least*, the thresholds of the rows at *places*, for all rows; others let all pass."""
        if len(places) == len(self._rows):
            return least
        everywhere = mx.full((len(self._rows), 1), -math.inf)
        everywhere[mx.array(places)] = least
        return everywhere

    def _least_by_share(self, scores: mx.array) -> mx.array:
        """Return the score of the last token that `top_p` takes."""
        ranked = mx.sort(scores, axis=-1)
        shares = mx.exp(ranked - ranked[..., -1:])
        above = mx.cumsum(shares, axis=-1, reverse=True, inclusive=False)
        total = above[..., :1] + shares[..., :1]
        n_dropped = (above >= self._top_p * total).sum(axis=-1, keepdims=True)
        return mx.take_along_axis(ranked, n_dropped, axis=-1)

    def _least_by_count(self, scores: mx.array) -> mx.array:
        """Return the score of the last token that `top_k` takes."""
        ids = likeliest(scores, max(self._top_k))
        lasts = mx.array([[top_k - 1] for top_k in self._top_k])
        return mx.take_along_axis(scores, mx.take_along_axis(ids, lasts, axis=-1), axis=-1)

    def _report(self, logits: mx.array, tokens: mx.array) -> None:
        """Keep what the model itself gave the chosen tokens and the likeliest ones."""
        logits = self._at(logits, self._reporting).astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        tokens = self._at(tokens, self._reporting)
        chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
        ids = likeliest(logprobs, self._n_top)
        report = Report(chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))
        for place, i in enumerate(self._reporting):
            self._rows[i].reports.append((report, place))


class _Penalties:
    """
    What the tokens that sequences have take from their logits.

    Args:
        places: the rows in the batch, ascending.
        rows: of the same, each with penalties.
    """

    def __init__(self, places: list[int], rows: Sequence[SequenceSampling]) -> None:
        self._places = mx.array(places)
        self._all = mx.arange(len(rows))
        self._frequency, self._presence, self._repetition = (
            _column(values) for values in zip(*(row.penalties for row in rows), strict=True)
        )
        self._counts = mx.array(np.stack([row.counts for row in rows if row.counts is not None]))
        self._in_prompt = None
        if any(row.penalties[2] != 1 for row in rows):
            found = [row.in_prompt for row in rows if row.in_prompt is not None]
            self._in_prompt = mx.array(np.stack(found))
        self._is_new = mx.array([float(row.is_in_flight) for row in rows])
        self._are_all_new = all(row.is_in_flight for row in rows)

    def applied(self, scores: mx.array, fed: mx.array) -> mx.array:
        """
        Return *scores*, shape (rows of the batch, vocabulary), with the penalties, after *fed* is counted.

        The repetition's comes first, as it scales what the model said.
        """
        logits = scores[self._places]
        self._counts = self._counts.at[self._all, fed[self._places]].add(self._is_new)
        if not self._are_all_new:
            self._is_new, self._are_all_new = mx.ones_like(self._is_new), True
        occurred = self._counts > 0
        if self._in_prompt is not None:
            scaled = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = mx.where(occurred | self._in_prompt, scaled, logits)
        scores[self._places] = logits - self._frequency * self._counts - self._presence * occurred
        return scores


def rows_of(array: mx.array) -> list[Any]:
    """Return *array*, which has rows, as a list of them; waits until it is computed."""
    found = array.tolist()
    assert isinstance(found, list)
    return found


def likeliest(logprobs: mx.array, n: int) -> mx.array:
    """Return the ids of the *n* largest of *logprobs*, largest first, shape (..., n)."""
    if not n:
        return mx.zeros((*logprobs.shape[:-1], 0), dtype=mx.uint32)
    ids = mx.argpartition(-logprobs, kth=n - 1, axis=-1)[..., :n]
    order = mx.argsort(-mx.take_along_axis(logprobs, ids, axis=-1), axis=-1)
    return mx.take_along_axis(ids, order, axis=-1)


def _or(wanted: float | None, default: float | None) -> float:
    value = default if wanted is None else wanted
    assert value is not None
    return value


def _column(values: Iterable[float]) -> mx.array:
    return mx.array([[value] for value in values])


def _base_key(seed: int | None) -> NDArray[np.uint32]:
    """Return two words from which a row's keys are counted on; without a seed they are random."""
    first, _ = mx.random.split(mx.random.key(secrets.randbits(63) if seed is None else seed))
    return np.array(first)


def _noise(n: int) -> Callable[[mx.array], mx.array]:
    """Return what makes Gumbel noise of shape (rows, *n*) from keys of shape (rows, 2)."""
    if n not in _gumbel:
        _gumbel[n] = mx.vmap(lambda key: mx.random.gumbel((n,), key=key))
    return _gumbel[n]


def _bias(logit_bias: Sequence[tuple[int, float]], n_logits: int) -> mx.array | None:
    """Return what *logit_bias* adds to each logit that there is; None: nothing."""
    if not logit_bias:
        return None
    bias = np.zeros(n_logits, dtype=np.float32)
    for i, value in logit_bias:
        if i < n_logits:
            bias[i] += value
    return mx.array(bias)
