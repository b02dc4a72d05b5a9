"""
A model's card, read from the model's own files.

Nothing is guessed from a name where a file tells: `config.json` has the family, the context length
and the quantization, the chat template says whether it takes tools or keeps reasoning apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from service.protocol import GENERATING, ModelCard, ModelKind

EMBEDDED_FOLDER = Path(__file__).resolve().parent / "embedded"
EMBEDDED_ID = "local-mlx/gemma-3-demo"
EMBEDDED_DESCRIPTION = (
    "Small built-in demonstration model of Gemma 3 architecture, trained from scratch; "
    "it knows this server and nothing else"
)

ASSUMED_CONTEXT = 4096  # taste: where no file tells a length; every model made to chat has as much
MAX_TOKENIZER_LENGTH = 1 << 24  # beyond, a tokenizer's length stands for "no limit"

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "model_max_length",
    "max_context_length",
    "max_sequence_length",
    "block_size",
)
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_STRETCHING = ("linear", "dynamic", "yarn")  # rope scalings whose factor is one of the length

_FAMILIES = {
    "gpt_oss": "gpt-oss",
    "recurrent_gemma": "gemma",
    "granitemoe": "granite",
    "granitemoehybrid": "granite",
    "olmoe": "olmo",
    "phimoe": "phi",
    "phixtral": "phi",
    "prism_hadamard_qwen35": "qwen",
    "xlm-roberta": "roberta",
    "modernbert": "bert",
}
"""Those of types whose leading letters are no family's."""

_NAMED_BITS = {
    "mxfp4": 4,
    "nvfp4": 4,
    "mxfp8": 8,
    "bitnet": 2,
    "awq": 4,
    "gptq": 4,
    "pack-quantized": 4,
}
"""Bits of weights by the name of a method, a mode or a format; where MLX unpacks them, none is here."""

KINDS: dict[ModelKind, str] = {
    "lm": "language model",
    "multimodal": "language model that takes images",
    "embeddings": "embedding model",
    "reranker": "reranking model",
}

_TEMPLATE_TAG = re.compile(r"\{[%{].*?[%}]\}", re.DOTALL)
_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(r"\b(enable_thinking|reasoning_content|thinking)\b|</?think>")


class UnfitModel(Exception):
    """
    There is no model that can be served; the message is for the operator.

    Args:
        message: a clause, fit for `/readyz`: it repeats no path.
        value: what was set, for the log alone.
        may_pass: another try may go well, without anybody doing anything.
    """

    def __init__(self, message: str, *, value: str | None = None, may_pass: bool = False) -> None:
        super().__init__(message)
        self.value = value
        self.may_pass = may_pass


def read_card(
    folder: Path,
    model_id: str,
    context_length: int | None,
    created: int,
    template: str | None = None,
    class_defaults: Mapping[str, Any] | None = None,
    kind: ModelKind = "lm",
) -> ModelCard:
    """
    Read the card of the model in *folder*.

    Args:
        folder: holds `config.json` and what else the model came with.
        model_id: name under which it will be served.
        context_length: the configured cap in tokens; None: the model's own.
        created: unix seconds of its loading.
        template: the chat template in place of its own; None: its own.
        class_defaults: what the model type's own class takes for settings that `config.json` leaves out.
        kind: what it shall be served as.

    Raises:
        UnfitModel: `config.json` is missing or unreadable, or the configured context length is longer
            than the model's own.
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise UnfitModel(f"{folder.name} holds no config.json")
    own = _own_context_length(config) or _stated_length(class_defaults or {})
    if own is not None and context_length is not None and context_length > own:
        raise UnfitModel(f"CONTEXT_LENGTH {context_length} is over the model's own, 16 to {own}")
    templates = _chat_templates(folder) if template is None else [template]
    notes = []
    if own is None and context_length is None:
        own = _tokenizers_length(folder) or ASSUMED_CONTEXT
        notes.append(
            f"its config.json tells no context length, and {own:,} tokens are assumed; "
            "CONTEXT_LENGTH sets another"
        )
    if kind in GENERATING and not templates:
        notes.append("it has no chat template: completions are served, chats are refused")
    if kind == "lm" and isinstance(config.get("vision_config"), dict):
        notes.append("its texts are served, and no images")
    used = " ".join(_TEMPLATE_TAG.findall(" ".join(templates)))
    bits = list(dict.fromkeys(_weight_bits(folder, config)))
    card = ModelCard(
        id=model_id,
        family=_family(config),
        description=EMBEDDED_DESCRIPTION,
        context_length=int(context_length or own or 0),
        created=created,
        quantization_bits=bits[0] if bits else None,
        has_chat_template=bool(templates),
        knows_tools=_TOOLS.search(used) is not None,
        knows_thinking=_THINKING.search(used) is not None,
        notes=tuple(notes),
        kind=kind,
    )
    if folder.resolve() == EMBEDDED_FOLDER and kind == "lm":
        return card
    return msgspec.structs.replace(card, description=_description(card, folder, config, bits))


def model_id_of(folder: Path) -> str:
    """Return the id for a model in *folder*: its name, or the hub's where the folder is in its cache."""
    for part in folder.resolve().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def read_json(path: Path) -> dict[str, Any] | None:
    """
    Return the object in *path*, None if there is no such file.

    Raises:
        UnfitModel: it can't be read, or holds something else.
    """
    text = _read_text(path)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitModel(f"{path.name} is no valid JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise UnfitModel(f"{path.name} holds no JSON object")
    return found


def _read_text(path: Path) -> str | None:
    """Return what *path* holds, None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return path.read_text("utf-8")
    except (ValueError, OSError) as error:
        raise UnfitModel(f"{path.name} cannot be read ({type(error).__name__})") from error


def _family(config: Mapping[str, Any]) -> str:
    """Return the leading letters of the architecture: gemma3_text is of family gemma."""
    name = str(config.get("model_type") or "").lower()
    letters = re.match(r"[a-z]+", name)
    if letters is None:
        raise UnfitModel("config.json names no model_type")
    return _FAMILIES.get(name) or _FAMILIES.get(letters.group()) or letters.group()


def _own_context_length(config: dict[str, Any]) -> int | None:
    """Return the most tokens that a config says the model was made for, scaled rope included."""
    text = config.copy()
    for name in _TEXT_SECTIONS:
        text |= _section(config, name)
    stated = _stated_length(text)
    rope = _section(text, "rope_scaling") or _section(text, "rope_parameters")
    rope = _section(rope, "full_attention") or rope
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if stated is None or kind not in _STRETCHING or not isinstance(factor, int | float):
        return stated
    if _family(config) == "gemma" and kind == "linear":  # its configs tell the scaled length
        return stated
    original = rope.get("original_max_position_embeddings")
    if kind == "yarn" and isinstance(original, int):
        return max(int(original * factor), stated)
    return int(stated * factor)


def _stated_length(config: Mapping[str, Any]) -> int | None:
    """Return the first length of a context that stands in *config*."""
    lengths = [config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)]
    return next((length for length in lengths if length > 0), None)


def _tokenizers_length(folder: Path) -> int | None:
    """Return the most tokens that the tokenizer's settings allow, if they tell any number worth the name."""
    length = (read_json(folder / "tokenizer_config.json") or {}).get("model_max_length")
    is_length = isinstance(length, int) and 0 < length <= MAX_TOKENIZER_LENGTH
    return length if is_length else None


def _weight_bits(folder: Path, config: dict[str, Any]) -> Iterator[int]:
    """Yield the bits of quantized weights: those of most of them first, then those of single layers."""
    sections = [config, *(_section(config, name) for name in _TEXT_SECTIONS)]
    sections.append({"quantization": read_json(folder / "hf_quant_config.json") or {}})
    for section in sections:
        for name in ("quantization", "quantization_config"):
            settings = _section(section, name)
            settings |= _section(settings, "quantization")
            for each in (settings, *settings.values()):
                if isinstance(each, dict) and (bits := _bits(each)):
                    yield bits


def _bits(settings: Mapping[str, Any]) -> int | None:
    """Return the bits that *settings* of a quantization tell, by number or by name."""
    bits = settings.get("bits")
    if isinstance(bits, int):
        return bits
    for key in ("mode", "format", "quant_algo", "quant_method"):
        named = str(settings.get(key) or "").lower()
        for name, known in _NAMED_BITS.items():
            if name in named:
                return known
    return None


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object under *name*, an empty one if there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _chat_templates(folder: Path) -> list[str]:
    """Return the templates from their own file, else from the tokenizer's settings; the default one first."""
    own = _read_text(folder / "chat_template.jinja")
    if own is not None:
        return [own]
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (read_json(folder / name) or {}).get("chat_template")
        if isinstance(template, str):
            return [template]
        if isinstance(
            template, list
        ):  # several by name; that for tools stands beside the default one
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            if isinstance(named.get("default"), str):
                return [t for n in ("default", "tool_use") if isinstance(t := named.get(n), str)]
    return []


def _description(card: ModelCard, folder: Path, config: Mapping[str, Any], bits: list[int]) -> str:
    """Return one sentence: what it is, how large, and what its chat template could take."""
    size_mb = (
        sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file()) / 1e6
    )
    weights = (
        f"{'- and '.join(map(str, sorted(bits)))}-bit quantized weights" if bits else "weights"
    )
    known = {"tools": card.knows_tools, "thinking": card.knows_thinking}
    takes = " and ".join(
        name for name, is_known in known.items() if is_known and card.kind in GENERATING
    )
    return (
        f"{card.id.rpartition('/')[2]}: {config['model_type']} {KINDS[card.kind]} running on MLX, "
        f"{size_mb:,.1f} MB of {weights}" + (f", made for {takes}" if takes else "")
    )
