"""`GET /openapi.json`: the interface, described."""

from __future__ import annotations

import functools
import gzip
import hashlib

import falcon
import msgspec
from falcon.asgi import Request, Response

from service import contracts


class OpenApi:
    """The contracts as one self-contained OpenAPI document, packed for whoever takes it so."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Return the document, or that it is the one that the client has."""
        plain, packed, digest = _document()
        is_packed = _takes_gzip(req.get_header("Accept-Encoding") or "")
        tag = f'"{digest}-gzip"' if is_packed else f'"{digest}"'
        resp.set_header("ETag", tag)
        resp.set_header("Vary", "Accept-Encoding")
        known = (req.get_header("If-None-Match") or "").split(",")
        if {each.strip().removeprefix("W/") for each in known} & {tag, "*"}:
            resp.status = 304
            return
        resp.content_type = falcon.MEDIA_JSON
        resp.data = packed if is_packed else plain
        if is_packed:
            resp.set_header("Content-Encoding", "gzip")

    on_head = on_get


@functools.cache
def _document() -> tuple[bytes, bytes, str]:
    """Return the document as it is and packed, and a name for what is in it."""
    plain = msgspec.json.encode(contracts.openapi())
    return plain, gzip.compress(plain, mtime=0), hashlib.sha256(plain).hexdigest()[:16]


def _takes_gzip(accepted: str) -> bool:
    """Tell whether gzip is among the codings *accepted*; one with a quality of 0 is not."""
    for each in accepted.split(","):
        name, _, quality = each.partition(";")
        if name.strip().lower() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
