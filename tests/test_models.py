"""Cards into the entries that clients discover."""

from typing import Any

import pytest

from service import contracts
from service.openai import models
from service.protocol import ModelCard

CARD = ModelCard(
    id="org/gemma-3-4b",
    family="gemma",
    description="A model.",
    context_length=8192,
    created=1_700_000_000,
    quantization_bits=4,
    knows_tools=True,
    knows_thinking=True,
)
WRITING = {"local", "completions", "tokenize"}
CHATTING = WRITING | {"chat", "json_schema", "logprobs", "responses", "messages"}


def test_entry_has_all_its_fields() -> None:
    """The bare object carries what the card says, what this service is, and the model's further names."""
    expected = {
        "id": "org/gemma-3-4b",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "local-mlx",
        "description": "A model.",
        "context_length": 8192,
        "family": "gemma",
        "tags": [
            "local", "chat", "tools", "json_schema", "logprobs", "completions", "responses", "messages",
            "tokenize", "reasoning", "quantized",
        ],
        "tier": "3A",
        "aliases": ["gpt-4", "small"],
        "state": "ready",
    }  # fmt: skip

    assert expected == models.entry(CARD, "ready", ["gpt-4", "small"])
    contracts.check("model", expected)


@pytest.mark.parametrize(
    ("change", "tags"),
    [
        ({}, CHATTING),
        ({"knows_tools": True}, CHATTING | {"tools"}),
        ({"knows_thinking": True}, CHATTING | {"reasoning"}),
        ({"has_chat_template": False}, WRITING),
        ({"has_chat_template": False, "knows_tools": True, "knows_thinking": True}, WRITING),
        ({"has_chat_template": False, "quantization_bits": 8}, WRITING | {"quantized"}),
    ],
)
def test_tags_say_what_holds(change: dict[str, Any], tags: set[str]) -> None:
    """A tag stands there when it is true and not otherwise; most are about chats."""
    card = ModelCard("m", "llama", "x", 1, 1, **change)

    assert tags == set(models.entry(card, "ready")["tags"])


@pytest.mark.parametrize("cards", [[], [CARD]])
def test_listing_keeps_its_contract(cards: list[ModelCard]) -> None:
    """The list envelope holds the very entries, none included."""
    entries = [models.entry(card, "ready") for card in cards]
    listing = models.listing(entries)

    assert {"object": "list", "data": entries} == listing
    contracts.check("model-list", listing)
