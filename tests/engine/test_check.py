"""A model looked at before it is served: what is said of it, and where that ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from service.catalog.card import EMBEDDED_FOLDER, UnfitModel
from service.engine import check
from service.protocol import Load
from tests.engine.test_load import order


def looked_at(wanted: Load) -> dict[str, str]:
    """Return what was seen; a verdict that is no good is the last of it."""
    found: dict[str, str] = {}
    try:
        for name, words in check.seen(wanted):
            found[name] = words
    except UnfitModel as error:
        found["verdict"] = str(error)
    return found


def test_model_that_fits() -> None:
    """What it is, what its template can do, and what a thousand tokens of its context take."""
    seen = looked_at(order(None))

    assert "verdict" not in seen
    assert "local-mlx/gemma-3-demo" == seen["model"]
    assert "1.2 MB, 8-bit" == seen["weights"]
    assert "takes tools; does not think" == seen["template"]
    assert "8,192 tokens; 1,000 of them take" in seen["context"]
    assert seen["room"].startswith("for ")


def test_weights_that_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict says so, after all else was told."""
    monkeypatch.setattr(check, "usable_bytes", lambda: 1_000_000)
    seen = looked_at(order(None))

    assert "its weights have no room in this machine's memory" == seen["verdict"]
    assert "1 MB on this machine, 0 MB of them for contexts (10% stay free)" == seen["memory"]


def test_context_that_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how far it would be cut."""
    monkeypatch.setattr(check, "usable_bytes", lambda: 6_000_000)

    assert "the context would be cut to that" in looked_at(order(None))["room"]


def test_model_that_cannot_be_served(tmp_path: Path) -> None:
    """What was seen until then stands above the reason."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "martian"}))
    seen = looked_at(order(folder))

    assert "lm: language model, of type martian" == seen["kind"]
    assert "knows no model of type martian" in seen["verdict"]


def test_model_that_is_not_here_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: how much that would be is told."""

    def snapshot_download(*_: Any, dry_run: bool = False, **__: Any) -> Any:
        if not dry_run:
            raise errors.LocalEntryNotFoundError("not cached")
        return [SimpleNamespace(file_size=2_600_000_000, will_download=True)]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    seen = looked_at(order("mlx-community/some-model"))

    assert seen["download"].startswith("2,600 MB; this machine has ")
    assert "it is not on this machine yet; to serve it downloads it first" == seen["verdict"]
