"""A model's card tells what its files tell."""

import json
from pathlib import Path
from typing import Any

import pytest

from service import contracts
from service.catalog.card import (
    ASSUMED_CONTEXT,
    EMBEDDED_FOLDER,
    EMBEDDED_ID,
    UnfitModel,
    model_id_of,
    read_card,
)
from service.openai import models
from service.protocol import ModelCard

PLAIN = {"model_type": "llama", "max_position_embeddings": 4096}


def model_folder(folder: Path, config: object = PLAIN, **files: object) -> Path:
    """Fill *folder* with a config and further files, named with `_` for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"config_json": config, **files}
    for name, content in texts.items():
        stem, _, suffix = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{suffix}").write_text(text, "utf-8")
    return folder


def card_of(folder: Path, context_length: int | None = None) -> ModelCard:
    """Read the card of the model in *folder*."""
    return read_card(folder, "org/some-model", context_length, 1_700_000_000)


def test_card_when_config_is_plain(tmp_path: Path) -> None:
    """Id and time are the given ones, family and context length the file's; no template, no claims."""
    card = card_of(model_folder(tmp_path))

    assert ("org/some-model", "llama", 4096, 1_700_000_000) == (
        card.id, card.family, card.context_length, card.created,
    )  # fmt: skip
    assert (None, False, False, False) == (
        card.quantization_bits, card.has_chat_template, card.knows_tools, card.knows_thinking,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("gemma3_text", "gemma"),
        ("qwen2_moe", "qwen"),
        ("llama", "llama"),
        ("Phi3", "phi"),
        ("deepseek_v3", "deepseek"),
        ("gpt_oss", "gpt-oss"),
        ("gpt2", "gpt"),
        ("recurrent_gemma", "gemma"),
        ("granitemoehybrid", "granite"),
    ],
)
def test_family_is_the_architectures(tmp_path: Path, model_type: str, family: str) -> None:
    """The family is the leading letters of the architecture in lower case, or what these are known as."""
    assert family == card_of(model_folder(tmp_path, PLAIN | {"model_type": model_type})).family


@pytest.mark.parametrize(
    "key",
    ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
     "model_max_length", "max_context_length", "max_sequence_length", "block_size"],
)  # fmt: skip
def test_context_length_under_each_name(tmp_path: Path, key: str) -> None:
    """Architectures call it differently; every name is known."""
    config = {"model_type": "gpt2", key: 1024}

    assert 1024 == card_of(model_folder(tmp_path, config)).context_length


@pytest.mark.parametrize("section", ["text_config", "llm_config", "language_config"])
def test_context_length_when_nested(tmp_path: Path, section: str) -> None:
    """A multimodal model keeps its text model's settings one level down; those win."""
    config = {
        "model_type": "gemma3",
        "max_position_embeddings": 7,
        section: {"model_type": "gemma3_text", "max_position_embeddings": 8192},
    }
    card = card_of(model_folder(tmp_path, config))

    assert (8192, "gemma") == (card.context_length, card.family)


def test_context_length_when_configured(tmp_path: Path) -> None:
    """A configured cap below the model's own holds."""
    assert 512 == card_of(model_folder(tmp_path), 512).context_length


def test_context_length_when_configured_at_the_models_own(tmp_path: Path) -> None:
    """The model's own length may be configured as well."""
    assert 4096 == card_of(model_folder(tmp_path), 4096).context_length


def test_context_length_when_configured_over_the_models_own(tmp_path: Path) -> None:
    """More than the model was made for is refused, with the option, the value and the range."""
    with pytest.raises(UnfitModel, match=r"CONTEXT_LENGTH 4097 .*16 to 4096"):
        card_of(model_folder(tmp_path), 4097)


def test_context_length_when_only_configured(tmp_path: Path) -> None:
    """Where the files tell none, the configured one stands."""
    assert 256 == card_of(model_folder(tmp_path, {"model_type": "mamba"}), 256).context_length


@pytest.mark.parametrize(
    "told",
    [{}, {"max_position_embeddings": None}, {"n_ctx": "many"}, {"n_ctx": 0}, {"n_ctx": -1}],
    ids=str,
)
def test_context_length_when_nobody_tells(tmp_path: Path, told: dict[str, object]) -> None:
    """Where no file tells a length, the one that is assumed is said, and what sets another."""
    card = card_of(model_folder(tmp_path, {"model_type": "mamba"} | told))

    assert card.context_length == ASSUMED_CONTEXT
    assert "4,096 tokens are assumed; CONTEXT_LENGTH" in card.notes[0]


def test_context_length_when_the_class_tells(tmp_path: Path) -> None:
    """What a config leaves out is what the type's own class takes for it, and a limit like any other."""
    folder = model_folder(tmp_path, {"model_type": "gemma3", "text_config": {"hidden_size": 2560}})
    defaults = {"max_position_embeddings": 131072}

    assert read_card(folder, "m", None, 1, class_defaults=defaults).context_length == 131072
    with pytest.raises(UnfitModel, match="16 to 131072"):
        read_card(folder, "m", 131073, 1, class_defaults=defaults)


@pytest.mark.parametrize(
    ("told", "expected"), [(2048, 2048), (10**30, ASSUMED_CONTEXT), ("x", ASSUMED_CONTEXT)]
)
def test_context_length_when_only_the_tokenizer_tells(
    tmp_path: Path, told: object, expected: int
) -> None:
    """The tokenizer's length stands in; its number for "no limit" does not."""
    folder = model_folder(
        tmp_path, {"model_type": "mamba"}, tokenizer_config_json={"model_max_length": told}
    )

    assert expected == card_of(folder).context_length


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"type": "yarn", "factor": 40, "original_max_position_embeddings": 100}, 4096),
        ({"type": "yarn", "factor": 2.0}, 8192),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 4096),
        ({"type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}, 4096),
        ({"full_attention": {"rope_type": "yarn", "factor": 2.0}}, 8192),
        ({"type": "linear", "factor": None}, 4096),
        ("linear", 4096),
        (None, 4096),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_context_length_when_positions_are_stretched(
    tmp_path: Path, key: str, scaling: object, expected: int
) -> None:
    """A scaling whose factor is one of the length reaches that length; others are in the config's own."""
    assert expected == card_of(model_folder(tmp_path, PLAIN | {key: scaling})).context_length


def test_context_length_of_a_gemma_is_the_stretched_one(tmp_path: Path) -> None:
    """Its configs tell the length that the scaling has led to."""
    config = PLAIN | {"model_type": "gemma3_text", "rope_scaling": {"type": "linear", "factor": 8}}

    assert card_of(model_folder(tmp_path, config)).context_length == 4096


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_quantization_when_the_config_tells(tmp_path: Path, key: str) -> None:
    """Bits are read from either section, and the model list says `quantized`."""
    card = card_of(model_folder(tmp_path, PLAIN | {key: {"group_size": 64, "bits": 4}}))

    assert 4 == card.quantization_bits
    assert "4-bit" in card.description
    assert "quantized" in models.entry(card, "ready")["tags"]


@pytest.mark.parametrize("section", [None, {}, {"bits": None}, {"quant_method": "fp8"}])
def test_quantization_when_no_bits_are_told(tmp_path: Path, section: object) -> None:
    """No bits told, none claimed: nothing is guessed."""
    card = card_of(model_folder(tmp_path, PLAIN | {"quantization_config": section}))

    assert card.quantization_bits is None


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"quantization_config": {"quant_method": "mxfp4"}}, 4),
        ({"quantization_config": {"quant_method": "mxfp8"}}, 8),
        ({"quantization_config": {"quant_method": "bitnet"}}, 2),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, 4),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "format": "nvfp4-pack-quantized",
                }
            },
            4,
        ),
        ({"quantization": {"group_size": 16, "mode": "nvfp4"}}, 4),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, 4),
    ],
    ids=str,
)
def test_quantization_when_a_method_is_named(
    tmp_path: Path, config: dict[str, object], bits: int
) -> None:
    """Methods and modes that stand for a number of bits count as much as the number."""
    card = card_of(model_folder(tmp_path, PLAIN | config))

    assert bits == card.quantization_bits
    assert "quantized" in models.entry(card, "ready")["tags"]


def test_quantization_when_a_file_of_its_own_tells(tmp_path: Path) -> None:
    """ModelOpt writes it beside the config."""
    quantization = {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    folder = model_folder(tmp_path, PLAIN, hf_quant_config_json=quantization)

    assert card_of(folder).quantization_bits == 4


def test_quantization_of_mixed_bits(tmp_path: Path) -> None:
    """Most weights' bits are the card's; the description tells all."""
    layers = {"model.embed_tokens": {"bits": 8, "group_size": 64}, "model.norm": False}
    config = PLAIN | {"quantization": {"group_size": 64, "bits": 6} | layers}
    card = card_of(model_folder(tmp_path, config))

    assert card.quantization_bits == 6
    assert "6- and 8-bit quantized" in card.description


def test_quantization_when_only_the_name_says_so(tmp_path: Path) -> None:
    """A `4bit` in the name proves nothing."""
    card = read_card(model_folder(tmp_path), "org/model-4b-4bit", None, 1)

    assert card.quantization_bits is None
    assert "quantized" not in models.entry(card, "ready")["tags"]


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATE_PLACES: list[dict[str, object]] = [
    {"chat_template_jinja": TEMPLATE},
    {"chat_template_json": {"chat_template": TEMPLATE}},
    {"tokenizer_config_json": {"chat_template": TEMPLATE}},
    {
        "tokenizer_config_json": {
            "chat_template": [
                {"name": "rag", "template": "{{ documents }}"},
                {"name": "default", "template": TEMPLATE},
            ]
        }
    },
]


@pytest.mark.parametrize("files", TEMPLATE_PLACES)
def test_template_in_each_of_its_places(tmp_path: Path, files: dict[str, object]) -> None:
    """A chat template is found wherever models keep it; such a model carries the tag `chat`."""
    card = card_of(model_folder(tmp_path, PLAIN, **files))

    assert card.has_chat_template
    assert {"local", "chat"} <= set(models.entry(card, "ready")["tags"])


def test_template_in_two_places(tmp_path: Path) -> None:
    """Its own file beats the tokenizer's settings."""
    folder = model_folder(
        tmp_path,
        PLAIN,
        chat_template_jinja="{{ messages }}",
        tokenizer_config_json={"chat_template": "{{ tools }}"},
    )

    assert not card_of(folder).knows_tools


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"chat_template": None},
        {"chat_template": []},
        {"chat_template": [{"name": "rag", "template": "x"}]},
    ],
)
def test_template_when_there_is_none(tmp_path: Path, settings: object) -> None:
    """Without a template nobody can chat, and the tag says so by its absence."""
    card = card_of(model_folder(tmp_path, PLAIN, tokenizer_config_json=settings))

    assert not card.has_chat_template
    assert "chat" not in models.entry(card, "ready")["tags"]
    assert card.notes == ("it has no chat template: completions are served, chats are refused",)


def test_template_for_tools_beside_the_default_one(tmp_path: Path) -> None:
    """A model that has a template of its own for tools knows them."""
    named = [
        {"name": "default", "template": TEMPLATE},
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "rag", "template": "{{ enable_thinking }}"},
    ]
    card = card_of(model_folder(tmp_path, PLAIN, tokenizer_config_json={"chat_template": named}))

    assert (True, True, False) == (card.has_chat_template, card.knows_tools, card.knows_thinking)


@pytest.mark.parametrize(
    ("template", "knows_tools", "knows_thinking"),
    [
        ("{% if tools %}x{% endif %}", True, False),
        ("{%- for t in tools -%}\n{{ t | tojson }}\n{%- endfor -%}", True, False),
        ("{% if enable_thinking %}<think>{% endif %}", False, True),
        ("{{ message.reasoning_content }}", False, True),
        ("{{- '<|im_start|>assistant\n<think>\n' }}", False, True),
        ("{% set content = content.split('</think>')[-1] %}", False, True),
        ("{% if thinking and tools %}x{% endif %}", True, True),
        ("You have no tools and do no thinking. {{ messages }}", False, False),
        ("{# tools and thinking, described #}{{ messages }}", False, False),
        ("{{ toolset }}{{ rethinking }}", False, False),
    ],
)
def test_template_abilities(
    tmp_path: Path, template: str, knows_tools: bool, knows_thinking: bool
) -> None:
    """What the template's code uses counts; what its prose or comments mention does not."""
    card = card_of(model_folder(tmp_path, PLAIN, chat_template_jinja=template))

    assert (knows_tools, knows_thinking) == (card.knows_tools, card.knows_thinking)


def test_folder_without_config(tmp_path: Path) -> None:
    """The operator reads which file is missing, and no path of the machine."""
    with pytest.raises(UnfitModel, match=r"config\.json") as caught:
        card_of(tmp_path)

    assert str(tmp_path.parent) not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="truncated"),
        pytest.param('{"model_type": "llama"} x', id="trailing junk"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param("[" * 100_000, id="nested too deep"),
    ],
)
def test_config_when_broken(tmp_path: Path, config: str) -> None:
    """A config that is no JSON object is refused in words, with the file's name."""
    with pytest.raises(UnfitModel, match=r"config\.json"):
        card_of(model_folder(tmp_path, config))


def test_config_when_not_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a damaged file like any other."""
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff\xfe"}')

    with pytest.raises(UnfitModel, match=r"config\.json"):
        card_of(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"text_config": None},
        {"text_config": "gemma"},
        {"text_config": [1]},
        {"quantization": "4bit"},
        {"quantization": [4]},
        {"quantization_config": True},
    ],
    ids=str,
)
def test_config_when_a_section_is_no_object(tmp_path: Path, damage: dict[str, object]) -> None:
    """A section of the wrong type is ignored or refused in words; it never breaks the reading."""
    try:
        card = card_of(model_folder(tmp_path, PLAIN | damage))
    except UnfitModel:
        return

    assert 4096 == card.context_length


@pytest.mark.parametrize("model_type", [None, "", 7, "3d"])
def test_config_when_it_names_no_family(tmp_path: Path, model_type: object) -> None:
    """A model of no known family is not served under an invented one."""
    folder = model_folder(tmp_path, PLAIN | {"model_type": model_type})

    with pytest.raises(UnfitModel):
        card_of(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config_json": "{"},
        {"chat_template_json": "[]"},
        {"tokenizer_config_json": {"chat_template": ["x"]}},
        {"tokenizer_config_json": {"chat_template": [{"name": "default"}]}},
    ],
    ids=str,
)
def test_template_when_its_file_is_damaged(tmp_path: Path, files: dict[str, object]) -> None:
    """A damaged template stops the loading in words, or counts as none; it never breaks the reading."""
    try:
        card = card_of(model_folder(tmp_path, PLAIN, **files))
    except UnfitModel:
        return

    assert not card.has_chat_template


def test_template_when_not_text(tmp_path: Path) -> None:
    """A template file that is no UTF-8 is refused in words."""
    (model_folder(tmp_path) / "chat_template.jinja").write_bytes(b"{{ \xff }}")

    with pytest.raises(UnfitModel, match="chat_template"):
        card_of(tmp_path)


def test_description_tells_what_the_template_takes(tmp_path: Path) -> None:
    """Tools and thinking are told where the template has them; tags promise only what is served."""
    folder = tmp_path / "clever-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3", "max_position_embeddings": 64}')
    template = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    card = card_of(folder)

    assert card.description.endswith("made for tools and thinking")
    assert (True, True) == (card.knows_tools, card.knows_thinking)


def test_description_is_readable(tmp_path: Path) -> None:
    """The description names the model, its architecture and the size of its weights."""
    folder = model_folder(tmp_path)
    (folder / "model-1.safetensors").write_bytes(b"\0" * 1_200_000)
    (folder / "model-2.safetensors").write_bytes(b"\0" * 300_000)
    description = card_of(folder).description

    assert "some-model: llama language model running on MLX, 1.5 MB of weights" == description


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("my-model", "my-model"),
        ("models--mlx-community--gemma-3-4b-it-4bit/snapshots/0a1b", "mlx-community/gemma-3-4b-it-4bit"),
        ("hub/models--gpt2/snapshots/0a1b", "gpt2"),
        ("models/llama", "llama"),
    ],
)  # fmt: skip
def test_id_of_a_folder(tmp_path: Path, path: str, expected: str) -> None:
    """A folder's id is its name, or the hub's where it lies in the hub's cache."""
    folder = tmp_path / path
    folder.mkdir(parents=True)

    assert expected == model_id_of(folder)


def test_id_of_a_folder_by_a_crooked_path(tmp_path: Path) -> None:
    """The way to the folder does not show in its id."""
    (tmp_path / "model").mkdir()

    assert "model" == model_id_of(tmp_path / "model" / ".." / "model")


def test_card_of_the_embedded_model() -> None:
    """The built-in model says what it is, and its entry in the model list keeps the contract."""
    card = read_card(EMBEDDED_FOLDER, EMBEDDED_ID, None, 1_700_000_000)
    entry: dict[str, Any] = models.entry(card, "ready")

    assert ("gemma", 8192) == (card.family, card.context_length)
    assert {"chat", "local", "quantized", "tools"} <= set(entry["tags"])
    assert card.knows_tools
    assert "demonstration" in card.description
    contracts.check("model", entry)
