"""
What kind of model a folder holds, and how it makes vectors of texts, read from the model's own files.

The files are those of sentence-transformers: `modules.json` lists the steps from tokens to a vector, the
folder of each step has its settings, `sentence_bert_config.json` the longest text, and
`config_sentence_transformers.json` the prompts that are put before texts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from service.catalog.card import UnfitModel, read_json
from service.protocol import ModelKind

Pooling = Literal["cls", "last", "max", "mean"]

ENCODERS = ("bert", "llama_bidirec", "modernbert", "xlm-roberta")
"""Types that only read; none of them is a language model."""

# What the setting says outright; embeddings may rank.
_ASKED: dict[str, ModelKind] = {"lm": "lm", "multimodal": "multimodal"}
_RANKING = "ForSequenceClassification"
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


def kind_of(folder: Path, model_type: str) -> ModelKind:
    """
    Return what the model in *folder* is served as.

    Args:
        folder: of the model.
        model_type: what the setting says; `auto`: what the files tell.

    Raises:
        UnfitModel: `config.json` is unreadable.
    """
    config = read_json(folder / "config.json") or {}
    if model_type in _ASKED:
        return _ASKED[model_type]
    if any(str(name).endswith(_RANKING) for name in config.get("architectures") or ()):
        return "reranker"
    if model_type == "embeddings" or _is_encoder(folder, config):
        return "embeddings"
    return "multimodal" if _sees(config) else "lm"


def _sees(config: Mapping[str, Any]) -> bool:
    """Whether a model has a part for images, and what reads them is installed; its texts are read without."""
    has_tower = isinstance(config.get("vision_config"), dict)
    return has_tower and importlib.util.find_spec("mlx_vlm") is not None


def _is_encoder(folder: Path, config: Mapping[str, Any]) -> bool:
    return (
        config.get("model_type") in ENCODERS
        or config.get("use_bidirectional_attention") is True
        or (folder / "modules.json").is_file()
    )


@dataclass(frozen=True)
class Recipe:
    """
    How vectors are made of what a model computes.

    Attributes:
        pooling: what becomes of the vectors of a text's tokens: the first, the last, or of each number the
            largest or the mean; None: no file tells.
        is_normalized: a vector's length is made 1.
        has_dense: further layers come behind the pooling.
        max_tokens: longest text that it was made for; None: no file tells.
        prompts: what is put before a text, by name.
        default_prompt: the name of the prompt for texts of which nobody says what they are; None: nothing.
        lengths: how many numbers a vector may be cut to; None: none but all of them; empty: any.
    """

    pooling: Pooling | None = None
    is_normalized: bool = True
    has_dense: bool = False
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    lengths: tuple[int, ...] | None = None


def read_recipe(folder: Path) -> Recipe:
    """
    Return the recipe of the model in *folder*.

    Raises:
        UnfitModel: a file can't be read, or asks for a step that is not done here.
    """
    modules = _modules(folder)
    types = [str(module.get("type")).rpartition(".")[2] for module in modules]
    for name in types:
        if name not in {"Transformer", "Pooling", "Dense", "Normalize"}:
            raise UnfitModel(f"modules.json has a step of type {name}, which is not done here")
    pooling = None
    for module, name in zip(modules, types, strict=True):
        if name == "Pooling":
            pooling = _pooling(folder / str(module.get("path")))
    own = read_json(folder / "config_sentence_transformers.json") or {}
    prompts = own.get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    limit = (read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    default = own.get("default_prompt_name")
    return Recipe(
        pooling=pooling,
        is_normalized="Normalize" in types or not types,
        has_dense="Dense" in types,
        max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        prompts={str(name): str(text) for name, text in prompts.items()},
        default_prompt=default if default in prompts else None,
        lengths=_lengths(read_json(folder / "config.json") or {}),
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the steps in `modules.json`, the one file of a model that holds a list."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        found = msgspec.json.decode(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnfitModel(f"modules.json is no valid JSON ({type(error).__name__})") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UnfitModel("modules.json holds no list of steps")
    return found


def _pooling(folder: Path) -> Pooling:
    settings = read_json(folder / "config.json") or {}
    named = str(settings.get("pooling_mode") or "")
    found = [pooling for name, pooling in _POOLINGS.items() if settings.get(name) is True]
    found += [pooling for pooling in _POOLINGS.values() if named.startswith(pooling)]
    if len(set(found)) != 1:
        raise UnfitModel(f"{folder.name}/config.json has no one way of pooling that is known here")
    return found[0]


def _lengths(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return to how many numbers vectors may be cut, by the names that vLLM reads, too."""
    lengths = config.get("matryoshka_dimensions")
    if isinstance(lengths, list):
        return tuple(length for length in lengths if isinstance(length, int))
    return () if config.get("is_matryoshka") is True else None
