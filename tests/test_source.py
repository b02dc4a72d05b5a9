"""Which names are folders, which are models of the hub, and which of these the hub may be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.catalog.card import UnfitModel
from service.catalog.source import HubModel, of


def test_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is itself, also where its name could be one of the hub's, or begins at home."""
    (tmp_path / "mlx-community" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Path("mlx-community/here") == of("mlx-community/here")
    assert tmp_path / "mlx-community" == of("~/mlx-community")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlx-community/gemma-3-4b-it-4bit", HubModel("mlx-community/gemma-3-4b-it-4bit", True)),
        ("hf:Qwen/Qwen3-4B", HubModel("Qwen/Qwen3-4B", True)),
        ("Qwen/Qwen3-4B", HubModel("Qwen/Qwen3-4B", False)),
        ("model/secret-finetune", HubModel("model/secret-finetune", False)),
    ],
)
def test_hub_is_told_a_name_only_if_it_is_marked_or_a_publisher_s(
    name: str, expected: HubModel
) -> None:
    """Of another name with one slash only the cache is asked: it may be a path that was mistyped."""
    assert expected == of(name)


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder", "./models/gemma", "../gemma", "~/models/gemma", "no-such-model", "a/b/c",
        "models/secret-finetune", "gemma.gguf", "weights/", "", ".", "hf:gemma", "hf:/etc/passwd", "hf:../x",
    ],
)  # fmt: skip
def test_path_at_which_nothing_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused at once: the sentence names the setting, and the value is there for the log alone."""
    (tmp_path / "models").mkdir()
    (tmp_path / "gemma.gguf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if name in {"", "."}:  # the folder that we are in, as pathlib has it
        assert Path() == of(name)
        return
    with pytest.raises(UnfitModel, match=r"^DRAFT_MODEL ") as caught:
        of(name, "DRAFT_MODEL")

    assert name == caught.value.value
    assert name not in str(caught.value)
    assert not caught.value.may_pass
