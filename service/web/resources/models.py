"""`GET /v1/models` and `GET /v1/models/{id}`: discovery."""

from __future__ import annotations

import falcon
import msgspec
from falcon.asgi import Request, Response

from service.catalog.resolve import with_id
from service.fleet.lifecycle import Lifecycle
from service.openai import models
from service.protocol import ModelCard


class Models:
    """The models that take requests now."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """List them all."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(models.listing(self._cards()))

    async def on_get_one(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Return one by its id, which may hold slashes."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(models.entry(with_id(model_id, self._cards())))

    on_head = on_get
    on_head_one = on_get_one

    def _cards(self) -> list[ModelCard]:
        card = self._lifecycle.healthy_card
        if card is None:
            raise self._lifecycle.refusal()
        return [card]
