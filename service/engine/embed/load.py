"""
An encoder from its files into memory.

Types that only read, and those that read in both directions, are mlx-embeddings' own; a language model gives
what it computes of a text's tokens before it would guess the next one.
"""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec

from service.catalog.card import UnfitModel, read_card, read_json
from service.catalog.kind import ENCODERS, Pooling, Recipe, kind_of, read_recipe
from service.engine.embed.encoder import Batch, Encoder, Pooled
from service.engine.model.load import (
    check_code,
    check_numbers,
    check_weights,
    class_defaults,
    load,
    locate,
)
from service.protocol import Load, ModelCard

_log = logging.getLogger(__name__)

EXTRA = "pip install 'mlx-tier3a[embeddings]'"
_BOTH_WAYS = (
    "gemma3_text",
    "qwen3",
)  # mlx-embeddings has them as encoders, mlx-lm as language models
_WHOLE = ("gemma3_text", "llama_bidirec")  # which pool by themselves
_BACKBONES = ("model", "backbone", "transformer")
_WITHIN = ("language_model", "text_model")
_NO_DENSE = "modules.json has a step of type Dense, which is not done for its model type"
_OFFSETS = {"xlm-roberta": 2}  # places of its table that no token has


@dataclass(frozen=True)
class LoadedEncoder:
    """
    A model ready to read.

    Attributes:
        model: all of its weights.
        encoder: the model behind the seam.
        tokenizer: its own, of transformers.
        card: what its files say of it.
        recipe: how its vectors are made.
        n_tokens: ids at or above it are no tokens.
        padding: the token to pad with.
    """

    model: nn.Module
    encoder: Encoder
    tokenizer: Any
    card: ModelCard
    recipe: Recipe
    n_tokens: int
    padding: int

    def fitted(self, context_length: int) -> LoadedEncoder:
        """Return the same model with a card that tells of *context_length* tokens."""
        card = msgspec.structs.replace(self.card, context_length=context_length)
        return replace(self, card=card)


def load_encoder(order: Load) -> LoadedEncoder:
    """
    Load the model that *order* names, which is on disk already, as one that makes vectors or scores.

    Raises:
        UnfitModel: the model can't be served; the message says why and is fit for `/readyz`.
    """
    model_id, folder = locate(order.model_path)
    config = read_json(folder / "config.json") or {}
    recipe = read_recipe(folder)
    card = _card(order, model_id, folder, config, recipe)
    if _needs_extra(config, folder):
        model, encoder, tokenizer = _by_mlx_embeddings(folder, config, recipe)
        check_numbers(model)
    elif card.kind == "reranker":
        raise UnfitModel(f"no ranking by models of type {config.get('model_type')} is known here")
    else:
        model, encoder, tokenizer = _by_mlx_lm(order, recipe)
    return LoadedEncoder(
        model=model,
        encoder=encoder,
        tokenizer=tokenizer,
        card=card,
        recipe=recipe,
        n_tokens=_n_tokens(model, tokenizer),
        padding=_padding(tokenizer, config),
    )


def _needs_extra(config: dict[str, Any], folder: Path) -> bool:
    """Tell whether a model is one for mlx-embeddings."""
    kind = config.get("model_type")
    is_made_for_it = (folder / "modules.json").is_file() or config.get(
        "use_bidirectional_attention"
    )
    return kind in ENCODERS or (kind in _BOTH_WAYS and bool(is_made_for_it))


def _card(
    order: Load, model_id: str, folder: Path, config: dict[str, Any], recipe: Recipe
) -> ModelCard:
    """Return the card, with the longest text that the model was made for where nobody asks for more."""
    kind = kind_of(folder, order.model_type)
    defaults, now = class_defaults(folder), int(time.time())
    own = read_card(
        folder, order.model_id or model_id, None, now, class_defaults=defaults, kind=kind
    )
    most = own.context_length - _OFFSETS.get(str(config.get("model_type")), 0)
    if order.context_length is not None and order.context_length > most:
        raise UnfitModel(
            f"CONTEXT_LENGTH {order.context_length} is over the model's own, 16 to {most}"
        )
    length = order.context_length or min(most, recipe.max_tokens or most)
    return msgspec.structs.replace(own, context_length=length)


def _by_mlx_lm(order: Load, recipe: Recipe) -> tuple[nn.Module, Encoder, Any]:
    """Return a language model as an encoder, which ends in what the last token knows of all others."""
    if recipe.has_dense:
        raise UnfitModel(_NO_DENSE)
    loaded = load(msgspec.structs.replace(order, context_length=None))
    backbone = _backbone(loaded.model)

    def hidden(batch: Batch) -> mx.array:
        found: mx.array = backbone(batch.ids)
        return found

    own = loaded.tokenizer.get_vocab.__self__  # whom mlx-lm's wrapper asks
    return loaded.model, Pooled(hidden, recipe.pooling or "last"), own


def _backbone(model: Any) -> Any:
    """Return what a language model of mlx-lm computes before its head."""
    while (
        within := next((getattr(model, n) for n in _WITHIN if hasattr(model, n)), None)
    ) is not None:
        model = within
    for name in _BACKBONES:
        found: Any = getattr(model, name, None)
        if callable(found):
            hidden = found(mx.array([[0, 0]]))
            if isinstance(hidden, mx.array) and hidden.ndim == 3 and hidden.shape[:2] == (1, 2):
                return found
    raise UnfitModel("no vectors can be had of it: nothing in it is known to come before its head")


def _by_mlx_embeddings(
    folder: Path, config: dict[str, Any], recipe: Recipe
) -> tuple[nn.Module, Encoder, Any]:
    kind = str(config["model_type"])
    try:
        module = importlib.import_module(f"mlx_embeddings.models.{kind.replace('-', '_')}")
        from mlx_embeddings.utils import load_model
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UnfitModel(f"models of type {kind} need mlx-embeddings: {EXTRA}") from error
    check_code(folder)
    check_weights(folder)
    is_ranker = kind_of(folder, "auto") == "reranker"
    made = ranking_classes(module, kind, config) if is_ranker else (module.Model, module.ModelArgs)
    try:
        model = load_model(folder, get_model_classes=lambda config: (*made, None, None))  # noqa: ARG005
    except Exception as error:
        _log.exception("the model cannot be loaded")
        raise UnfitModel(
            f"mlx-embeddings could not load it ({type(error).__name__}); see the log"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        _log.exception("the tokenizer cannot be loaded")
        raise UnfitModel(
            f"its tokenizer could not be loaded ({type(error).__name__}); see the log"
        ) from error
    return model, _encoder(model, kind, config, recipe, is_ranker=is_ranker), tokenizer


def _encoder(
    model: Any, kind: str, config: dict[str, Any], recipe: Recipe, *, is_ranker: bool
) -> Encoder:
    if is_ranker:
        return _Ranker(model, kind)
    if kind in _WHOLE:
        if recipe.pooling not in {None, "mean"}:
            raise UnfitModel(
                f"models of type {kind} are pooled by the mean, and not as 1_Pooling says"
            )
        return lambda batch: model(batch.ids, attention_mask=batch.mask).text_embeds
    if recipe.has_dense:
        raise UnfitModel(_NO_DENSE)
    if kind == "modernbert":
        dtype = model.model.embeddings.tok_embeddings.weight.dtype
        return Pooled(
            lambda batch: model.model(
                batch.ids, attention_mask=batch.mask.astype(dtype), return_dict=True
            )["last_hidden_state"],
            recipe.pooling or config.get("classifier_pooling") or "mean",
        )
    pooling: Pooling = recipe.pooling or ("last" if kind in _BOTH_WAYS else "mean")
    return Pooled(
        lambda batch: model(batch.ids, attention_mask=batch.mask).last_hidden_state, pooling
    )


class _Ranker:
    """A model with a head that scores pairs, from 0 to 1."""

    def __init__(self, model: Any, kind: str) -> None:
        self._model = model
        self._kind = kind

    def __call__(self, batch: Batch) -> mx.array:
        """Return a score for each pair, shape (rows, 1)."""
        ids, mask = batch.ids, batch.mask
        if self._kind == "modernbert":
            dtype = self._model.model.embeddings.tok_embeddings.weight.dtype
            found: mx.array = self._model(ids, attention_mask=mask.astype(dtype)).pooler_output
            return found
        if self._kind == "bert":
            read = self._model(ids, token_type_ids=batch.segments, attention_mask=mask)
            logits = self._model.classifier(read.pooler_output)
        else:
            read = self._model(ids, attention_mask=mask)
            logits = self._model.classifier(read.last_hidden_state[:, 0])
        scores: mx.array = mx.sigmoid(logits.astype(mx.float32))
        return scores


class _Head(nn.Module):
    """RoBERTa's head over the first token."""

    def __init__(self, n: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.dense = nn.Linear(n, n)
        self.out_proj = nn.Linear(n, 1)

    def __call__(self, hidden: mx.array) -> mx.array:
        found: mx.array = self.out_proj(mx.tanh(self.dense(hidden)))
        return found


def ranking_classes(module: Any, kind: str, config: dict[str, Any]) -> tuple[type, type]:
    """
    Return mlx-embeddings' classes of a model that ranks, and of its settings, with the head that it lacks.

    Args:
        module: mlx-embeddings' own of the type *kind*.
        kind: the type.
        config: of the model.

    Raises:
        UnfitModel: it has several labels, or no ranking by models of its type is known.
    """
    labels = config.get("id2label")
    n_labels = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if n_labels != 1:
        raise UnfitModel(f"it sorts texts into {n_labels} classes, and ranks nothing")
    if kind == "modernbert":
        return module.Model, module.ModelArgs
    if kind not in {"bert", "xlm-roberta"}:
        raise UnfitModel(f"no ranking by models of type {kind} is known here")
    prefix = "bert." if kind == "bert" else "roberta."

    class Ranking(module.Model):  # type: ignore[misc]  # a class that is found by name
        def __init__(self, args: Any) -> None:
            if kind != "bert":
                args.add_pooling_layer = False
            super().__init__(args)
            n = args.hidden_size
            self.classifier = nn.Linear(n, 1) if kind == "bert" else _Head(n)

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            bare = {name.removeprefix(prefix): value for name, value in weights.items()}
            found: dict[str, mx.array] = super().sanitize(bare)
            return found

    return Ranking, module.ModelArgs


def _n_tokens(model: nn.Module, tokenizer: Any) -> int:
    """Return how many ids are tokens that the model has: MLX checks no index."""
    tables = [
        module.weight.shape[0]
        for module in model.modules()  # type: ignore[no-untyped-call]  # mlx's stubs
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
    ]
    return min(max(tokenizer.get_vocab().values(), default=-1) + 1, max(tables))


def _padding(tokenizer: Any, config: dict[str, Any]) -> int:
    """Return the token to pad with, from which XLM-RoBERTa counts its places."""
    for found in (config.get("pad_token_id"), tokenizer.pad_token_id):
        if isinstance(found, int) and found >= 0:
            return found
    return 0
