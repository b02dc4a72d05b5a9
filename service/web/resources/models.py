"""`GET /v1/models` and `GET /v1/models/{id}`: discovery."""

from __future__ import annotations

from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service.fleet.fleet import Fleet
from service.openai import models
from service.protocol import ModelCard


class Models:
    """The models that requests may name now."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """List them all."""
        entries = [self._entry(card) for card in self._fleet.cards()]
        _render(resp, models.listing(entries))

    async def on_get_one(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Return one by any name that a request may give it; an id may hold slashes."""
        _render(resp, self._entry(self._fleet.resolve(model_id)))

    on_head = on_get
    on_head_one = on_get_one

    def _entry(self, card: ModelCard) -> dict[str, Any]:
        state = self._fleet.of(card).lifecycle.state.value
        return models.entry(card, state, self._fleet.aliases(card))


def _render(resp: Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
