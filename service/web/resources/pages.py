"""
`GET /` and `GET /docs`: pages for people, and what they are made of.

Each is whole in itself: nothing is fetched from anywhere else, no script stands within the markup, and the
policy that comes with each page forbids both.
"""

from __future__ import annotations

from pathlib import Path

import falcon
from falcon.asgi import Request, Response

FOLDER = Path(__file__).resolve().parents[1] / "pages"
ROUTES = ("/", "/docs", "/pages/{name}")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """The files of the pages, read once."""

    def __init__(self) -> None:
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in FOLDER.iterdir()
        }

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Return the status page."""
        self._send(resp, "index.html")

    async def on_get_docs(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Return the page of all endpoints."""
        self._send(resp, "docs.html")

    async def on_get_file(self, req: Request, resp: Response, name: str) -> None:  # noqa: ARG002
        """Return what a page is made of."""
        self._send(resp, name)

    on_head = on_get
    on_head_docs = on_get_docs
    on_head_file = on_get_file

    def _send(self, resp: Response, name: str) -> None:
        if name not in self._files:
            raise falcon.HTTPNotFound
        resp.data, resp.content_type = self._files[name]
        resp.set_header("Content-Security-Policy", _POLICY)
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Referrer-Policy", "no-referrer")
