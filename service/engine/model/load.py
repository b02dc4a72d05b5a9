"""A model from its files into memory: found, checked, loaded by mlx-lm."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer
from transformers import CONFIG_MAPPING

from service.catalog import source
from service.catalog.card import (
    EMBEDDED_FOLDER,
    EMBEDDED_ID,
    UnfitModel,
    model_id_of,
    read_card,
    read_json,
)
from service.engine.model import hub
from service.engine.model.fold import fold_norms
from service.engine.model.images import ImageReader
from service.engine.model.mend import mend
from service.protocol import Load, ModelCard, Sampling

_log = logging.getLogger(__name__)

_ADAPTER_FILES = ("adapter_config.json", "adapters.safetensors")
_WEIGHTS = "model*.safetensors"  # what mlx-lm reads
_UNKNOWN_TYPE = re.compile(r"Model type (.+) not supported")
MAX_NAMED = 3  # taste: so many missing files are named


@dataclass(frozen=True)
class LoadedModel:
    """
    A model ready to generate.

    Attributes:
        model: maps token ids, shape (batch, n), and a cache to logits, shape (batch, n, vocabulary).
        tokenizer: mlx-lm's wrapper around the model's own.
        card: what the model's files say of it.
        sampling: how the model's files advise to sample; every field but `seed` is set.
        images: reads images for it; None: it takes none.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    card: ModelCard
    sampling: Sampling
    images: ImageReader | None = None


def load(order: Load) -> LoadedModel:
    """
    Load the model that *order* names; a hub id that is not cached is downloaded first.

    Raises:
        UnfitModel: the model can't be served; the message says why and is fit for `/readyz`.
    """
    opened = open_model(order)
    if order.adapter_path is not None:
        _adapt(opened.model, order.adapter_path)
    check_numbers(opened.model)
    fold_norms(opened.model)
    mend(opened.model)
    return opened


def open_model(order: Load, *, is_lazy: bool = False) -> LoadedModel:
    """
    Open the model that *order* names, as its files give it.

    Args:
        order: what the engine was told.
        is_lazy: weights are read when they are needed, which may be never.

    Raises:
        UnfitModel: as `load` raises it.
    """
    model_id, folder = locate(order.model_path, with_code=order.trust_remote_code)
    template = read_template(order.chat_template)
    created, defaults = int(time.time()), class_defaults(folder)
    card = read_card(
        folder, order.model_id or model_id, order.context_length, created, template, defaults
    )
    if not order.trust_remote_code:
        check_code(folder)
    check_weights(folder)
    model, ends = _model(folder, is_trusted=order.trust_remote_code, is_lazy=is_lazy)
    tokenizer = open_tokenizer(folder, ends, order, template)
    return LoadedModel(model, tokenizer, card, sampling_defaults(folder))


def open_tokenizer(folder: Path, ends: Any, order: Load, template: str | None) -> TokenizerWrapper:
    """
    Return the tokenizer of the model in *folder*.

    Args:
        folder: of the model.
        ends: the tokens that its files say end an answer.
        order: what the engine was told.
        template: the chat template in place of its own; None: its own.

    Raises:
        UnfitModel: it can't be loaded, or the *template* is of no use.
    """
    settings: dict[str, Any] = {"trust_remote_code": order.trust_remote_code}
    if template is not None:
        settings["chat_template"] = template
    tokenizer = _tokenizer(folder, ends, settings)
    if template is not None:
        check_template(tokenizer)
    # Where mlx-lm keeps what it knows of a model's notations, too.
    tokenizer.init_kwargs["tool_parser"] = order.tool_parser
    tokenizer.init_kwargs["reasoning_parser"] = order.reasoning_parser
    return tokenizer


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


def locate(
    model_path: str | None,
    setting: str = "MODEL_PATH",
    *,
    with_code: bool = False,
    hear: hub.Hear = lambda _: None,
) -> tuple[str, Path]:
    """
    Return the id and the folder of the model at *model_path*.

    Args:
        model_path: a folder, one of the hub's cache included, or a hub id; None: the embedded model.
        setting: the name of the setting that holds it.
        with_code: where it is downloaded, so is its code.
        hear: told how far a download is.

    Raises:
        UnfitModel: *model_path* is neither a folder nor a hub id that can be had; the message names the
            *setting*.
    """
    if model_path is None:
        return EMBEDDED_ID, EMBEDDED_FOLDER
    found = source.of(model_path, setting)
    if isinstance(found, Path):
        return model_id_of(found), source.snapshot_in(found)
    wanted = hub.WANTED_FILES + hub.CODE_FILES * with_code
    return found.id, hub.had(found, wanted, setting, hear)


def class_defaults(folder: Path) -> dict[str, Any]:
    """Return what the classes of transformers take for the settings that the model's config leaves out."""
    config = read_json(folder / "config.json") or {}
    try:
        made = CONFIG_MAPPING[config["model_type"]]()
        found: dict[str, Any] = made.get_text_config().to_dict()
    except Exception:  # a type that it doesn't know, or that has no defaults
        return {}
    return found


def check_code(folder: Path) -> None:
    """
    See that the model is one of mlx-lm's own and brings no code for itself.

    Raises:
        UnfitModel: it does; the message names the file, and the setting that lets it run.
    """
    file = (read_json(folder / "config.json") or {}).get("model_file")
    if file is not None:
        raise UnfitModel(_needs_code(str(file)))


def check_weights(folder: Path) -> None:
    """
    See that every weight file is there and whole, before MLX maps it.

    Raises:
        UnfitModel: there is no weight file, one is missing or truncated, or it is no safetensors file.
    """
    index = read_json(folder / "model.safetensors.index.json") or {}
    shards = index.get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise UnfitModel(
            f"{len(missing)} of its {len(names)} weight files are missing: "
            f"{', '.join(missing[:MAX_NAMED])}{more}"
        )
    files = sorted(folder.glob(_WEIGHTS))
    if not files:
        raise UnfitModel(f"it has no .safetensors weights, of which mlx-lm reads {_WEIGHTS}")
    for file in files:
        if not file.is_file():
            raise UnfitModel(f"{file.name} is a link to a file that is not there")
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


def check_numbers(model: nn.Module) -> None:
    """
    See that the weights are numbers.

    Raises:
        UnfitModel: some are not; the message names the first array of them.
    """
    for name, weights in _weights(model).items():
        is_real = mx.issubdtype(weights.dtype, mx.floating)
        if is_real and mx.isnan(weights).any().item():
            raise UnfitModel(f"its weights are damaged: {name} holds what is no number (NaN)")


def check_logits(logits: mx.array) -> None:
    """
    See that a model has computed numbers; some types give tokens that are none minus infinity.

    Raises:
        UnfitModel: *logits* hold something else.
    """
    if mx.isnan(logits).any().item() or not mx.isfinite(logits.max(axis=-1)).all().item():
        raise UnfitModel("it computes no finite numbers; its weights are damaged")


def _model(folder: Path, *, is_trusted: bool, is_lazy: bool) -> tuple[nn.Module, Any]:
    """Return the model in *folder*, and the tokens that its files say end an answer."""
    try:
        model, config = load_model(folder, lazy=is_lazy, trust_remote_code=is_trusted)
    except (Exception, SystemExit) as error:  # olmo's module exits where a package is missing
        _log.exception("the model cannot be loaded")
        unknown = _UNKNOWN_TYPE.search(str(error))
        if unknown:
            version = importlib.metadata.version("mlx-lm")
            raise UnfitModel(f"mlx-lm {version} knows no model of type {unknown[1]}") from error
        name = type(error).__name__
        raise UnfitModel(f"mlx-lm could not load it ({name}); see the log") from error
    return model, config.get("eos_token_id")


def _tokenizer(folder: Path, ends: Any, settings: dict[str, Any]) -> TokenizerWrapper:
    """Return the tokenizer in *folder*, made with *settings* of transformers."""
    try:
        return load_tokenizer(folder, settings, eos_token_ids=ends)
    except Exception as error:
        _log.exception("the tokenizer cannot be loaded")
        classes = (read_json(folder / "tokenizer_config.json") or {}).get("auto_map")
        named = classes.get("AutoTokenizer") if isinstance(classes, dict) else None
        named = next(filter(None, named), None) if isinstance(named, list) else named
        if named and not settings["trust_remote_code"]:
            raise UnfitModel(_needs_code(f"{str(named).rpartition('.')[0]}.py")) from error
        name = type(error).__name__
        raise UnfitModel(f"its tokenizer could not be loaded ({name}); see the log") from error


def _needs_code(file: str) -> str:
    return f"it needs its own code to be run, {file}; TRUST_REMOTE_CODE allows that"


def _adapt(model: nn.Module, adapter_path: str) -> None:
    """Put the LoRA adapter at *adapter_path* upon *model*."""
    _, folder = locate(adapter_path, "ADAPTER_PATH")
    for name in _ADAPTER_FILES:
        if not (folder / name).is_file():
            raise UnfitModel(f"ADAPTER_PATH leads to no adapter of mlx-lm: it holds no {name}")
    try:
        load_adapters(model, str(folder))
        model.eval()
        mx.eval(model.parameters())  # type: ignore[no-untyped-call]  # mlx's stubs
    except Exception as error:
        _log.exception("the adapter cannot be put upon the model")
        name = type(error).__name__
        raise UnfitModel(
            f"the adapter at ADAPTER_PATH does not fit the model ({name}); see the log"
        ) from error


def sampling_defaults(folder: Path) -> Sampling:
    """
    Return how the model's `generation_config.json` advises to sample.

    Without advice, OpenAI's defaults hold: temperature 1, all tokens. The tokens that end an answer are the
    tokenizer's, whom mlx-lm tells those of that file.
    """
    try:
        advice = read_json(folder / "generation_config.json") or {}
    except UnfitModel:
        _log.warning("generation_config.json cannot be read and is ignored")
        advice = {}

    def advised(name: str, otherwise: float) -> float:
        value = advice.get(name)
        return float(value) if isinstance(value, int | float) and value >= 0 else otherwise

    suppressed = advice.get("suppress_tokens") or ()
    sampling = Sampling(
        temperature=advised("temperature", 1.0),
        top_p=advised("top_p", 1.0),
        top_k=int(advised("top_k", 0)),
        min_p=advised("min_p", 0.0),
        repetition_penalty=advised("repetition_penalty", 1.0) or 1.0,
        logit_bias=tuple((i, -math.inf) for i in suppressed if isinstance(i, int) and i >= 0),
    )
    if advice.get("do_sample") is False:
        return msgspec.structs.replace(sampling, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    return sampling


def size_bytes(model: nn.Module) -> int:
    """Return the size of a model's weights."""
    return sum(each.nbytes for each in _weights(model).values())


def _weights(model: nn.Module) -> dict[str, mx.array]:
    """Return a model's weights by their names."""
    found: dict[str, mx.array] = tree_flatten(model.parameters(), destination={})  # type: ignore[assignment, no-untyped-call]  # mlx's stubs
    return found
