"""`service.engine.model.load`."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.catalog.card import EMBEDDED_FOLDER, EMBEDDED_ID, UnfitModel
from service.engine.model.load import (
    LoadedModel,
    check_weights,
    load,
    locate,
    sampling_defaults,
)
from service.protocol import Load


def order(path: Path | str | None, context_length: int | None = None) -> Load:
    """Return the order to load what *path* names."""
    return Load(str(path), context_length, max_concurrency=1, warmup=False, log_level="INFO")


def safetensors(header: object, n_data_bytes: int) -> bytes:
    """Return a safetensors file with this header and so many bytes behind it."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_data_bytes)


def test_embedded_model_is_what_its_card_says(loaded: LoadedModel) -> None:
    """Family gemma, 8192 tokens, quantized, a template that knows tools, and a plain description."""
    card = loaded.card

    assert (card.id, card.family, card.context_length) == (EMBEDDED_ID, "gemma", 8192)
    assert card.quantization_bits == 8
    assert card.has_chat_template
    assert card.knows_tools
    assert "demonstration" in card.description


def test_same_files_load_from_any_folder(tmp_path: Path) -> None:
    """The embedded model has no way of its own: its files load from elsewhere as any model's do."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "copied-model")
    card = load(order(folder, context_length=128)).card

    assert (card.id, card.family, card.context_length) == ("copied-model", "gemma", 128)
    assert "8-bit quantized" in card.description


def test_folder_that_is_missing_is_refused() -> None:
    """Neither a folder nor a hub id: the reason names the setting, not the path."""
    with pytest.raises(UnfitModel, match="MODEL_PATH names no folder") as caught:
        locate("/no/such/folder")

    assert "/no" not in str(caught.value)


def test_hub_id_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not cached and no network: the reason says that it could not be downloaded."""
    import huggingface_hub

    def offline(*args: object, **options: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UnfitModel, match="could not be downloaded"):
        locate("someone/some-model")


def test_cached_hub_id_never_asks_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A snapshot in the cache is found with local files only, and the process goes offline for good."""
    import huggingface_hub

    asked = []

    def cached(hub_id: str, **options: object) -> str:
        asked.append(options.get("local_files_only"))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = locate("someone/some-model")

    assert found == ("someone/some-model", tmp_path)
    assert asked == [True]
    assert huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 20,
        b"\xff" * 20,
        struct.pack("<Q", 4) + b"nope",
        safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 8),
        safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 24),
        safetensors([1, 2], 0),
    ],
    ids=["empty", "zeros", "huge-header", "no-json", "truncated", "too-long", "list"],
)
def test_damaged_weights_are_refused_before_mlx_sees_them(content: bytes, tmp_path: Path) -> None:
    """A weight file that is not whole is named, by its name alone."""
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(UnfitModel, match=r"^model\.safetensors is damaged or incomplete$"):
        check_weights(tmp_path)


def test_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    """Pickled weights are no weights."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")

    with pytest.raises(UnfitModel, match=r"no \.safetensors"):
        check_weights(tmp_path)


def test_model_that_mlx_lm_cannot_load_is_refused(tmp_path: Path) -> None:
    """An architecture that nobody knows: the reason is a sentence, the details are in the log."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "martian"}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(UnfitModel, match=r"mlx-lm could not load it \(ValueError\)"):
        load(order(folder))


def test_code_in_a_model_folder_is_not_run(tmp_path: Path) -> None:
    """`auto_map` and `model_file` point to code; it stays unread."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "with-code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_file": "evil.py", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code in the model folder was run')")

    with pytest.raises(UnfitModel):
        load(order(folder))


@pytest.mark.parametrize(
    ("advice", "temperature"),
    [
        (None, 1.0),
        ("{}", 1.0),
        ('{"do_sample": false}', 0.0),
        ('{"temperature": 0.6}', 0.6),
        ("{", 1.0),
    ],
)
def test_generation_config_gives_the_defaults(
    advice: str | None, temperature: float, tmp_path: Path
) -> None:
    """What the model's files advise holds where a request says nothing."""
    if advice is not None:
        (tmp_path / "generation_config.json").write_text(advice)

    assert temperature == sampling_defaults(tmp_path).temperature


def test_chat_template_comes_from_a_file(tmp_path: Path) -> None:
    """It is in the place of the model's own, and the card tells what it takes."""
    template = tmp_path / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}", "utf-8")
    loaded = load(replace(order(EMBEDDED_FOLDER), chat_template=str(template)))
    text = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )

    assert ("Hi", False) == (text, loaded.card.knows_tools)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "CHAT_TEMPLATE cannot be read"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ messages.first.text }}", "UndefinedError"),
        ("{{ raise_exception('Never.') }}", "Never"),
    ],
)
def test_chat_template_that_makes_no_prompt_is_refused(
    template: str | None, reason: str, tmp_path: Path
) -> None:
    """The operator is told in a sentence what is wrong with the file."""
    path = tmp_path / "chat.jinja"
    if template is not None:
        path.write_text(template, "utf-8")

    with pytest.raises(UnfitModel, match=reason):
        load(replace(order(EMBEDDED_FOLDER), chat_template=str(path)))
