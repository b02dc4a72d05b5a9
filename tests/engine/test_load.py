"""`service.engine.model.load`."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import msgspec
import pytest
from msgspec.structs import replace

from service.catalog.card import EMBEDDED_FOLDER, EMBEDDED_ID, UnfitModel
from service.engine.model.load import (
    LoadedModel,
    check_logits,
    check_weights,
    class_defaults,
    load,
    locate,
    sampling_defaults,
)
from service.protocol import Load


def order(path: Path | str | None, context_length: int | None = None) -> Load:
    """Return the order to load what *path* names."""
    return Load(
        None if path is None else str(path),
        context_length,
        max_concurrency=1,
        warmup=False,
        log_level="INFO",
    )


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
    """An architecture that nobody knows: the reason names it, the details are in the log."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "martian"}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(UnfitModel, match=r"mlx-lm \S+ knows no model of type martian"):
        load(order(folder))


def test_code_in_a_model_folder_is_not_run(tmp_path: Path) -> None:
    """`auto_map` and `model_file` point to code; it stays unread."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "with-code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_file": "evil.py", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code in the model folder was run')")

    with pytest.raises(
        UnfitModel, match=r"needs its own code to be run, evil\.py; TRUST_REMOTE_CODE"
    ):
        load(order(folder))


def test_code_in_a_model_folder_is_run_where_that_is_allowed(tmp_path: Path) -> None:
    """With TRUST_REMOTE_CODE the model's own module is what it is made of."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "with-code")
    config = json.loads((folder / "config.json").read_text()) | {"model_file": "own.py"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("from mlx_lm.models.gemma3_text import Model, ModelArgs\n")
    allowed = msgspec.structs.replace(order(folder), trust_remote_code=True)

    assert type(load(allowed).model).__module__ == "mlx_lm.models.gemma3_text"


def test_tokenizer_that_needs_code_is_named(tmp_path: Path) -> None:
    """A tokenizer of a class that only the folder has is not made, and nobody is asked about it."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "with-code")
    (folder / "tokenizer.json").unlink()
    settings = {
        "tokenizer_class": "MartianTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_martian.MartianTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenization_martian.py").write_text("raise SystemExit('it was run')")

    with pytest.raises(UnfitModel, match=r"tokenization_martian\.py; TRUST_REMOTE_CODE"):
        load(order(folder))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    """Of an index that names five files, those that aren't there, three of them by name."""
    shards = [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    index = {"weight_map": {f"w{i}": shard for i, shard in enumerate(shards)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / shards[0]).write_bytes(safetensors({}, 0))

    with pytest.raises(UnfitModel, match=r"4 of its 5 .*: model-00002.*model-00004\S* and 1 more"):
        check_weights(tmp_path)


def test_link_to_nothing_is_named(tmp_path: Path) -> None:
    """As a download leaves it that was moved or cut."""
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "0a1b")

    with pytest.raises(
        UnfitModel, match=r"model\.safetensors is a link to a file that is not there"
    ):
        check_weights(tmp_path)


def test_folder_of_the_hubs_cache_is_its_current_snapshot(tmp_path: Path) -> None:
    """Whoever names a model's folder in the cache means what is current there, links and all."""
    folder = tmp_path / "models--org--some-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0a1b")
    blobs = shutil.copytree(EMBEDDED_FOLDER, folder / "blobs")
    snapshot = folder / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)

    assert locate(str(folder)) == ("org/some-model", snapshot)
    assert load(order(folder)).card.id == "org/some-model"


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    """Also where the first tokens that are tried don't meet them."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "nan")
    file = str(folder / "model.safetensors")
    weights = dict(mx.load(file).items())  # type: ignore[union-attr]
    scales = weights["model.embed_tokens.scales"]
    scales[-1, -1] = float("nan")
    mx.save_safetensors(file, weights, metadata={"format": "mlx"})

    with pytest.raises(UnfitModel, match=r"model\.embed_tokens\.scales holds what is no number"):
        load(order(folder))


def test_class_tells_what_a_config_leaves_out(tmp_path: Path) -> None:
    """Gemma 3 4B's original config has no length; transformers' class has."""
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert class_defaults(tmp_path)["max_position_embeddings"] == 131072


def test_class_that_nobody_knows_tells_nothing(tmp_path: Path) -> None:
    """A type of mlx-lm's own, or none at all."""
    (tmp_path / "config.json").write_text('{"model_type": "martian"}')

    assert class_defaults(tmp_path) == {}


def adapter(folder: Path, rank: int = 2) -> Path:
    """Make a LoRA adapter for the embedded model, as mlx_lm.lora writes it; its arrays have rank 2."""
    folder.mkdir()
    settings = {
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {
            "rank": rank,
            "scale": 20.0,
            "dropout": 0.0,
            "keys": ["self_attn.q_proj"],
        },
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    last = load(order(None)).model.layers[-1].self_attn.q_proj
    n_out, n_in = last.weight.shape[0], last.scales.shape[1] * last.group_size
    name = f"model.layers.{len(load(order(None)).model.layers) - 1}.self_attn.q_proj"
    weights = {f"{name}.lora_a": mx.ones((n_in, 2)), f"{name}.lora_b": mx.ones((2, n_out))}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


def test_adapter_changes_what_is_computed(loaded: LoadedModel, tmp_path: Path) -> None:
    """A LoRA adapter is put upon the model that it was made for."""
    adapted = msgspec.structs.replace(order(None), adapter_path=str(adapter(tmp_path / "adapter")))
    ids = mx.array([[1, 2, 3]])

    assert not mx.array_equal(load(adapted).model(ids), loaded.model(ids))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "nowhere", "ADAPTER_PATH names no folder"),
        (lambda folder: folder, r"ADAPTER_PATH leads to no adapter .* adapter_config\.json"),
        (lambda folder: adapter(folder / "a", rank=3), "does not fit the model"),
    ],
    ids=["no-folder", "no-adapter", "another-model's"],
)
def test_adapter_that_is_none_is_refused(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    """The reason names the setting."""
    adapted = msgspec.structs.replace(order(None), adapter_path=str(make(tmp_path)))

    with pytest.raises(UnfitModel, match=reason):
        load(adapted)


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


def test_generation_config_is_heeded_as_a_whole(tmp_path: Path) -> None:
    """Penalty and suppressed tokens hold as well, also where it says not to sample."""
    advice = {
        "do_sample": False,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "suppress_tokens": [7, 9],
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(advice))
    found = sampling_defaults(tmp_path)

    assert (found.temperature, found.top_k, found.repetition_penalty) == (0.0, 0, 1.05)
    assert found.logit_bias == ((7, -math.inf), (9, -math.inf))


def test_ends_of_the_generation_config_are_the_tokenizers(tmp_path: Path) -> None:
    """Where it lists several tokens that end an answer, each of them does."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "ends")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 5, 6]}')

    assert {1, 5, 6} <= load(order(folder)).tokenizer.eos_token_ids


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    """One is enough."""
    with pytest.raises(UnfitModel, match="no finite numbers"):
        check_logits(mx.array([[[0.0, value, 1.0]]]))


def test_logits_of_tokens_that_are_none_may_be_minus_infinity() -> None:
    """As Phi-3 small has them, unless there is no other token."""
    check_logits(mx.array([[[0.0, -math.inf, 1.0]]]))
    with pytest.raises(UnfitModel):
        check_logits(mx.array([[[-math.inf, -math.inf]]]))
