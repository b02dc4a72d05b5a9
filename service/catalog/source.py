"""
Where a model comes from, by the text that names it.

A name may be a secret, and a mistyped path looks like a model of the hub. So the hub is told a name only if
that name can't be a path that was meant to stay here: one marked with `hf:`, or one of the organisation that
publishes models for MLX, `mlx-community/…`. Of any other `owner/name` only the cache is asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from service.catalog.card import UnfitModel, model_id_of

MARK = "hf:"
PUBLISHERS = ("mlx-community",)

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class HubModel:
    """
    A model of the hub.

    Attributes:
        id: such as `mlx-community/gemma-3-4b-it-4bit`.
        may_be_asked_for: its name may leave this machine; if not, only the cache is looked at.
    """

    id: str
    may_be_asked_for: bool


def of(text: str, setting: str = "MODEL_PATH") -> Path | HubModel:
    """
    Return the folder or the hub's model that *text* names.

    Args:
        text: as it was set.
        setting: the name of the setting that holds it.

    Raises:
        UnfitModel: it names no folder that exists, and can be no model of the hub.
    """
    if text.startswith(MARK):
        hub_id = text.removeprefix(MARK)
        if not _HUB_ID.fullmatch(hub_id):
            raise UnfitModel(f"{setting} has no owner/name after {MARK}", value=text)
        return HubModel(hub_id, may_be_asked_for=True)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UnfitModel(f"{setting} names a file; a model is a folder", value=text)
    owner = text.partition("/")[0]
    if not _HUB_ID.fullmatch(text) or Path(owner).is_dir():
        raise UnfitModel(f"{setting} names no folder that exists, and is no hub id", value=text)
    return HubModel(text, may_be_asked_for=owner in PUBLISHERS)


def name_of(text: str) -> str:
    """
    Return the name that the model at *text* is served under, unless another is set.

    Raises:
        UnfitModel: as `of` raises it.
    """
    found = of(text)
    return model_id_of(found) if isinstance(found, Path) else found.id


def snapshot_in(folder: Path) -> Path:
    """Return the snapshot that is current in a model's folder of the hub's cache; others stay as they are."""
    reference = folder / "refs" / "main"
    if not reference.is_file() or (folder / "config.json").is_file():
        return folder
    return folder / "snapshots" / reference.read_text("utf-8").strip()


def cached(model: HubModel) -> Path | None:
    """Return the folder of the hub's *model* in its cache on this machine; None: it isn't there."""
    kept = _hub_cache() / f"models--{model.id.replace('/', '--')}"
    found = snapshot_in(kept)
    return found if (found / "config.json").is_file() else None


def _hub_cache() -> Path:
    """Return where the hub's own library keeps models, by the variables that it reads."""
    if found := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(found).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache}/huggingface")).expanduser() / "hub"
