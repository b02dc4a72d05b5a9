"""gunicorn's protocol, with limits; apart from the other, since gunicorn is imported only where it serves."""

from __future__ import annotations

from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol

from service.errors import (
    HeadersTooLarge,
    InvalidHttp,
    RequestTimeout,
    ServiceError,
    UriTooLong,
)
from service.web.servers import HEAD_S, HeadTimer, refusal

_BY_STATUS: dict[int, type[ServiceError]] = {
    408: RequestTimeout,
    414: UriTooLong,
    431: HeadersTooLarge,
}


class GunicornProtocol(ASGIProtocol):  # type: ignore[misc]  # it ships no types
    """Refuses in the envelope, and waits for the first head no longer than it may take."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._head = HeadTimer(self._is_late)
        self._has_begun = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head; for later ones gunicorn waits as long as it keeps connections."""
        super().connection_made(transport)
        self._head.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note that there is a head to be answered."""
        self._has_begun = True
        super().data_received(data)

    def _on_headers_complete(self) -> Any:
        self._head.stop()
        return super()._on_headers_complete()

    def _send_error_response(
        self,
        status: int,
        message: str,  # noqa: ARG002
        extra_headers: Any = (),  # noqa: ARG002
    ) -> None:
        self._head.stop()
        kind = _BY_STATUS.get(status, InvalidHttp)
        self._safe_write(refusal(kind("What came is no request of HTTP/1.1."), "", ()))

    def _is_late(self) -> None:
        if self._has_begun:
            self._send_error_response(408, f"no whole head within {HEAD_S:g} s")
        self._close_transport()
