"""
What uvicorn says by itself to HTTP/1.0, put right: chunks, which that version does not have.

Here the end of the connection is the end of the answer, unless the answer's length is told. Only uvicorn's
protocol over httptools, the one that it takes by itself, sends such chunks.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http import httptools_impl


class _Cycle(httptools_impl.RequestResponseCycle):
    """One request and its response."""

    async def send(self, message: Any) -> None:
        if self.scope["http_version"] == "1.0":
            self._expect(message)
        await super().send(message)

    def _expect(self, message: Any) -> None:
        """Let a body whose length isn't told be as long as it turns out."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._is_open_ended = b"content-length" not in names
            self.chunked_encoding = False if self._is_open_ended else None
        elif self._is_open_ended:
            self.expected_content_length = len(message.get("body", b""))


def mend() -> None:
    """Put it right for all connections that are yet to come."""
    httptools_impl.RequestResponseCycle = _Cycle  # type: ignore[misc]
