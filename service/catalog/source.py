"""
Where a model comes from, by the text that names it.

A name may be a secret, and a mistyped path looks like a model of the hub. So the hub is told a name only if
that name can't be a path that was meant to stay here: one marked with `hf:`, or one of the organisation that
publishes models for MLX, `mlx-community/…`. Of any other `owner/name` only the cache is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from service.catalog.card import UnfitModel

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
