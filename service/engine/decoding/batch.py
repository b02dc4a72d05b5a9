"""
The rows that decode, as mlx-lm's batch steps them, with guesses checked where there are any worth it.

What a row said before is looked through first, as that is free; where it has nothing to say, a draft model is
asked, if there is one and it has credit.

A row alone is no batch: its cache is its own, without the padding and masks that rows need together.

What mlx-lm's own step computes for each row's log-probabilities is left out: the sampler reports those that
were asked for, and all rows' tokens come to the host in one copy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from service.engine.cache.kv import extracted, merged, rewind, squeeze, straighten
from service.engine.decoding.costs import Economy
from service.engine.decoding.draft_model import Drafter
from service.engine.decoding.prompt_lookup import Lookup, stood
from service.engine.decoding.sampling import Sampler, rows_of

N_CHECKED = 64


class Generator(BatchGenerator):  # type: ignore[misc]  # mlx-lm has no types
    """
    mlx-lm's generator, with rows that may be ahead of themselves.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        sampler: what all rows draw with.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
        economy: says which guesses are worth it.
        drafter: guesses where nothing can be looked up; None: nobody.
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
        drafter: Drafter | None,
        first_uid: int,
        **options: Any,
    ) -> None:
        super().__init__(model, sampler=sampler, **options)
        self._uid_count = first_uid
        self._prompt_batch = ReadingBatch.empty(model, sampler, self.prefill_step_size)
        self._generation_batch = DecodingBatch.of(
            model, sampler, max_tokens_ahead, economy, drafter
        )


class ReadingBatch(PromptProcessingBatch):  # type: ignore[misc]  # mlx-lm has no types
    """mlx-lm's batch of rows whose prompts are read, without padding that nobody needs."""

    def filter(self, keep: list[int]) -> None:
        """Leave out the rows whose places are not in *keep*."""
        super().filter(keep)
        squeeze(self.prompt_cache, map(len, self.tokens))


class DecodingBatch(GenerationBatch):  # type: ignore[misc]  # mlx-lm has no types
    """
    mlx-lm's batch of rows that decode.

    Attributes:
        draws: what all rows draw with.
        max_tokens_ahead: most tokens of a guess; 0: nothing is guessed.
    """

    draws: Sampler
    max_tokens_ahead: int
    prompt_cache: list[Any]
    _next_tokens: mx.array
    _lookups: dict[int, Lookup]
    _economy: Economy
    _drafter: Drafter | None
    _n_checked: int
    _began_s: float
    _is_ahead: bool
    _is_alone: bool
    _drafting_s: float

    @classmethod
    def of(
        cls,
        model: Any,
        draws: Sampler,
        max_tokens_ahead: int,
        economy: Economy,
        drafter: Drafter | None,
    ) -> DecodingBatch:
        """Return an empty one."""
        batch: DecodingBatch = cls.empty(model, draws)
        batch.draws = draws
        batch.max_tokens_ahead = max_tokens_ahead
        batch._lookups = {}
        batch._n_checked = 0
        batch._economy = economy
        batch._drafter = drafter
        batch._is_ahead = False
        batch._is_alone = False
        return batch

    def next(self) -> list[Any]:
        """Advance each row by one token, or by more where a guess stood; return them in order."""
        if len(self.uids) == 1 and not self._is_alone:
            self.prompt_cache = extracted(self.prompt_cache, 0)
            self._is_alone = True
        if not self.max_tokens_ahead:
            return list(super().next())
        n_rows = len(self.uids)
        self._began_s = time.perf_counter()
        self._drafting_s = 0.0
        guesses = self._guesses()
        n_more = n_rows * max(map(len, guesses), default=0)
        responses = self._checked(guesses) if n_more else super().next()
        took_s = time.perf_counter() - self._began_s
        if n_more or self._is_ahead:
            self._economy.learn(took_s, n_rows, n_more)
        if self._drafting_s:
            self._economy.reward(n_rows, self._drafting_s + took_s, len(responses))
        self._is_ahead = not n_more
        return list(responses)

    def extend(self, batch: GenerationBatch) -> None:
        """Take in the rows of another batch."""
        if self._is_alone:
            self.prompt_cache = merged(self.prompt_cache)
            self._is_alone = False
        super().extend(batch)
        squeeze(self.prompt_cache, map(len, self.tokens))
        self._current_tokens, self._next_logprobs = None, [None] * len(self.uids)  # for nobody

    def extract_cache(self, idx: int) -> list[Any]:
        """Return a copy of the cache of row *idx*."""
        return extracted(merged(self.prompt_cache) if self._is_alone else self.prompt_cache, idx)

    def filter(self, keep: list[int]) -> None:
        """Leave out the rows whose places are not in *keep*, also where they are drafted."""
        if not self._is_alone or not keep:
            super().filter(keep)
            squeeze(self.prompt_cache, map(len, self.tokens))
        self._is_alone = self._is_alone and bool(keep)
        if self._drafter is not None:
            self._drafter.keep(self.uids)

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
        none: list[list[int]] = [[] for _ in self.uids]
        if any(self.logits_processors):
            return none
        return self._looked_up() or self._drafted() or none

    def _looked_up(self) -> list[list[int]]:
        """Return guesses for all rows from what stands in them; none at all where they aren't worth it."""
        self._lookups = {
            uid: self._lookups.get(uid) or Lookup(self.max_tokens_ahead) for uid in self.uids
        }
        found = [
            lookup.guess(tokens) if self.draws.can_look_ahead(i) else []
            for i, (lookup, tokens) in enumerate(
                zip(self._lookups.values(), self.tokens, strict=True)
            )
        ]
        if not any(len(guess) > 1 for guess in found):
            return []
        expected = sum(
            lookup.trust.share * max(len(guess) - 1, 0)
            for lookup, guess in zip(self._lookups.values(), found, strict=True)
        )
        n_more = len(found) * (max(map(len, found)) - 1)
        if not self._economy.is_worth_it(len(found), n_more, expected):
            return []
        drawn = self._awaited()
        for place, (lookup, guess) in enumerate(zip(self._lookups.values(), found, strict=True)):
            if guess and guess[0] != drawn[place]:
                lookup.trust.learn(1, 0)
                found[place] = []
        guesses = [guess[1:] for guess in found]
        return guesses if any(guesses) else []

    def _drafted(self) -> list[list[int]]:
        """Return the draft model's guesses for all rows; none at all where it isn't to be asked."""
        n_rows = len(self.uids)
        credit, step_s = self._economy.credit, self._economy.step_s(n_rows)
        if self._drafter is None or step_s is None or not credit.steps:
            credit.put_by()
            return []
        rows = dict(zip(self.uids, self.tokens, strict=True))
        if not self._drafter.follow(rows, credit.steps * step_s):
            credit.gain = 0.0  # what it gained with other rows says nothing of these
            credit.put_by()
            return []
        drawn = self._awaited()
        self._economy.charge(n_rows, self._drafter.read(rows, step_s))
        began_s = time.perf_counter()
        guesses = self._drafter.guess(rows, drawn)
        self._began_s = time.perf_counter()
        if not any(guesses):
            return []
        self._drafting_s = self._began_s - began_s
        return guesses

    def _awaited(self) -> list[int]:
        """Return what each row has drawn last; waits for it, so that what is timed begins there."""
        drawn = rows_of(self._next_tokens)
        self._began_s = time.perf_counter()
        self._is_ahead = False
        return drawn

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
        self._learn(guesses, said)
        rewind(self.prompt_cache, [n_wide + 1 - len(tokens) for tokens in said])
        self.draws.skip([len(tokens) - 1 for tokens in said])
        last = [drawn[i][len(tokens) - 1] for i, tokens in enumerate(said)]
        self._next_tokens = mx.array(last, dtype=self._next_tokens.dtype)
        return self._responses(said)

    def _learn(self, guesses: list[list[int]], said: Sequence[Sequence[object]]) -> None:
        """Tell who guessed how many tokens of each guess stood."""
        n_stood = [len(tokens) - 1 for tokens in said]
        if self._drafting_s:
            assert self._drafter is not None
            rows = dict(zip(self.uids, self.tokens, strict=True))
            self._drafter.settle(rows, sum(map(len, guesses)), sum(n_stood))
            return
        for lookup, guess, n in zip(self._lookups.values(), guesses, n_stood, strict=True):
            if guess:
                lookup.trust.learn(len(guess), n)

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
