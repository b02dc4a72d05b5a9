"""
The outermost layer: every request passes here on its way in, and once more on its way out.

Here a request gets its id and its clock, its two log lines and its two headers, whatever becomes of it.
Its body is read before anything else runs; from then on `receive()` has but one thing to tell: that the
client is gone. Then what works on the request is cancelled, streaming or not, before the first token or
after.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import msgspec

from service.errors import (
    InternalError,
    QueueFull,
    RequestTimeout,
    RequestTooLarge,
    ServiceError,
    ShuttingDown,
)
from service.telemetry import request_id
from service.web import servers
from service.web.cors import Cors, Headers
from service.web.failures import explained
from service.web.guard import Guard
from service.web.journal import Journal, Visit
from service.web.paths import canonical
from service.web.request_ids import request_id_in
from service.web.tracing import Off, Trace, Tracing

_log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]
Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]  # frameworks differ in their own aliases

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_UPLOADS_BYTES = 16 * MAX_BODY_BYTES
BODY_STALL_S = 30.0
BODY_S = 300.0  # taste: the largest body over a line of half a megabit
READ_STALL_S = 30.0
MAX_LOGGED_PATH = 256
CLIENT_GONE = 499  # nginx's word for it; seen in the log and the metrics only

_KNOWN_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ClientGone(Exception):
    """The client closed the connection, or stopped reading, before its request was answered."""


class Uploads:
    """The bodies of all requests that are being read or served."""

    def __init__(self) -> None:
        self._n_bytes = 0

    def take(self, n_bytes: int) -> None:
        """
        Count *n_bytes* more.

        Raises:
            QueueFull: all of them together are over MAX_UPLOADS_BYTES.
        """
        self._n_bytes += n_bytes
        if self._n_bytes > MAX_UPLOADS_BYTES:
            self._n_bytes -= n_bytes
            raise QueueFull("Too many large requests came at once.", retry_after_s=1)

    def release(self, n_bytes: int) -> None:
        """Count *n_bytes* less."""
        self._n_bytes -= n_bytes


class Exchange:
    """
    One request and what is sent back for it.

    Attributes:
        id: the request's id, given or made.
        visit: what is known of it, for the journal.
        trace: the same for a collector.
        leaving: what is undone when the request leaves, by whatever way.
        status: status code sent; None until then.
        is_complete: the last of the response was handed to the server.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        visit: Visit,
        trace: Trace,
        headers: Iterable[Header] = (),
    ) -> None:
        self.scope = scope
        self.visit = visit
        self.trace = trace
        self.id = request_id_in(scope["headers"])
        self.leaving = ExitStack()
        self.status: int | None = None
        self.is_complete = False
        self._headers = tuple(headers)
        self._receive = receive
        self._send = send
        self._began_s = time.perf_counter()
        self._sending_since_s: float | None = None
        self._n_held_bytes = 0

    @property
    def duration_s(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self._began_s

    async def body(self, uploads: Uploads) -> bytes:
        """
        Read the whole body, which counts among the *uploads* until the request leaves.

        Raises:
            RequestTooLarge: it is over MAX_BODY_BYTES; the rest is not read.
            RequestTimeout: nothing came for BODY_STALL_S seconds, or not all within BODY_S.
            QueueFull: the bodies of all requests together are too large.
            ClientGone: the connection closed.
        """
        declared = dict(self.scope["headers"]).get(b"content-length", b"0")
        # Its length first: what has thousands of digits is not turned into a number.
        if declared.isdigit() and (len(declared) > 18 or int(declared) > MAX_BODY_BYTES):
            raise _too_large()
        body = bytearray()
        self.leaving.callback(lambda: uploads.release(self._n_held_bytes))
        ends_s = time.perf_counter() + BODY_S
        while True:
            try:
                async with asyncio.timeout(min(BODY_STALL_S, ends_s - time.perf_counter())):
                    event = await self._receive()
            except TimeoutError:
                raise RequestTimeout("The request's body stopped arriving.") from None
            if event["type"] == "http.disconnect":
                raise ClientGone
            piece = event.get("body", b"")
            uploads.take(len(piece))
            self._n_held_bytes += len(piece)
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
            if not event.get("more_body", False):
                return bytes(body)

    async def gone(self) -> None:
        """Return when the client has closed the connection; only after `body`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, event: Event) -> None:
        """Send *event*; the head of the response gets the id and the time until now."""
        if event["type"] == "http.response.start":
            self.status = event["status"]
            ours = [
                (b"x-request-id", self.id.encode("ascii")),
                (b"x-process-time", f"{self.duration_s:.6f}".encode("ascii")),
            ]
            names = {name for name, _ in ours}
            event["headers"] = [
                *(h for h in event.get("headers", ()) if h[0].lower() not in names),
                *ours,
                *self._headers,
                *self.visit.key.limits.headers(),
                *self.trace.headers,
            ]
        elif event["type"] == "http.response.body":
            self.is_complete = not event.get("more_body", False)
        self._sending_since_s = time.perf_counter()
        await self._send(event)
        self._sending_since_s = None

    def is_stalled(self) -> bool:
        """Tell whether the client has taken nothing of what was sent for READ_STALL_S seconds."""
        since_s = self._sending_since_s
        return since_s is not None and time.perf_counter() - since_s > READ_STALL_S

    def cut(self) -> None:
        """Close the connection, whatever is left to be sent: nobody takes it."""
        if (transport := servers.transport_of(self._send)) is not None:
            transport.abort()

    def see_off(self) -> None:
        """Have the connection closed in the end, if its client never takes what was sent last."""
        if (transport := servers.transport_of(self._send)) is not None:
            servers.see_off(transport, READ_STALL_S)

    async def fail(self, error: ServiceError) -> None:
        """Answer with *error*, if nothing has been answered yet."""
        if self.status is not None:
            return
        body = msgspec.json.encode(explained(error, self.scope["path"]))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode("ascii")))
        await self.answer(error.status, headers, body)

    async def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole response."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class Edge:
    """
    The ASGI application that servers are given.

    Args:
        app: what it wraps.
        journal: told of each request that comes and ends.
        guard: what a request must pass before its body is read.
        cors: which web pages may read answers.
        tracing: traces each request.
        on_start: told the `send` of the lifespan, before the server opens its socket; returns why it may not
            begin, None if it may.
    """

    def __init__(
        self,
        app: App,
        journal: Journal,
        guard: Guard | None = None,
        cors: Cors | None = None,
        tracing: Tracing | None = None,
        on_start: Callable[[Send], str | None] = servers.limit,
    ) -> None:
        self._app = app
        self._journal = journal
        self._guard = guard or Guard()
        self._cors = cors or Cors()
        self._tracing = tracing or Off()
        self._on_start = on_start
        self._uploads = Uploads()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "websocket":  # there is none here; a close before the accept is a 403
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "lifespan" and (refusal := self._on_start(send)) is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": refusal})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = quote(scope["path"])[:MAX_LOGGED_PATH]
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        visit = Visit(method, path, time.monotonic())
        trace = self._tracing.begin(visit, scope["headers"])
        exchange = Exchange(scope, receive, send, visit, trace, self._cors.headers(scope))
        scope["exchange"] = exchange
        scope["path"] = canonical(scope["path"])
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        token = request_id.set(exchange.id)
        self._journal.begin(visit)
        try:
            with exchange.leaving:
                await self._serve(exchange)
        finally:
            exchange.see_off()
            status, duration_s = exchange.status or CLIENT_GONE, exchange.duration_s
            self._journal.note(visit, exchange.id, status, duration_s)
            trace.end(visit, exchange.id, status)
            request_id.reset(token)
            self._tasks.discard(task)

    def abort(self) -> None:
        """Cut what still runs; the server is ending and its patience is over."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            preflight = self._cors.preflight(exchange.scope)
            if preflight is not None:
                await exchange.answer(204, preflight)
                return
            exchange.visit.key = self._guard.check(exchange.scope)
            body = await exchange.body(self._uploads)
            await self._run(exchange, body)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except ServiceError as error:
            await exchange.fail(error)
        except asyncio.CancelledError:
            await exchange.fail(ShuttingDown("The server is shutting down.", retry_after_s=1))
        except Exception:
            _log.exception("A request broke")
            await exchange.fail(InternalError("The server failed on this request."))

    async def _run(self, exchange: Exchange, body: bytes) -> None:
        """
        Run the app on a request that is read whole, until it is done or its client is gone.

        Raises:
            ClientGone: the client closed the connection first, or stopped reading; the app was cancelled.
        """
        app = asyncio.create_task(self._app(exchange.scope, _once(body), exchange.send))
        gone = asyncio.create_task(exchange.gone())
        try:
            while not app.done():
                # Once all is sent, servers report the client as gone as well; then it is no news.
                watched = {app} if exchange.is_complete else {app, gone}
                await asyncio.wait(
                    watched, timeout=READ_STALL_S / 4, return_when=asyncio.FIRST_COMPLETED
                )
                has_left = gone.done() and not exchange.is_complete
                if not app.done() and exchange.is_stalled():
                    exchange.cut()
                    raise ClientGone
                if not app.done() and has_left:
                    raise ClientGone
            app.result()
            if exchange.status is None:
                raise InternalError("The server gave no answer.")
        finally:
            app.cancel()
            gone.cancel()
            await asyncio.gather(app, gone, return_exceptions=True)


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The request's body is over {MAX_BODY_BYTES} bytes.")


def _once(body: bytes) -> Receive:
    """Return a `receive` that gives *body* once and then stays silent; disconnects are watched elsewhere."""
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Event:
        if events:
            return events.pop()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return receive
