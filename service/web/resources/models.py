"""`GET /v1/models` and `GET /v1/models/{id}`: discovery."""

from __future__ import annotations

from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service.catalog.resolve import Names
from service.fleet.lifecycle import Lifecycle
from service.openai import models
from service.protocol import ModelCard


class Models:
    """The models that take requests now."""

    def __init__(self, lifecycle: Lifecycle, names: Names) -> None:
        self._lifecycle = lifecycle
        self._names = names

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """List them all."""
        entries = [self._entry(card) for card in self._cards()]
        _render(resp, models.listing(entries))

    async def on_get_one(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Return one by any name that a request may give it; an id may hold slashes."""
        _render(resp, self._entry(self._names.resolve(model_id, self._cards())))

    on_head = on_get
    on_head_one = on_get_one

    def _entry(self, card: ModelCard) -> dict[str, Any]:
        return models.entry(card, self._names.of(card, self._cards()))

    def _cards(self) -> list[ModelCard]:
        card = self._lifecycle.healthy_card
        if card is None:
            raise self._lifecycle.refusal()
        return [card]


def _render(resp: Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
