"""
A model's card, read from the model's own files.

Nothing is guessed from a name where a file tells: `config.json` has the family, the context length
and the quantization, the chat template says whether it takes tools or keeps reasoning apart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from service.protocol import ModelCard

EMBEDDED_FOLDER = Path(__file__).resolve().parent / "embedded"
EMBEDDED_ID = "local-mlx/gemma-3-demo"
EMBEDDED_DESCRIPTION = (
    "Small built-in demonstration model of Gemma 3 architecture, trained from scratch; "
    "it knows this server and nothing else"
)

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_TEMPLATE_TAG = re.compile(r"\{[%{].*?[%}]\}", re.DOTALL)


class UnfitModel(Exception):
    """The folder holds no model that can be served; the message is for the operator."""


def read_card(
    folder: Path,
    model_id: str,
    context_length: int | None,
    created: int,
    template: str | None = None,
) -> ModelCard:
    """
    Read the card of the model in *folder*.

    Args:
        folder: holds `config.json` and what else the model came with.
        model_id: name under which it will be served.
        context_length: the configured cap in tokens; None: the model's own.
        created: unix seconds of its loading.
        template: the chat template in place of its own; None: its own.

    Raises:
        UnfitModel: `config.json` is missing, unreadable, or tells no context length and none is
            configured, or the configured one is longer than the model's own.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        raise UnfitModel(f"{folder.name} holds no config.json")
    text_config = config | _section(config, "text_config")
    template = template or _chat_template(folder)
    used = " ".join(_TEMPLATE_TAG.findall(template or ""))
    thinking = r"\b(enable_thinking|reasoning_content|thinking)\b"
    card = ModelCard(
        id=model_id,
        family=_family(config),
        description=EMBEDDED_DESCRIPTION,
        context_length=_context_length(text_config, context_length),
        created=created,
        quantization_bits=_quantization_bits(config),
        has_chat_template=template is not None,
        knows_tools=re.search(r"\btools\b", used) is not None,
        knows_thinking=re.search(thinking, used) is not None,
    )
    if folder.resolve() == EMBEDDED_FOLDER:
        return card
    return msgspec.structs.replace(card, description=_description(card, folder, config))


def model_id_of(folder: Path) -> str:
    """Return the id for a model in *folder*: its name, or the hub's where the folder is in its cache."""
    for part in folder.resolve().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in *path*, None if there is no such file."""
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


def _family(config: dict[str, Any]) -> str:
    """Return the leading letters of the architecture: gemma3_text is of family gemma."""
    letters = re.match(r"[a-z]+", str(config.get("model_type") or "").lower())
    if letters is None:
        raise UnfitModel("config.json names no model_type")
    return letters.group()


def _context_length(config: dict[str, Any], configured: int | None) -> int:
    lengths = [config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)]
    own = next((length for length in lengths if length > 0), None)
    if own is None and configured is None:
        raise UnfitModel("config.json tells no context length; set CONTEXT_LENGTH")
    if own is not None and configured is not None and configured > own:
        raise UnfitModel(f"CONTEXT_LENGTH {configured} is over the model's own, 16 to {own}")
    return int(configured or own or 0)


def _quantization_bits(config: dict[str, Any]) -> int | None:
    bits = (_section(config, "quantization") | _section(config, "quantization_config")).get("bits")
    return bits if isinstance(bits, int) else None


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object under *name*, an empty one if there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _chat_template(folder: Path) -> str | None:
    """Return the template from its own file, else from the tokenizer's settings."""
    own = _read_text(folder / "chat_template.jinja")
    if own is not None:
        return own
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (_read_json(folder / name) or {}).get("chat_template")
        if isinstance(template, list):  # several by name; chats are rendered with these two
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            texts = [t for n in ("default", "tool_use") if isinstance(t := named.get(n), str)]
            template = "\n".join(texts) if isinstance(named.get("default"), str) else None
        if isinstance(template, str):
            return template
    return None


def _description(card: ModelCard, folder: Path, config: dict[str, Any]) -> str:
    """Return one sentence: what it is, how large, and what its chat template could take."""
    size_mb = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    bits = card.quantization_bits
    weights = f"{bits}-bit quantized weights" if bits else "weights"
    known = {"tools": card.knows_tools, "thinking": card.knows_thinking}
    takes = " and ".join(name for name, is_known in known.items() if is_known)
    return (
        f"{card.id.rpartition('/')[2]}: {config['model_type']} language model running on MLX, "
        f"{size_mb:,.1f} MB of {weights}" + (f", made for {takes}" if takes else "")
    )
