"""Which model a request means by the name it gives."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import ModelNotFound
from service.protocol import ModelCard


def resolve(name: str, cards: Sequence[ModelCard]) -> ModelCard:
    """
    Return the one card that *name* stands for: an id, an id's last part, or a family of one.

    Raises:
        ModelNotFound: none, or a family or last part that several share.
    """
    by_id = [card for card in cards if card.id == name]
    by_last_part = [card for card in cards if card.id.rpartition("/")[2] == name]
    by_family = [card for card in cards if card.family == name]
    for found in (by_id, by_last_part, by_family):
        if len(found) == 1:
            return found[0]
    raise _not_found()


def with_id(model_id: str, cards: Sequence[ModelCard]) -> ModelCard:
    """
    Return the card with exactly this id.

    Raises:
        ModelNotFound: there is none.
    """
    for card in cards:
        if card.id == model_id:
            return card
    raise _not_found()


def _not_found() -> ModelNotFound:
    return ModelNotFound(
        "No model of that name is served here; GET /v1/models lists those that are.", param="model"
    )
