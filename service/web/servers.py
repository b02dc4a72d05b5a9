"""
All that is known here of uvicorn and gunicorn from within, put right below ASGI.

- What they can't parse they refuse in plain text. Here that has the envelope and both headers, as far as
  what was parsed tells them.
- They wait without limit for the head of a request, and uvicorn takes one of any size. Here it has its
  time and its size.
- They wait without limit for a client to read what was sent. Here its connection is cut.
- uvicorn sends chunks to HTTP/1.0, which has none. Here the end of the connection is the end of the answer,
  unless the answer's length is told.

uvicorn is told of its protocol before it opens its socket, and gunicorn likewise; of other servers
nothing is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import sys
from collections.abc import Iterable
from typing import Any, Protocol, cast

import msgspec
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadersTooLarge, InvalidHttp, RequestTimeout, ServiceError, UriTooLong
from service.telemetry import request_id
from service.web.failures import explained
from service.web.request_ids import request_id_in

HEAD_S = 10.0
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100

Header = tuple[bytes, bytes]


class Transport(Protocol):
    """What is asked of a connection."""

    def abort(self) -> None:
        """Close it, whatever is left to be sent."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes its client has not taken yet."""


def limit(lifespan_send: object) -> None:
    """
    Have the server that this process runs keep the limits of this module, for connections yet to come.

    Args:
        lifespan_send: the `send` of the ASGI lifespan, which leads to uvicorn's configuration.
    """
    config = uvicorn_of(lifespan_send)
    if config is not None and config.http_protocol_class is HttpToolsProtocol:
        config.http_protocol_class = UvicornProtocol
        httptools_impl.RequestResponseCycle = _Cycle  # type: ignore[misc]
    if "gunicorn.workers.gasgi" in sys.modules:
        from service.web.gunicorn_protocol import GunicornProtocol

        # Looked up anew for each connection.
        sys.modules["gunicorn.workers.gasgi"].ASGIProtocol = GunicornProtocol  # type: ignore[attr-defined]


def uvicorn_of(lifespan_send: object) -> uvicorn.Config | None:
    """Return the configuration of the uvicorn that gave an ASGI lifespan its `send`; None: another did."""
    config = getattr(getattr(lifespan_send, "__self__", None), "config", None)
    return config if isinstance(config, uvicorn.Config) else None


def n_workers(lifespan_send: object) -> int:
    """Return how many workers the server was asked for, of which this process is one."""
    if (config := uvicorn_of(lifespan_send)) is not None:
        return config.workers
    if "gunicorn.arbiter" not in sys.modules:
        return 1
    from gunicorn.app.wsgiapp import WSGIApplication

    # It reads the command line, the environment and gunicorn's file once more, as the parent process did.
    return int(WSGIApplication().cfg.workers)


def transport_of(send: object) -> Transport | None:
    """Return the connection that an ASGI *send* writes to; None where the server keeps it to itself."""
    owner = getattr(send, "__self__", None)  # uvicorn's is a method
    code, cells = getattr(send, "__code__", None), getattr(send, "__closure__", None)
    if owner is None and code is not None and cells and "self" in code.co_freevars:
        owner = cells[code.co_freevars.index("self")].cell_contents  # gunicorn's is a closure
    return cast(Transport | None, getattr(owner, "transport", None))


def see_off(transport: Transport, stall_s: float, left_before: int = sys.maxsize) -> None:
    """Cut a connection as soon as its client takes nothing of what is left for it for *stall_s* seconds."""
    with contextlib.suppress(RuntimeError):  # it is closed
        left = transport.get_write_buffer_size()
        if left and left >= left_before:
            transport.abort()
        elif left:
            loop = asyncio.get_running_loop()
            loop.call_later(stall_s, see_off, transport, stall_s, left)


def refusal(error: ServiceError, path: str, headers: Iterable[Header]) -> bytes:
    """Return a whole response that tells *error* to whoever sent what could be parsed so far."""
    the_id = request_id_in(headers)
    token = request_id.set(the_id)
    body = msgspec.json.encode(explained(error, path))
    request_id.reset(token)
    lines = [
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}".encode("ascii"),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"x-request-id: " + the_id.encode("ascii"),
        b"x-process-time: 0.000000",  # nothing was worked on
        b"connection: close",
        b"",
        body,
    ]
    return b"\r\n".join(lines)


class HeadTimer:
    """
    Waits for the head of a request.

    Args:
        is_late: called when it has not come within HEAD_S seconds.
    """

    def __init__(self, is_late: Any) -> None:
        self._is_late = is_late
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_on(self) -> bool:
        """Whether a head is awaited."""
        return self._timer is not None

    def start(self) -> None:
        """Wait for a head, if none is awaited yet."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._is_late)

    def stop(self) -> None:
        """Wait no more: it is there, or never will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Cycle(httptools_impl.RequestResponseCycle):
    """uvicorn's request and its response; one of HTTP/1.0 gets no chunks, and who has left gets nothing."""

    async def send(self, message: Any) -> None:
        self.disconnected |= self.transport.is_closing()  # told a turn of the loop later by uvicorn
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


class UvicornProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = HeadTimer(self._is_late)
        self._n_head_bytes = 0
        self._n_header_bytes = 0
        self._refusal: ServiceError | None = None
        self._answering: httptools_impl.RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._head.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data*; a head that goes on and on is none."""
        super().data_received(data)
        if self._head.is_on and not self.transport.is_closing():
            self._n_head_bytes += len(data)
            if self._n_head_bytes > MAX_HEAD_BYTES:
                self._refusal = self._too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin to wait for another head."""
        super().on_message_begin()
        self._n_head_bytes = self._n_header_bytes = 0
        self._head.start()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, if there is room for it."""
        super().on_header(name, value)
        self._n_header_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._n_header_bytes > MAX_HEAD_BYTES:
            self._refusal = HeadersTooLarge(
                f"The request has over {MAX_HEADERS} headers or over {MAX_HEAD_BYTES} bytes of them."
            )
            raise self._refusal

    def on_headers_complete(self) -> None:
        """Wait no more; before 1.0 there were no heads."""
        self._head.stop()
        if self.parser.get_http_version() not in {"1.0", "1.1"}:
            self._refusal = InvalidHttp("What came is no request of HTTP/1.1.")
            raise self._refusal
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: httptools_impl.RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no request and close the connection; whole requests before it are answered first."""
        self._head.stop()
        answering = self._answering
        if self.transport.is_closing():
            return
        if answering is None or answering.response_complete:
            self._refuse()
        elif answering is self.cycle and answering.more_body:  # what came should be the rest of it
            if not answering.response_started:
                self._refuse()
            answering.disconnected = True
            answering.message_event.set()
            self.transport.close()
        else:
            if self.pipeline and self.pipeline[0][0].more_body:
                self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else answering
            last.keep_alive = False

    def _should_upgrade_to_ws(self) -> bool:
        return False  # there are none here: the request is one of HTTP as any other

    def _unsupported_upgrade_warning(self) -> None:
        pass  # whoever asks for another protocol may be answered in this one

    def _refuse(self) -> None:
        error = self._refusal or InvalidHttp("What came is no request of HTTP/1.1.")
        url = bytes(getattr(self, "url", b"")).decode("latin-1")
        self.transport.write(refusal(error, url, self.headers or ()))
        self.transport.close()

    def _too_large(self) -> ServiceError:
        if not self.headers:
            return UriTooLong("The head of the request does not end.")
        return HeadersTooLarge(f"The request has over {MAX_HEAD_BYTES} bytes of headers.")

    def _is_late(self) -> None:
        if self._n_head_bytes:
            self._refusal = RequestTimeout(f"The request had no whole head within {HEAD_S:g} s.")
            self.send_400_response("")
        else:
            self.transport.close()
