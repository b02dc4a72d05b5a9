"""A small model with the same tokens as the one that is served, which guesses what that one will say."""

from __future__ import annotations

import logging
import math

import mlx.core as mx
import mlx.nn as nn
import msgspec

from service.catalog.card import UnfitModel
from service.engine.cache.kv import FullCaches, extend, keep_rows, merge, trim_each, trimmable_below
from service.engine.cache.prefix_cache import Cache
from service.engine.model.load import LoadedModel, check_logits, load, locate
from service.protocol import Load

_log = logging.getLogger(__name__)


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
        named = msgspec.structs.replace(
            order, model_path=order.draft_model, context_length=None, adapter_path=None
        )
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
        if trimmable_below(self.caches.make()) < math.inf:
            raise UnfitModel("it keeps a state, out of which no token can be taken back")
        logits = model(mx.array([[0]]))
        check_logits(logits)
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
            rows = [self.caches.make() for _ in range(2)]
            for ids, row in zip(([0, 0, 0], [0]), rows, strict=True):
                mx.eval(self.read(mx.array([ids]), row))
            batch = merge(rows[:1])
            extend(batch, merge(rows[1:]))
            self.read(mx.array([[0, 0], [0, 0]]), batch)
            trim_each(batch, [1, 0])
            keep_rows(batch, [1])
            mx.eval(self.read(mx.array([[0]]), batch))
        except Exception as error:
            _log.exception("the draft model does not run in a batch")
            raise UnfitModel("it does not run in a batch; see the log") from error
