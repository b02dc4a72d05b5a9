"""
Prompt lookup: what a row will say next is guessed from what stands in it already, and checked in one step.

A guess costs a few more positions in a step that is made anyway. Every position is drawn as it would be
without guesses, with the row's own key and the token's own number, and a guess stands only where it is what
was drawn. So answers are the same, greedy or not, and only the number of steps is another.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023; the guesses after Saxena,
"Prompt Lookup Decoding", 2023.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator, GenerationBatch
from mlx_lm.models.cache import BatchRotatingKVCache, CacheList

from service.engine.sampling import Sampler, rows_of

N_GRAM = 3
FIRST_TOKENS = 3
MAX_PAUSE = 64
INERTIA = 0.8
MIN_GAIN = 1.1
N_CHECKED = 64


class Lookup:
    """
    One row's tokens, and how well its guesses do.

    Args:
        max_tokens: most tokens of a guess.
    """

    def __init__(self, max_tokens: int) -> None:
        self._ids = np.zeros(256, dtype=np.int64)
        self._n = 0
        self._max_tokens = max_tokens
        self._wanted = min(FIRST_TOKENS, max_tokens)
        self._pause = 0
        self._next_pause = 1
        self.share = 0.5  # of the guessed tokens that stood, of late

    def guess(self, tokens: Sequence[int]) -> list[int]:
        """
        Return what may follow *tokens*, which began as at the last call; empty where nothing comes to mind.

        The last tokens are looked for among all before them, the latest place first.
        """
        self._take(tokens)
        if self._pause:
            self._pause -= 1
            return []
        ids = self._ids[: self._n]
        if len(ids) <= N_GRAM:
            return []
        found = ids[N_GRAM - 1 : -1] == ids[-1]
        for i in range(1, N_GRAM):
            found &= ids[N_GRAM - 1 - i : -1 - i] == ids[-1 - i]
        places = found.nonzero()[0]
        if not len(places):
            return []
        again = ids[int(places[-1]) + N_GRAM :]  # and so on, if it is shorter than a guess
        return [int(again[i % len(again)]) for i in range(1 + self._wanted)]

    def learn(self, n_guessed: int, n_stood: int) -> None:
        """Take in how a guess did: what does well grows, what fails rests for a while."""
        self.share = INERTIA * self.share + (1 - INERTIA) * n_stood / n_guessed
        if n_stood:
            self._next_pause = 1
            self._wanted = min(2 * n_stood + 1, self._max_tokens)
        else:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, MAX_PAUSE)
            self._wanted = min(FIRST_TOKENS, self._max_tokens)

    def _take(self, tokens: Sequence[int]) -> None:
        if len(tokens) > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(len(tokens), dtype=np.int64)])
        self._ids[self._n : len(tokens)] = tokens[self._n :]
        self._n = len(tokens)


class Economy:
    """What steps cost, learnt from those before; says whether a guess is worth its positions."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._more_s = 0.0

    def is_worth_it(self, n_rows: int, n_more: int, n_expected: float) -> bool:
        """Whether *n_expected* tokens more are worth computing *n_more* positions more."""
        if not self._step_s:
            return False
        dearer = 1 + n_more * self._more_s / self._step_s
        return 1 + n_expected / n_rows > MIN_GAIN * dearer

    def learn(self, took_s: float, n_more: int) -> None:
        """Take in what a step took that computed *n_more* positions beside each row's own."""
        if not n_more:
            self._step_s = _mixed(self._step_s or took_s, took_s)
        else:
            self._more_s = _mixed(self._more_s, max(took_s - self._step_s, 0.0) / n_more)


class DraftingBatch(GenerationBatch):  # type: ignore[misc]  # mlx-lm has no types
    """
    mlx-lm's batch of rows that decode, which checks guesses in a step where there are any worth it.

    Attributes:
        draws: what all rows draw with.
        max_tokens_ahead: most tokens of a guess.
    """

    draws: Sampler
    max_tokens_ahead: int
    _next_tokens: mx.array
    _lookups: dict[int, Lookup]
    _economy: Economy
    _n_checked: int

    @classmethod
    def of(cls, model: Any, draws: Sampler, max_tokens_ahead: int) -> DraftingBatch:
        """Return an empty one."""
        batch: DraftingBatch = cls.empty(model, draws)
        batch.draws = draws
        batch.max_tokens_ahead = max_tokens_ahead
        batch._lookups = {}
        batch._n_checked = 0
        batch._economy = Economy()
        return batch

    def next(self) -> list[Any]:
        """Advance each row by one token, or by more where a guess stood; return them in order."""
        began_s = time.perf_counter()
        guesses = self._guesses()
        n_more = len(self.uids) * max(map(len, guesses), default=0)
        responses = self._checked(guesses) if n_more else super().next()
        self._economy.learn(time.perf_counter() - began_s, n_more)
        return list(responses)

    def _guesses(self) -> list[list[int]]:
        """Return a guess for each row, to follow the token that it has drawn last; mostly empty."""
        self._lookups = {
            uid: self._lookups.get(uid) or Lookup(self.max_tokens_ahead) for uid in self.uids
        }
        none: list[list[int]] = [[] for _ in self.uids]
        if any(self.logits_processors):
            return none
        found = [
            lookup.guess(tokens) if self.draws.can_look_ahead(i) else []
            for i, (lookup, tokens) in enumerate(
                zip(self._lookups.values(), self.tokens, strict=True)
            )
        ]
        if not any(len(guess) > 1 for guess in found):
            return none
        expected = sum(
            lookup.share * max(len(guess) - 1, 0)
            for lookup, guess in zip(self._lookups.values(), found, strict=True)
        )
        n_more = len(found) * (max(map(len, found)) - 1)
        if not self._economy.is_worth_it(len(found), n_more, expected):
            return none
        drawn = rows_of(self._next_tokens)  # now it has to be waited for
        for place, (lookup, guess) in enumerate(zip(self._lookups.values(), found, strict=True)):
            if guess and guess[0] != drawn[place]:
                lookup.learn(1, 0)
                found[place] = []
        return [guess[1:] for guess in found]

    def _checked(self, guesses: list[list[int]]) -> list[Any]:
        """Feed each row its last token and its guess; return the tokens that stand, in order."""
        n_wide = max(map(len, guesses))
        padded = [guess + [0] * (n_wide - len(guess)) for guess in guesses]
        fed = mx.concatenate(
            [self._next_tokens[:, None], mx.array(padded, dtype=self._next_tokens.dtype)], axis=1
        )
        straighten(self.prompt_cache)
        logits = self.model(fed, cache=self.prompt_cache)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        drawn = self._drawn(logprobs, guesses)
        said = [
            self._say(i, [token, *stood(guess, drawn[i])])
            for i, (token, guess) in enumerate(zip(rows_of(fed[:, 0]), guesses, strict=True))
        ]
        for lookup, guess, tokens in zip(self._lookups.values(), guesses, said, strict=True):
            if guess:
                lookup.learn(len(guess), len(tokens) - 1)
        rewind(self.prompt_cache, [n_wide + 1 - len(tokens) for tokens in said])
        self.draws.skip([len(tokens) - 1 for tokens in said])
        last = [drawn[i][len(tokens) - 1] for i, tokens in enumerate(said)]
        self._next_tokens = mx.array(last, dtype=self._next_tokens.dtype)
        self._next_logprobs = list(logprobs[:, 0])
        return self._responses(said)

    def _say(self, i: int, tokens: list[int]) -> list[tuple[int, str | None]]:
        """Count *tokens* for row *i*; return them with their finish reasons, up to the first that has one."""
        said: list[tuple[int, str | None]] = []
        for token in tokens:
            self._num_tokens[i] += 1
            self.tokens[i].append(token)
            reason = "length" if self._num_tokens[i] >= self.max_tokens[i] else None
            if self._matchers[i].advance(token):
                reason = "stop"
            said.append((token, reason))
            if reason:
                break
        return said

    def _responses(self, said: list[list[tuple[int, str | None]]]) -> list[Any]:
        """Return the responses of all rows, and leave out the rows that have ended."""
        responses = [
            self.Response(
                uid=self.uids[i],
                token=token,
                logprobs=self._next_logprobs[i],
                finish_reason=reason,
                prompt_cache=self.extract_cache(i) if reason else None,
                all_tokens=self.tokens[i] if reason else None,
            )
            for i, tokens in enumerate(said)
            for token, reason in tokens
        ]
        keep = [i for i, tokens in enumerate(said) if tokens[-1][1] is None]
        self._n_checked += 1
        if len(keep) < len(said) or self._n_checked % N_CHECKED == 0:
            self.filter(keep)  # this also takes out padding that all rows have
        return responses

    def _drawn(self, logprobs: mx.array, guesses: list[list[int]]) -> list[list[int]]:
        """Return what each row draws after its last token, and after each token of its guess."""
        first = self.draws(logprobs[:, 0])
        places = [(i, n) for i, guess in enumerate(guesses) for n in range(1, len(guess) + 1)]
        rows, columns = mx.array(places).T
        ahead = self.draws.ahead(places, logprobs[rows, columns])
        found = [[token] for token in rows_of(first)]
        for (i, _), token in zip(places, rows_of(ahead), strict=True):
            found[i].append(token)
        return found


def stood(guess: Sequence[int], drawn: Sequence[int]) -> list[int]:
    """Return the tokens of *guess* up to the first that was not *drawn* in its place."""
    n = next((i for i, token in enumerate(guess) if token != drawn[i]), len(guess))
    return list(guess[:n])


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
    Take the last tokens back out of a batch's *cache*, which were read in one step.

    Rows that take back more than others are moved to the right, as after a prompt that was padded there.

    Args:
        cache: one part per layer.
        n_tokens: how many of each row, fewer than were read.
    """
    for part in cache:
        if isinstance(part, CacheList):
            rewind(part.caches, n_tokens)
            continue
        left = list(n_tokens)
        if not isinstance(part, BatchRotatingKVCache):  # one that is full has no end to cut off
            part.trim(min(left))
            left = [n - min(left) for n in left]
        part.prepare(lengths=[-n for n in left], right_padding=left)
        part.finalize()


def _mixed(old: float, new: float) -> float:
    return INERTIA * old + (1 - INERTIA) * new


class Generator(BatchGenerator):  # type: ignore[misc]  # mlx-lm has no types
    """mlx-lm's generator whose rows may be ahead of themselves by up to *max_tokens_ahead* tokens."""

    def __init__(self, model: Any, sampler: Sampler, max_tokens_ahead: int, **options: Any) -> None:
        super().__init__(model, sampler=sampler, **options)
        if max_tokens_ahead:
            self._generation_batch = DraftingBatch.of(model, sampler, max_tokens_ahead)
