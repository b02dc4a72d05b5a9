"""What servers say and bear by themselves, below ASGI, has our form and our limits."""

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from service import contracts
from service.telemetry import Metrics
from service.web import edge, servers
from service.web.edge import App, Edge
from service.web.journal import Journal
from service.web.servers import MAX_HEAD_BYTES, MAX_HEADERS, UvicornProtocol

FINE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def fine(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def server(app: App = fine) -> AsyncIterator[int]:
    """Serve *app* behind an edge with uvicorn and our protocol, on a free port of the loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Edge(app, Journal(Metrics())), http=UvicornProtocol, lifespan="off", log_config=None,
        access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        await serving
        listening.close()


def asked(*pieces: bytes, pause_s: float = 0.0, app: App = fine) -> list[tuple[int, str, bytes]]:
    """Send *pieces* on one connection; return what comes until it is closed, or was answered well."""

    async def scenario() -> list[tuple[int, str, bytes]]:
        async with asyncio.timeout(10), server(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause_s)
            found = []
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                for _ in pieces:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                    assert length is not None, head
                    body = await reader.readexactly(int(length[1]))
                    found.append((int(head.split(" ")[1]), head, body))
            writer.close()
            return found

    return asyncio.run(scenario())


def refusal(response: tuple[int, str, bytes]) -> tuple[int, str]:
    """Return status and code of a refusal, which has the envelope and both headers, once each."""
    status, head, body = response
    contracts.check("error", json.loads(body))
    for name in ("x-request-id: ", "x-process-time: ", "content-type: application/json"):
        assert 1 == head.lower().count(name)
    assert "connection: close" in head.lower()
    return status, str(json.loads(body)["error"]["code"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01", (400, "invalid_http_request")),
        (b"GET / HTTP/9.9\r\n\r\n", (400, "invalid_http_request")),
        (b"GET /health\r\n\r\n", (400, "invalid_http_request")),
        (b"nonsense\r\n\r\n", (400, "invalid_http_request")),
        (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * (MAX_HEADERS + 1) + b"\r\n", (431, "headers_too_large")),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", (431, "headers_too_large")),
        (b"GET / HTTP/1.1\r\nX: 1\r\nY: " + b"x" * 3 * MAX_HEAD_BYTES, (431, "headers_too_large")),
        (b"GET /" + b"x" * 3 * MAX_HEAD_BYTES, (414, "uri_too_long")),
    ],
)  # fmt: skip
def test_what_is_no_request(data: bytes, expected: tuple[int, str]) -> None:
    """It is refused in the envelope, and the connection is closed."""
    (response,) = asked(data)

    assert expected == refusal(response)


def test_id_of_what_could_be_read() -> None:
    """A refusal has the request's id, if that came before what can't be parsed."""
    start = b"GET /v1/messages HTTP/1.1\r\nX-Request-ID: r-1\r\nX-Fine: 1\r\n"
    (response,) = asked(start + b"X-Broken\x00: 1\r\n\r\n")

    assert "x-request-id: r-1\r\n" in response[1]
    assert "invalid_request_error" == json.loads(response[2])["error"]["type"]


def test_head_that_comes_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its time, and is told when that is over; on a connection that was used before, too."""
    monkeypatch.setattr(servers, "HEAD_S", 0.1)
    (alone,) = asked(b"GET / HTTP/1.1\r\nHost: local", pause_s=0.3)
    good, late = asked(FINE, b"GET / HTTP/1.1\r\nHost: local", pause_s=0.3)

    assert (408, "request_timeout") == refusal(alone) == refusal(late)
    assert 200 == good[0]


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200, after the body and a while."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.1)
    await fine(scope, receive, send)


def test_nonsense_behind_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """What was asked before it gets its whole answer, and nothing comes in between or behind."""
    found = asked(FINE + b"nonsense\r\n\r\n", b"", app=slow)
    two = asked(FINE + FINE + b"GET / HTTP/9.9\r\n\r\n", b"", b"", app=slow)

    assert [200] == [status for status, _, _ in found]
    assert [200, 200] == [status for status, _, _ in two]
    assert "Traceback" not in caplog.text


def test_wish_for_another_protocol() -> None:
    """It is passed over: the request is answered as any other, and not by a server of web sockets."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    ((status, answer, _),) = asked(head)

    assert 200 == status
    assert "x-request-id: " in answer.lower()


def test_body_that_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """It is refused once, and whoever reads it hears that its client has gone."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    (response,) = asked(head + b"2\r\nok\r\n", b"nonsense", pause_s=0.05, app=slow)

    assert (400, "invalid_http_request") == refusal(response)
    assert "Traceback" not in caplog.text


def test_connection_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed without a word."""
    monkeypatch.setattr(servers, "HEAD_S", 0.1)

    assert [] == asked(b"", pause_s=0.3)


def test_answer_that_takes_longer_than_a_head_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only heads are awaited; what comes after them has other limits."""
    monkeypatch.setattr(servers, "HEAD_S", 0.05)

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await fine(scope, receive, send)

    async def scenario() -> bytes:
        async with asyncio.timeout(10), server(late) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(FINE)
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return head

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("is_endless", [True, False])
def test_connection_of_a_client_that_never_reads(
    is_endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is closed in the end, amid the answer or after it: the descriptor comes back."""
    monkeypatch.setattr(edge, "READ_STALL_S", 0.1)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": b"x" * (16 << 20), "more_body": is_endless}
        await send(dict(piece))
        while is_endless:
            await send(dict(piece))

    async def scenario() -> None:
        async with asyncio.timeout(10), server(large) as port:
            before = len(os.listdir("/dev/fd"))
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(FINE)
            await asyncio.sleep(0.05)
            assert before + 2 == len(os.listdir("/dev/fd"))
            while len(os.listdir("/dev/fd")) > before + 1:  # noqa: ASYNC110 (what changes is the system's)
                await asyncio.sleep(0.02)
            client.close()

    asyncio.run(scenario())
