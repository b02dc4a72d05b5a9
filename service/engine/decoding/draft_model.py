"""
Guesses by a small model with the same tokens, which reads along with the rows of a batch.

It draws as the rows themselves do, with their keys and the numbers of their tokens, so that at a temperature
both are shaken alike and mostly say the same. What it says is a guess, and checked as any other.

A row that is new to it is read beside the others, piece by piece. When all but its last token are read, it
joins those that guess, with one pass over all of them for each token.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import msgspec

from service.catalog.card import UnfitModel
from service.engine.cache.kv import FullCaches, extracted, merged, rewind
from service.engine.cache.prefix_cache import Cache
from service.engine.decoding.costs import mixed
from service.engine.decoding.prompt_lookup import Trust
from service.engine.decoding.sampling import Sampler, rows_of
from service.engine.model.load import LoadedModel, load, locate
from service.engine.scheduler.prefill import window_of
from service.protocol import Load

_log = logging.getLogger(__name__)

MAX_LAG = 16  # tokens that a row may lack and yet be read together with the others
MIN_PIECE, FIRST_PIECE, MAX_PIECE = 16, 64, 256


def load_draft(order: Load, loaded: LoadedModel, n_logits: int) -> DraftModel | None:
    """
    Load the draft model that *order* names.

    Args:
        order: what the engine was told.
        loaded: the model that it is to guess for.
        n_logits: how many logits that one gives.

    Returns:
        None where none is named, or nothing is to be guessed.

    Raises:
        UnfitModel: it can't be one; the message names the setting.
    """
    if order.draft_model is None or not order.num_draft_tokens:
        return None
    locate(order.draft_model, "DRAFT_MODEL")
    try:
        named = msgspec.structs.replace(order, model_path=order.draft_model, context_length=None)
        draft = load(named)
        if draft.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
            raise UnfitModel("its tokens are not the model's")
        return DraftModel(draft.model, draft.card.context_length, n_logits)
    except UnfitModel as error:
        raise UnfitModel(f"DRAFT_MODEL can't be used: {error}") from error


class DraftModel:
    """
    A model that guesses for another.

    Args:
        model: maps token ids, shape (rows, n), and a cache to logits.
        context_length: longest row that it can read, in tokens.
        n_logits: how many logits the other model gives.

    Attributes:
        caches: makes those of its rows.
        context_length: as given.

    Raises:
        UnfitModel: it can't compute, or can't forget a token that it has read.
    """

    def __init__(self, model: nn.Module, context_length: int, n_logits: int) -> None:
        self.caches = FullCaches(model)
        self.context_length = context_length
        self._model = model
        self._n_logits = n_logits
        if window_of(self.caches.make()) < math.inf:
            raise UnfitModel("it keeps a state, out of which no token can be taken back")
        logits = model(mx.array([[0]]))
        if not mx.isfinite(logits).all().item():
            raise UnfitModel("it computes no finite numbers; its weights are damaged")
        self._n_own_logits = logits.shape[-1]
        self._try()

    def n_bytes(self, n_tokens: int) -> int:
        """Return what a row of *n_tokens* takes in memory."""
        return self.caches.n_bytes(min(n_tokens, self.context_length))

    def read(self, ids: mx.array, cache: Cache) -> mx.array:
        """
        Return the logits after each of *ids*, shape (rows, n), as many as the other model gives.

        Ids that only the other model has stand for no text; they are read as the last one of this.
        """
        logits: mx.array = self._model(mx.minimum(ids, self._n_own_logits - 1), cache=cache)
        n_missing = self._n_logits - self._n_own_logits
        if n_missing <= 0:
            return logits[..., : self._n_logits]
        nothing = mx.full((*ids.shape, n_missing), -mx.inf, dtype=logits.dtype)
        return mx.concatenate([logits, nothing], axis=-1)

    def _try(self) -> None:
        """Let rows be read, join, take tokens back and leave: what can't be done, shows."""
        try:
            batch: Cache = []
            for ids in ([0, 0, 0], [0]):
                row = self.caches.make()
                mx.eval(self.read(mx.array([ids]), row))
                batch = _joined(batch, row)
            self.read(mx.array([[0, 0], [0, 0]]), batch)
            rewind(batch, [1, 0])
            for part in batch:
                part.filter([1])
            mx.eval(self.read(mx.array([[0]]), batch))
        except Exception as error:
            _log.exception("the draft model does not run in a batch")
            raise UnfitModel("it does not run in a batch; see the log") from error


@dataclass
class _Reading:
    """A row of which more than the last tokens are still to be read, and how many have been."""

    cache: Cache
    n_read: int


class Drafter:
    """
    The rows of one batch, as far as a draft model has read them.

    Args:
        draft: the model.
        draws: what all rows draw with.
        max_tokens: most tokens of a guess.
    """

    def __init__(self, draft: DraftModel, draws: Sampler, max_tokens: int) -> None:
        self._draft = draft
        self._draws = draws
        self._trust = Trust(max_tokens)
        self._max_length = draft.context_length - max_tokens
        self._cache: Cache = []
        self._n_read: dict[int, int] = {}  # by row, in the cache's order
        self._readings: dict[int, _Reading] = {}
        self._wanted: list[int] = []
        self._token_s: float | None = None
        self._n_pieces = 0

    def keep(self, uids: Collection[int]) -> None:
        """Leave out all rows that are not among *uids*, and padding that the others have in common."""
        places = [i for i, uid in enumerate(self._n_read) if uid in uids]
        self._n_read = {uid: n for uid, n in self._n_read.items() if uid in uids}
        self._readings = {uid: row for uid, row in self._readings.items() if uid in uids}
        for part in self._cache if places else ():
            part.filter(places)
        if not places:
            self._cache = []

    def follow(self, rows: Mapping[int, list[int]], allowed_s: float) -> bool:
        """
        Take in which rows there are; return whether there is anything to read or to guess for them.

        Args:
            rows: the tokens of each row of the batch, in its order, but for the one drawn last.
            allowed_s: how long what is missing of a row may take to read; longer ones are left for later.
        """
        rows = self._readable(rows)
        if not self._n_read.keys() <= rows.keys():
            self.keep(rows.keys())
        self._set_back(rows)
        most = allowed_s / self._token_s if self._token_s else math.inf
        self._wanted = [
            uid
            for uid, tokens in rows.items()
            if uid not in self._n_read and len(tokens) - self._reading(uid).n_read <= most
        ]
        return bool(self._wanted or self._n_read)

    def read(self, rows: Mapping[int, list[int]], step_s: float) -> float:
        """Read on in rows that are new or far behind, for about *step_s*; return what it took, in seconds."""
        began_s = time.perf_counter()
        n_left = n_most = self._piece(step_s)
        for uid in self._wanted:
            row, end = self._reading(uid), len(rows[uid]) - 1
            n_left -= self._read_on(row, rows[uid][row.n_read : end][:n_left])
            if row.n_read == end:
                self._cache = _joined(self._cache, self._readings.pop(uid).cache)
                self._n_read[uid] = end
        took_s = time.perf_counter() - began_s
        if n_left < n_most:
            self._learn(took_s, n_most - n_left)
        return took_s

    def guess(self, rows: Mapping[int, list[int]], drawn: Sequence[int]) -> list[list[int]]:
        """Return what each row may say after the token *drawn* last; empty where it isn't read so far."""
        n_tokens = self._trust.n_tokens
        places = {uid: i for i, uid in enumerate(rows)}
        guesses: list[list[int]] = [[] for _ in rows]
        if not self._n_read:
            return guesses
        unread = [[*rows[uid][n:], drawn[places[uid]]] for uid, n in self._n_read.items()]
        n_wide = max(map(len, unread))
        fed = mx.array([ids + [0] * (n_wide - len(ids)) for ids in unread])
        lasts = mx.array([len(ids) - 1 for ids in unread])
        logits = self._draft.read(fed, self._cache)[mx.arange(len(unread)), lasts]
        rewind(self._cache, [n_wide - len(ids) for ids in unread])
        said: list[mx.array] = []
        for n in range(1, n_tokens + 1):
            if said:
                logits = self._draft.read(said[-1][:, None], self._cache)[:, 0]
            said.append(self._draws.ahead([(places[uid], n) for uid in self._n_read], logits))
        for uid, guess in zip(self._n_read, rows_of(mx.stack(said, axis=1)), strict=True):
            guesses[places[uid]] = guess
            self._n_read[uid] = len(rows[uid]) + n_tokens  # what was guessed last is not read
        return guesses

    def settle(self, rows: Mapping[int, list[int]], n_guessed: int, n_stood: int) -> None:
        """
        Take back what was guessed and does not stand.

        The last token of each row is taken back with it, so that all have as many to be read next.

        Args:
            rows: the tokens of each row, as they are now.
            n_guessed: how many tokens were guessed for all rows.
            n_stood: how many of them stand.
        """
        rewind(self._cache, [n - len(rows[uid]) + 1 for uid, n in self._n_read.items()])
        self._n_read = {uid: len(rows[uid]) - 1 for uid in self._n_read}
        n_rows = len(self._n_read)
        self._trust.learn(n_guessed // n_rows, n_stood / n_rows)

    def _readable(self, rows: Mapping[int, list[int]]) -> dict[int, list[int]]:
        """Return the rows that can be guessed: by what they draw with, and by their length."""
        return {
            uid: tokens
            for i, (uid, tokens) in enumerate(rows.items())
            if len(tokens) < self._max_length and self._draws.can_look_ahead(i)
        }

    def _set_back(self, rows: Mapping[int, list[int]]) -> None:
        """Take rows that are far behind out of the batch, to be read by themselves."""
        late = {
            uid: _Reading(extracted(self._cache, place), n_read)
            for place, (uid, n_read) in enumerate(self._n_read.items())
            if len(rows[uid]) - n_read > MAX_LAG
        }
        if late:
            self.keep(rows.keys() - late.keys())
            self._readings |= late

    def _reading(self, uid: int) -> _Reading:
        """Return how far a row has been read by itself."""
        return self._readings.setdefault(uid, _Reading(self._draft.caches.make(), 0))

    def _piece(self, step_s: float) -> int:
        """Return how many tokens can be read in *step_s*."""
        if self._token_s is None:
            return FIRST_PIECE
        return min(max(int(step_s / self._token_s), MIN_PIECE), MAX_PIECE)

    def _read_on(self, row: _Reading, piece: list[int]) -> int:
        """Read a piece of a row by itself; return how many tokens that were."""
        if piece:
            self._draft.read(mx.array([piece]), row.cache)
            mx.eval([part.state for part in row.cache])
            row.n_read += len(piece)
        return len(piece)

    def _learn(self, took_s: float, n_tokens: int) -> None:
        """Take in what reading took; the first time doesn't count, as something may be compiled then."""
        self._n_pieces += 1
        if self._n_pieces > 1:
            token_s = took_s / n_tokens
            self._token_s = mixed(self._token_s or token_s, token_s)


def _joined(batch: Cache, row: Cache) -> Cache:
    """Return *batch*, which may be empty, with one more *row*."""
    joining = merged(row)
    if not batch:
        return joining
    for part, other in zip(batch, joining, strict=True):
        part.extend(other)
    return batch
