"""`GET /v1/models`: cards into the entries that clients discover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.protocol import ModelCard

OWNER = "local-mlx"
TIER = "3A"


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


def _tags(card: ModelCard) -> list[str]:
    """Return what a client can count on here; what the model alone could do is in its description."""
    can_chat = card.has_chat_template
    tags = {
        "local": True,
        "chat": can_chat,
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
