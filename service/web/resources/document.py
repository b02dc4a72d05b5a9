"""`GET /openapi.json`: the interface, described."""

from __future__ import annotations

import falcon
import msgspec
from falcon.asgi import Request, Response

from service import contracts


class OpenApi:
    """The contracts as one self-contained OpenAPI document."""

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Return the document."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(contracts.openapi())

    on_head = on_get
