"""
The rows that decode, as mlx-lm's batch steps them, with guesses checked where there are any worth it.

What mlx-lm's own step computes for each row's log-probabilities is left out: the sampler reports those that
were asked for, and all rows' tokens come to the host in one copy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch
from mlx_lm.models.cache import BatchRotatingKVCache, CacheList

from service.engine.drafts import Lookup, stood
from service.engine.pace import Economy
from service.engine.sampling import Sampler, rows_of

N_CHECKED = 64


class Generator(BatchGenerator):  # type: ignore[misc]  # mlx-lm has no types
    """
    mlx-lm's generator, with rows that may be ahead of themselves.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        sampler: what all rows draw with.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
        economy: says which guesses are worth it.
        first_uid: the number of its first row.
        options: `BatchGenerator`'s own.
    """

    sampler: Sampler

    def __init__(
        self,
        model: Any,
        sampler: Sampler,
        max_tokens_ahead: int,
        economy: Economy,
        first_uid: int,
        **options: Any,
    ) -> None:
        super().__init__(model, sampler=sampler, **options)
        self._uid_count = first_uid
        self._generation_batch = DecodingBatch.of(model, sampler, max_tokens_ahead, economy)


class DecodingBatch(GenerationBatch):  # type: ignore[misc]  # mlx-lm has no types
    """
    mlx-lm's batch of rows that decode.

    Attributes:
        draws: what all rows draw with.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
    """

    draws: Sampler
    max_tokens_ahead: int
    _next_tokens: mx.array
    _lookups: dict[int, Lookup]
    _economy: Economy
    _n_checked: int

    @classmethod
    def of(
        cls, model: Any, draws: Sampler, max_tokens_ahead: int, economy: Economy
    ) -> DecodingBatch:
        """Return an empty one."""
        batch: DecodingBatch = cls.empty(model, draws)
        batch.draws = draws
        batch.max_tokens_ahead = max_tokens_ahead
        batch._lookups = {}
        batch._n_checked = 0
        batch._economy = economy
        return batch

    def next(self) -> list[Any]:
        """Advance each row by one token, or by more where a guess stood; return them in order."""
        if not self.max_tokens_ahead:
            return list(super().next())
        began_s = time.perf_counter()
        guesses = self._guesses()
        n_more = len(self.uids) * max(map(len, guesses), default=0)
        responses = self._checked(guesses) if n_more else super().next()
        self._economy.learn(time.perf_counter() - began_s, n_more)
        return list(responses)

    def _step(self) -> tuple[list[int], list[Any]]:
        """Feed each row its last token and begin to compute the next; return what was fed."""
        if any(self.logits_processors):  # mlx-lm's way of calling them
            tokens, _ = super()._step()
        else:
            fed = self._next_tokens
            logits = self.model(fed[:, None], cache=self.prompt_cache)[:, -1]
            self._next_tokens = self.draws(logits)
            mx.async_eval(self._next_tokens)  # type: ignore[no-untyped-call]  # mlx's stubs
            tokens = rows_of(fed)
            for known, token in zip(self.tokens, tokens, strict=True):
                known.append(token)
        self._next_logprobs = [None] * len(tokens)
        return tokens, self._next_logprobs

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
        drawn = self._drawn(self.model(fed, cache=self.prompt_cache), guesses)
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
                logprobs=None,
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

    def _drawn(self, logits: mx.array, guesses: list[list[int]]) -> list[list[int]]:
        """Return what each row draws after its last token, and after each token of its guess."""
        first = self.draws(logits[:, 0])
        places = [(i, n) for i, guess in enumerate(guesses) for n in range(1, len(guess) + 1)]
        rows, columns = mx.array(places).T
        ahead = self.draws.ahead(places, logits[rows, columns])
        found = [[token] for token in rows_of(first)]
        for (i, _), token in zip(places, rows_of(ahead), strict=True):
            found[i].append(token)
        return found


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
