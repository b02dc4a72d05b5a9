"""A small model of random weights as a folder, which loads as any other does."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import MODEL_REMAPPING

from service.catalog.card import EMBEDDED_FOLDER
from tests.models.types import config_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
N_TOKENS = int(json.loads((EMBEDDED_FOLDER / "config.json").read_text())["vocab_size"])
PULL = 2.0  # weights as mlx makes them hardly tell one prompt from another


def make(model_type: str, folder: Path, n_tokens: int = N_TOKENS) -> dict[str, Any]:
    """
    Make a model of *model_type* in *folder*, always with the same weights; return its config.

    The tokenizer and the chat template are the built-in model's; *n_tokens* is how many it knows.
    """
    config = config_of(model_type, n_tokens)
    module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    weights: Any = tree_flatten(model.parameters(), destination={})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: _lively(value) for name, value in weights.items()},
        metadata={"format": "mlx"},
    )
    for name in TOKENIZER_FILES:
        shutil.copy(EMBEDDED_FOLDER / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)  # the built-in model's
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return config


def _lively(weights: mx.array) -> mx.array:
    """Return *weights* such that a change of the prompt changes what is said."""
    if not mx.issubdtype(weights.dtype, mx.floating):
        return weights
    if not weights.any().item():
        return mx.random.normal(weights.shape, scale=0.1).astype(weights.dtype)
    return weights * PULL if weights.ndim > 1 else weights
