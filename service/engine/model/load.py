"""A model from its files into memory: found, checked, loaded by mlx-lm."""

from __future__ import annotations

import json
import logging
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load as load_model_and_tokenizer

from service.catalog.card import (
    EMBEDDED_FOLDER,
    EMBEDDED_ID,
    UnfitModel,
    model_id_of,
    read_card,
)
from service.engine.model.fold import fold_norms
from service.protocol import Load, ModelCard, Sampling

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]


@dataclass(frozen=True)
class LoadedModel:
    """
    A model ready to generate.

    Attributes:
        model: maps token ids, shape (batch, n), and a cache to logits, shape (batch, n, vocabulary).
        tokenizer: mlx-lm's wrapper around the model's own.
        card: what the model's files say of it.
        sampling: how the model's files advise to sample; every field but `seed` is set.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    card: ModelCard
    sampling: Sampling


def load(order: Load) -> LoadedModel:
    """
    Load the model that *order* names; a hub id that is not cached is downloaded first.

    Raises:
        UnfitModel: the model can't be served; the message says why and is fit for `/readyz`.
    """
    model_id, folder = locate(order.model_path)
    template = read_template(order.chat_template)
    card = read_card(folder, model_id, order.context_length, int(time.time()), template)
    check_weights(folder)
    settings = {} if template is None else {"chat_template": template}
    try:
        model, tokenizer, *_ = load_model_and_tokenizer(str(folder), tokenizer_config=settings)
    except Exception as error:
        _log.exception("%s cannot be loaded", model_id)
        raise UnfitModel(
            f"mlx-lm could not load it ({type(error).__name__}); see the log"
        ) from error
    if template is not None:
        check_template(tokenizer)
    fold_norms(model)
    return LoadedModel(model, tokenizer, card, sampling_defaults(folder))


def read_template(path: str | None) -> str | None:
    """
    Return the chat template in the file at *path*; None: none is given.

    Raises:
        UnfitModel: it can't be read.
    """
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UnfitModel(f"CHAT_TEMPLATE cannot be read ({type(error).__name__})") from error


def check_template(tokenizer: TokenizerWrapper) -> None:
    """
    See that the chat template of *tokenizer*, which CHAT_TEMPLATE gave, makes a prompt of a greeting.

    Raises:
        UnfitModel: it doesn't.
    """
    greeting = [{"role": "user", "content": "Hello"}]
    try:
        tokenizer.apply_chat_template(greeting, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever Jinja or the template raises
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UnfitModel(f"CHAT_TEMPLATE makes no prompt of a greeting ({reason})") from error


def locate(model_path: str | None, setting: str = "MODEL_PATH") -> tuple[str, Path]:
    """
    Return the id and the folder of the model at *model_path*.

    Raises:
        UnfitModel: *model_path* is neither a folder nor a hub id that can be had; the message names the
            *setting* that holds it.
    """
    if model_path is None:
        return EMBEDDED_ID, EMBEDDED_FOLDER
    folder = Path(model_path).expanduser()
    if folder.is_dir():
        return model_id_of(folder), folder
    if not _HUB_ID.fullmatch(model_path):
        raise UnfitModel(f"{setting} names no folder that exists, and is no hub id")
    return model_path, _from_hub(model_path)


def _from_hub(hub_id: str) -> Path:
    """Return the folder of a hub id's snapshot, downloaded if none is cached; then go offline for good."""
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            hub_id, local_files_only=True, allow_patterns=_WANTED_FILES
        )
    except Exception:  # the library's own family of "not in the cache" has no common base
        _log.info("%s is not in the cache; downloading it", hub_id)
        try:
            found = huggingface_hub.snapshot_download(hub_id, allow_patterns=_WANTED_FILES)
        except Exception as error:
            _log.exception("%s cannot be downloaded", hub_id)
            reason = f"{hub_id} is no folder here and could not be downloaded"
            raise UnfitModel(f"{reason} ({type(error).__name__})") from error
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    return Path(found)


def check_weights(folder: Path) -> None:
    """
    See that every weight file is whole, before MLX maps it.

    Raises:
        UnfitModel: there is no weight file, or one is truncated, or it is no safetensors file at all.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UnfitModel("it has no .safetensors weights")
    for file in files:
        if _claimed_size_bytes(file) != file.stat().st_size:
            raise UnfitModel(f"{file.name} is damaged or incomplete")


def _claimed_size_bytes(file: Path) -> int:
    """Return the size of *file* by its safetensors header; -1 if it has none."""
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            return -1
        (n_header_bytes,) = struct.unpack("<Q", prefix)
        if n_header_bytes > file.stat().st_size:
            return -1
        try:
            header = json.loads(stream.read(n_header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:1] != "_"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return -1
    return 8 + int(n_header_bytes) + max(ends, default=0)


def sampling_defaults(folder: Path) -> Sampling:
    """
    Return how the model's `generation_config.json` advises to sample.

    Without advice, OpenAI's defaults hold: temperature 1, all tokens.
    """
    file = folder / "generation_config.json"
    advice: dict[str, Any] = {}
    if file.is_file():
        try:
            advice = json.loads(file.read_text("utf-8"))
        except ValueError:
            _log.warning("generation_config.json cannot be read and is ignored")
    if advice.get("do_sample") is False:
        return Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)

    def advised(name: str, otherwise: float) -> float:
        value = advice.get(name)
        return float(value) if isinstance(value, int | float) and value >= 0 else otherwise

    return Sampling(
        temperature=advised("temperature", 1.0),
        top_p=advised("top_p", 1.0),
        top_k=int(advised("top_k", 0)),
        min_p=advised("min_p", 0.0),
    )


def size_bytes(model: nn.Module) -> int:
    """Return the size of a model's weights."""
    weights: dict[str, mx.array] = tree_flatten(model.parameters(), destination={})  # type: ignore[assignment, no-untyped-call]  # mlx's stubs
    return sum(each.nbytes for each in weights.values())
