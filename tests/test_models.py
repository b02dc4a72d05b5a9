"""Cards into the entries that clients discover."""

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
)


def test_entry_has_all_nine_fields() -> None:
    """The bare object carries what the card says and what this service is."""
    expected = {
        "id": "org/gemma-3-4b",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "local-mlx",
        "description": "A model.",
        "context_length": 8192,
        "family": "gemma",
        "tags": ["local", "chat", "quantized"],
        "tier": "3A",
    }

    assert expected == models.entry(CARD)
    contracts.check("model", models.entry(CARD))


@pytest.mark.parametrize(
    ("has_chat_template", "bits", "tags"),
    [
        (True, None, {"local", "chat"}),
        (False, None, {"local"}),
        (False, 8, {"local", "quantized"}),
    ],
)
def test_tags_say_what_holds(has_chat_template: bool, bits: int | None, tags: set[str]) -> None:
    """A tag stands there when it is true and not otherwise."""
    card = ModelCard(
        "m", "llama", "x", 1, 1, quantization_bits=bits, has_chat_template=has_chat_template
    )

    assert tags == set(models.entry(card)["tags"])


@pytest.mark.parametrize("cards", [[], [CARD]])
def test_listing_keeps_its_contract(cards: list[ModelCard]) -> None:
    """The list envelope holds the very entries, none included."""
    listing = models.listing(cards)

    assert {"object": "list", "data": [models.entry(card) for card in cards]} == listing
    contracts.check("model-list", listing)
