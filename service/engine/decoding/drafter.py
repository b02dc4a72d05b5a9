"""
Guesses of a draft model for the rows of one batch.

It draws as the sequences themselves do, with their keys and the numbers of their tokens, so that at a
temperature both draw mostly the same. What it says is a guess, and checked as any other.

A sequence that is new to it is prefilled by itself, piece by piece, beside the steps. When all but its last
token are in the draft model's cache it joins those that guess, with one pass over all of them for each token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from collections.abc import Sequence as Several
from dataclasses import dataclass

import mlx.core as mx

from service.engine.cache.kv import arrays, extend, extract, keep_rows, merge, trim_each
from service.engine.cache.prefix_cache import Cache
from service.engine.decoding.draft_model import DraftModel
from service.engine.decoding.prompt_lookup import Acceptance
from service.engine.decoding.sampling import draw_ahead, rows_of
from service.engine.decoding.sequence import Sequence
from service.engine.decoding.step_costs import mixed

MAX_LAG = 16  # tokens that a row may lack and still be fed together with the others (measured)
# Tokens of a piece that is prefilled beside a step: bounds, and the first one, of which no time is known.
MIN_PIECE, FIRST_PIECE, MAX_PIECE = 16, 64, 256


@dataclass
class _Prefill:
    """The draft model's cache of a sequence that lacks more than a few tokens, and how many are in it."""

    cache: Cache
    n_in_cache: int


class Drafter:
    """
    The sequences of one batch, as far as a draft model has read them.

    Args:
        draft: the model.
        max_tokens: most tokens of a guess.
    """

    def __init__(self, draft: DraftModel, max_tokens: int) -> None:
        self._draft = draft
        self._acceptance = Acceptance(max_tokens)
        self._max_length = draft.context_length - max_tokens
        self._cache: Cache = []
        self._n_in_cache: dict[Sequence, int] = {}  # in the order of the cache's rows
        self._prefills: dict[Sequence, _Prefill] = {}
        self._wanted: list[Sequence] = []
        self._token_s: float | None = None
        self._n_pieces = 0

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Leave out all that are not among *sequences*, and padding that the others have in common."""
        places = [i for i, each in enumerate(self._n_in_cache) if each in sequences]
        self._prefills = {each: one for each, one in self._prefills.items() if each in sequences}
        if len(places) == len(self._n_in_cache):
            return
        self._n_in_cache = {each: n for each, n in self._n_in_cache.items() if each in sequences}
        if places:
            keep_rows(self._cache, places)
        else:
            self._cache = []

    def follow(self, sequences: Several[Sequence], allowed_s: float) -> bool:
        """
        Take in which sequences there are; return whether there is anything to prefill or to guess for them.

        Args:
            sequences: the rows of the batch.
            allowed_s: how long what is missing of a sequence may take to prefill; more is left for later.
        """
        readable = {
            each
            for each in sequences
            if each.n_in_cache < self._max_length and each.sampling.can_look_ahead
        }
        if not self._n_in_cache.keys() <= readable:
            self.keep(readable)
        self._set_back()
        most = allowed_s / self._token_s if self._token_s else math.inf
        self._wanted = [
            each
            for each in sequences
            if each in readable
            and each not in self._n_in_cache
            and each.n_in_cache - self._prefill(each).n_in_cache <= most
        ]
        return bool(self._wanted or self._n_in_cache)

    def prefill(self, step_s: float) -> float:
        """Prefill what is new or far behind, for about *step_s*; return what it took, in seconds."""
        began_s = time.perf_counter()
        n_left = n_most = self._piece(step_s)
        for each in self._wanted:
            row, end = self._prefill(each), each.n_in_cache - 1
            n_left -= self._feed(row, each.tokens[row.n_in_cache : end][:n_left])
            if row.n_in_cache == end:
                joining = merge([self._prefills.pop(each).cache])
                if self._n_in_cache:
                    extend(self._cache, joining)
                else:
                    self._cache = joining
                self._n_in_cache[each] = end
        took_s = time.perf_counter() - began_s
        if n_left < n_most:
            self._learn(took_s, n_most - n_left)
        return took_s

    def guess(self, sequences: Several[Sequence], drawn: Several[int]) -> list[list[int]]:
        """Return what each of *sequences* may say after the token *drawn* last; empty where it is unknown."""
        n_tokens = self._acceptance.n_tokens
        places = {each: i for i, each in enumerate(sequences)}
        guesses: list[list[int]] = [[] for _ in sequences]
        if not self._n_in_cache:
            return guesses
        missing = [
            [*each.tokens[n : each.n_in_cache], drawn[places[each]]]
            for each, n in self._n_in_cache.items()
        ]
        n_wide = max(map(len, missing))
        fed = mx.array([ids + [0] * (n_wide - len(ids)) for ids in missing])
        lasts = mx.array([len(ids) - 1 for ids in missing])
        logits = self._draft.read(fed, self._cache)[mx.arange(len(missing)), lasts]
        trim_each(self._cache, [n_wide - len(ids) for ids in missing])
        samplings = [each.sampling for each in self._n_in_cache]
        said: list[mx.array] = []
        for n in range(n_tokens):
            if said:
                logits = self._draft.read(said[-1][:, None], self._cache)[:, 0]
            said.append(draw_ahead(samplings, [n] * len(samplings), logits))
        found = rows_of(mx.stack(said, axis=1))
        for each, guess in zip(self._n_in_cache, found, strict=True):
            guesses[places[each]] = guess
            self._n_in_cache[each] = each.n_in_cache + n_tokens  # the last guess was not fed
        return guesses

    def settle(self, n_guessed: int, n_accepted: int) -> None:
        """
        Take back what was guessed and not accepted.

        The last token of each sequence is taken back with it, so that all have as many to be fed next.

        Args:
            n_guessed: how many tokens were guessed for all sequences.
            n_accepted: how many of them were accepted.
        """
        trim_each(self._cache, [n - each.n_in_cache + 1 for each, n in self._n_in_cache.items()])
        self._n_in_cache = {each: each.n_in_cache - 1 for each in self._n_in_cache}
        n_rows = len(self._n_in_cache)
        self._acceptance.learn(n_guessed // n_rows, n_accepted / n_rows)

    def _set_back(self) -> None:
        """Take sequences that are far behind out of the batch, to be prefilled by themselves."""
        late = {
            each: _Prefill(extract(self._cache, place), n)
            for place, (each, n) in enumerate(self._n_in_cache.items())
            if each.n_in_cache - n > MAX_LAG
        }
        if late:
            prefills = self._prefills
            self.keep(self._n_in_cache.keys() - late.keys())
            self._prefills = prefills | late

    def _prefill(self, sequence: Sequence) -> _Prefill:
        """Return how far a sequence has been prefilled by itself."""
        return self._prefills.setdefault(sequence, _Prefill(self._draft.caches.make(), 0))

    def _piece(self, step_s: float) -> int:
        """Return how many tokens can be prefilled in *step_s*."""
        if self._token_s is None:
            return FIRST_PIECE
        return min(max(int(step_s / self._token_s), MIN_PIECE), MAX_PIECE)

    def _feed(self, row: _Prefill, piece: list[int]) -> int:
        """Feed a piece of a sequence; return how many tokens that were."""
        if piece:
            self._draft.read(mx.array([piece]), row.cache)
            mx.eval(arrays(row.cache))
            row.n_in_cache += len(piece)
        return len(piece)

    def _learn(self, took_s: float, n_tokens: int) -> None:
        """Take in what prefilling took; the first time doesn't count, as something may be compiled then."""
        self._n_pieces += 1
        if self._n_pieces > 1:
            token_s = took_s / n_tokens
            self._token_s = mixed(self._token_s or token_s, token_s)
