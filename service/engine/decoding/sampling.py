"""
How the next tokens are chosen, for all rows of a step at once.

BatchGenerator calls a sampler once for the whole batch where all rows share the object, so all rows
share this one; what each row wants lies in its `Draw`. Logits have shape (rows, vocabulary), and may be
off by a number of each row's own, as log-probabilities are; the ids that come back have shape (rows,). A row
pays for what it asks for and for nothing else.

The filters are mlx-lm's: `top_p`, `min_p` and `top_k` look at the model's own probabilities, before the
temperature. What is random comes from a key of the row's own and the number of its token, so that no
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
from mlx_lm.generate import StopSequences
from numpy.typing import NDArray

from service.engine.constrain.token_mask import allowed_tokens
from service.engine.text.prompt import TokenMask
from service.protocol import Sampling

MIN_TEMPERATURE = (
    1e-4  # below, dividing by it leaves the range of numbers: the likeliest token it is
)
MIN_TOP_P = 1e-6  # below, the sum of no token at all would be enough

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


class Drawn:
    """The tokens of one step, shape (rows,), on the device until they are asked for."""

    def __init__(self, tokens: mx.array) -> None:
        self.tokens = tokens

    @functools.cached_property
    def _list(self) -> list[int]:
        return rows_of(self.tokens)

    def token(self, place: int) -> int:
        """Return the token of the row at *place*; waits until it is computed."""
        return self._list[place]


class Draw:
    """
    What one row wants, and what is remembered for it from token to token.

    Args:
        wanted: what the request says; None where it says nothing.
        defaults: what the model's own files say; nothing is None but `seed`.
        prompt: its token ids, for the repetition penalty.
        n_logits: the logit width; `top_k` at or above it takes all tokens.
        top_logprobs: how many likeliest tokens to report; None: nothing is.
        token_mask: what the answer must be; None: anything.

    Attributes:
        reports: one for each token drawn and not yet read, with the row's place in it.
        last: what was drawn last, for all rows of that step; None: nothing yet.
        place: the row's place in it.
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
        self.top_logprobs = top_logprobs
        self.token_mask = token_mask
        self.reports: deque[tuple[Report, int]] = deque()
        self.last: Drawn | None = None
        self.place = 0
        self._penalties = _Penalties(wanted, prompt, n_logits) if _has_penalties(wanted) else None
        self._bias = _bias(wanted, n_logits)

    @property
    def processors(self) -> list[Callable[[mx.array, mx.array], mx.array]]:
        """What BatchGenerator is to call with this row's logits; none unless they are needed."""
        penalties = self._penalties
        return [penalties.hear] if penalties is not None and penalties.needs_logits else []

    @property
    def is_adjusted(self) -> bool:
        """Whether its logits are changed before anything is drawn."""
        return self._penalties is not None or self._bias is not None

    def adjusted(self, scores: mx.array) -> mx.array:
        """Return this row's *scores*, shape (vocabulary,), with penalties and bias."""
        if self._penalties is not None:
            scores = self._penalties.applied(scores)
        return scores if self._bias is None else scores + self._bias

    def note(self, drawn: Drawn, place: int) -> None:
        """Remember what was drawn for this row, which stands at *place* and may not be computed yet."""
        self.n_drawn += 1
        self.last, self.place = drawn, place
        if self._penalties is not None:
            self._penalties.count(drawn.tokens[place])


class _Penalties:
    """
    Which tokens a row has, and what that takes from their logits.

    Attributes:
        needs_logits: log-probabilities are not enough, since the sign of a logit matters.
    """

    def __init__(self, wanted: Sampling, prompt: Sequence[int], n_logits: int) -> None:
        self._frequency = wanted.frequency_penalty
        self._presence = wanted.presence_penalty
        self._repetition = wanted.repetition_penalty
        seen = np.zeros(n_logits, dtype=bool)
        seen[np.asarray(prompt, dtype=np.int64)] = True
        self._in_prompt = mx.array(seen)
        self._counts = mx.zeros(n_logits)
        self._ids = mx.arange(n_logits)
        self._level = mx.array(0.0)
        self.needs_logits = self._repetition != 1

    def hear(self, _: mx.array, logits: mx.array) -> mx.array:
        """Note how far *logits*, shape (1, vocabulary), lie above log-probabilities; change nothing."""
        self._level = mx.logsumexp(logits.astype(mx.float32))
        return logits

    def count(self, token: mx.array) -> None:
        """Count one more of *token*, an id as an array without shape."""
        self._counts = self._counts + (self._ids == token)

    def applied(self, scores: mx.array) -> mx.array:
        """Return *scores* with the penalties; the repetition's first, as it scales what the model said."""
        occurred = self._counts > 0
        if self.needs_logits:
            logits = scores + self._level
            scaled = mx.where(logits > 0, logits / self._repetition, logits * self._repetition)
            scores = mx.where(occurred | self._in_prompt, scaled, logits)
        return scores - self._frequency * self._counts - self._presence * occurred


class Sampler:
    """
    Draws for all rows of a batch.

    The rows' order is that of the batch, which only ever appends those that begin and leaves out those
    that end. `turnstile` announces a row when the batch takes it in.
    """

    def __init__(self) -> None:
        self._rows: list[Draw] = []
        self._beginning: list[Draw] = []
        self._plan: _Plan | None = None

    def turnstile(self, row: Draw, ends: StopSequences) -> StopSequences:
        """Return *ends* in a form that says when *row* begins to decode."""
        return _Turnstile(ends, lambda: self._beginning.append(row))

    def forget(self, row: Draw) -> None:
        """Leave out a row that has ended, wherever it stood."""
        if row in self._rows:
            self._rows.remove(row)
            self._plan = None

    def can_look_ahead(self, place: int) -> bool:
        """Whether what the row at *place* draws depends on nothing but logits, key and number."""
        row = self._rows[place]
        return row.token_mask is None and row.top_logprobs is None and not row.is_adjusted

    def ahead(self, places: Sequence[tuple[int, int]], logits: mx.array) -> mx.array:
        """
        Return tokens that rows would draw later, not computed yet, shape (n,); nothing is remembered.

        Args:
            places: a row's place, and how many draws after its last one.
            logits: the model's there, shape (n, vocabulary).
        """
        plan = _Plan([self._rows[i] for i, _ in places], [n - 1 for _, n in places])
        return plan.chosen(logits.astype(mx.float32))

    def skip(self, n_draws: Sequence[int]) -> None:
        """Count draws for each row that `ahead` made."""
        for row, n in zip(self._rows, n_draws, strict=True):
            row.n_drawn += n
        self._plan = None

    def __call__(self, logits: mx.array) -> mx.array:
        """
        Return the next token of each row, not computed yet, shape (rows,).

        Args:
            logits: the model's, shape (rows, vocabulary).
        """
        if self._beginning:
            rows, self._beginning = self._beginning, []
            self._rows.extend(rows)
            self._plan = None
            plan = _Plan(rows)
        else:
            plan = self._plan = self._plan or _Plan(self._rows)
        if len(plan.rows) != logits.shape[0]:
            raise RuntimeError(f"{logits.shape[0]} rows were stepped, {len(plan.rows)} are known")
        return plan.draw(logits)


class _Plan:
    """
    What a set of rows wants, laid out for computing with all of them at once.

    Args:
        rows: each may stand there several times.
        n_later: how many draws each is ahead of what it has drawn; by default none is.
    """

    def __init__(self, rows: Sequence[Draw], n_later: Sequence[int] | None = None) -> None:
        self.rows = list(rows)
        places = range(len(rows))
        self._adjusted = [i for i in places if rows[i].is_adjusted]
        self._with_mask = [i for i in places if rows[i].token_mask is not None]
        self._by_share = [i for i in places if rows[i].top_p < 1]
        self._by_count = [i for i in places if rows[i].top_k > 0]
        self._reporting = [i for i in places if rows[i].top_logprobs is not None]
        self._is_greedy = all(row.is_greedy for row in rows)
        if not self._is_greedy:
            self._inverse_temperatures = _column(row.inverse_temperature for row in rows)
            self._spread = None
            if any(row.is_greedy for row in rows):
                self._spread = _column(float(not row.is_greedy) for row in rows)
            self._keys = mx.array(np.stack([row.key for row in rows]))
            numbers = [
                row.n_drawn + n for row, n in zip(rows, n_later or [0] * len(rows), strict=True)
            ]
            self._numbers = mx.array(np.array([[0, n] for n in numbers], dtype=np.uint32))
            self._next = mx.array(np.array([0, 1], dtype=np.uint32))
        self._min_p = None
        if any(row.min_p > 0 for row in rows):
            self._min_p = _column(
                math.log(row.min_p) if row.min_p > 0 else -math.inf for row in rows
            )
        self._top_p = _column(rows[i].top_p for i in self._by_share)
        self._top_k = [rows[i].top_k for i in self._by_count]
        self._n_top = max((rows[i].top_logprobs or 0 for i in self._reporting), default=0)

    def draw(self, logits: mx.array) -> mx.array:
        """Return the next token of each row."""
        scores = logits.astype(mx.float32)
        for i in self._adjusted:
            scores[i] = self.rows[i].adjusted(scores[i])
        if self._with_mask:
            scores = self._masked(scores)
        tokens = self.chosen(scores)
        drawn = Drawn(tokens)
        for i, row in enumerate(self.rows):
            row.note(drawn, i)
        if self._reporting:
            self._report(logits, tokens)
        return tokens

    def chosen(self, scores: mx.array) -> mx.array:
        """Return the token that each row draws from its *scores*, shape (rows, vocabulary)."""
        return mx.argmax(self._shaken(scores), axis=-1)

    def _masked(self, scores: mx.array) -> mx.array:
        """Leave only the tokens that the masks let through; what they cost hides behind the model."""
        mx.async_eval(scores)  # type: ignore[no-untyped-call]  # mlx's stubs
        token_masks = []
        for i in self._with_mask:
            row = self.rows[i]
            assert row.token_mask is not None
            if row.last is not None:
                row.token_mask.advance(row.last.token(row.place))
            token_masks.append(row.token_mask)
        allowed = mx.array(allowed_tokens(token_masks, scores.shape[-1]))
        if len(self._with_mask) == len(self.rows):
            return mx.where(allowed, scores, -mx.inf)
        places = mx.array(self._with_mask)
        scores[places] = mx.where(allowed, scores[places], -mx.inf)
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
                least = self._spread_out(least_of(self._rows_at(scores, places)), places)
                found = least if found is None else mx.maximum(found, least)
        return found

    def _rows_at(self, scores: mx.array, places: list[int]) -> mx.array:
        return scores if len(places) == len(self.rows) else scores[mx.array(places)]

    def _spread_out(self, least: mx.array, places: list[int]) -> mx.array:
        """Return *least*, the thresholds of the rows at *places*, for all rows; others let all pass."""
        if len(places) == len(self.rows):
            return least
        everywhere = mx.full((len(self.rows), 1), -math.inf)
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
        logits = self._rows_at(logits, self._reporting).astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        tokens = self._rows_at(tokens, self._reporting)
        chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
        ids = likeliest(logprobs, self._n_top)
        report = Report(chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))
        for place, i in enumerate(self._reporting):
            self.rows[i].reports.append((report, place))


class _Turnstile(StopSequences):  # type: ignore[misc]  # mlx-lm has no types
    """Stop sequences that tell when a batch asks for the matcher of its new row."""

    def __init__(self, ends: StopSequences, announce: Callable[[], None]) -> None:
        self._ends = ends
        self._announce = announce

    def matcher(self) -> StopSequences.Matcher:
        self._announce()
        return self._ends.matcher()


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


def _has_penalties(wanted: Sampling) -> bool:
    return bool(
        wanted.frequency_penalty or wanted.presence_penalty or wanted.repetition_penalty != 1
    )


def _bias(wanted: Sampling, n_logits: int) -> mx.array | None:
    """Return what `logit_bias` adds to each logit; its ids have been checked."""
    if not wanted.logit_bias:
        return None
    bias = np.zeros(n_logits, dtype=np.float32)
    for i, value in wanted.logit_bias:
        bias[i] += value
    return mx.array(bias)
