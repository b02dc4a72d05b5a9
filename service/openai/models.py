"""`GET /v1/models`: cards into the entries that clients discover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.errors import UnsupportedModelType
from service.protocol import GENERATING, ModelCard, ModelKind

OWNER = "local-mlx"
TIER = "3A"
_DOES: dict[ModelKind, str] = {
    "lm": "answers: /v1/chat/completions, /v1/responses, /v1/messages and /v1/completions",
    "multimodal": "answers, and takes images: /v1/chat/completions, /v1/responses, /v1/messages and "
    "/v1/completions",
    "embeddings": "makes vectors of texts: /v1/embeddings, /v1/rerank and /v1/score",
    "reranker": "ranks texts: /v1/rerank and /v1/score",
}
KINDS = tuple(_DOES)


def entry(card: ModelCard, state: str, aliases: Sequence[str] = ()) -> dict[str, Any]:
    """Return the bare object for one model in *state*, which also goes by the *aliases*."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": OWNER,
        "description": card.description,
        "context_length": card.context_length,
        "family": card.family,
        "tags": _tags(card),
        "tier": TIER,
        "aliases": list(aliases),
        "state": state,
    }


def listing(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the list envelope around *entries*."""
    return {"object": "list", "data": list(entries)}


def wrong_kind(card: ModelCard, param: str = "model") -> UnsupportedModelType:
    """Return the error for a request that *card*'s model is not made for; *param* asks for it."""
    return UnsupportedModelType(f"The model {card.id} {_DOES[card.kind]}.", param=param)


def _tags(card: ModelCard) -> list[str]:
    """Return what a client can count on here; what the model alone could do is in its description."""
    if (
        card.kind not in GENERATING
    ):  # no "tokenize": many such tokenizers drop capitals and spaces for good
        tags = {
            "local": True,
            "embeddings": card.kind == "embeddings",
            "rerank": True,
            "quantized": card.quantization_bits is not None,
        }
        return [tag for tag, holds in tags.items() if holds]
    can_chat = card.has_chat_template
    tags = {
        "local": True,
        "chat": can_chat,
        "images": can_chat and card.kind == "multimodal",
        "tools": can_chat and card.knows_tools and card.knows_calls,
        "json_schema": can_chat,
        "logprobs": can_chat,
        "completions": True,
        "responses": can_chat,
        "messages": can_chat,
        "tokenize": True,
        "reasoning": can_chat and card.knows_thinking,
        "quantized": card.quantization_bits is not None,
    }
    return [tag for tag, holds in tags.items() if holds]
