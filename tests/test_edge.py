"""Every request passes the edge once in and once out, whatever becomes of it in between."""

import asyncio
import contextlib
import functools
import json
import logging
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn

from service import contracts
from service.errors import ModelNotReady
from service.telemetry import LineFormatter, Metrics, request_id
from service.web import edge
from service.web.edge import App, Edge, Event
from service.web.journal import Journal

PROMPT_S = 0.05  # a client that left is noticed within this time
STARTED = re.compile(r"^Request started: (\S+) (\S*) \[request_id=([ -~]+)\]$")
COMPLETED = re.compile(
    r"^Request completed: (\S+) (\S*) status=(\d{3}) duration=\d+\.\d{3}s \[request_id=([ -~]+)\]$"
)


class Wire:
    """
    The server's end of one request, in memory.

    Attributes:
        sent: what the application sent, in order.
        n_read: how often it asked for more.
    """

    def __init__(self, *body: bytes, is_whole: bool = True) -> None:
        self.sent: list[Event] = []
        self.n_read = 0
        self._inbound: asyncio.Queue[Event] = asyncio.Queue()
        pieces = body or (b"",)
        for i, piece in enumerate(pieces):
            self.give(piece, more=not is_whole or i < len(pieces) - 1)

    def give(self, body: bytes, *, more: bool) -> None:
        """Let a piece of the body arrive."""
        self._inbound.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """Let the client leave."""
        self._inbound.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Event:
        """Give the next event, when there is one."""
        self.n_read += 1
        return await self._inbound.get()

    async def send(self, event: Event) -> None:
        """Take what the application sends."""
        self.sent.append(event)

    @property
    def status(self) -> int | None:
        """The status that was sent, exactly once if at all."""
        starts = [event for event in self.sent if event["type"] == "http.response.start"]
        assert len(starts) <= 1
        return int(starts[0]["status"]) if starts else None

    def header(self, name: bytes) -> list[str]:
        """Every value sent under *name*."""
        return [v.decode() for n, v in self.sent[0]["headers"] if n.lower() == name]

    @property
    def body(self) -> bytes:
        """The body that was sent."""
        return b"".join(event.get("body", b"") for event in self.sent[1:])


class Stack:
    """Counts how often the things to be undone at a request's end were undone."""

    def __init__(self) -> None:
        self.n_closed = 0

    def open_in(self, scope: Event) -> None:
        """Leave something to be undone."""
        scope["exchange"].leaving.callback(self._close)

    def _close(self) -> None:
        self.n_closed += 1


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The log messages of edge and journal, each with its id, time and level left out."""
    written: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record).partition("\n")[0].split(" | ", 2)[2])

    handler = Keep()
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("service.web")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def scope_of(method: str = "GET", path: str = "/x", *headers: tuple[bytes, bytes]) -> Event:
    """Return the scope of a request."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
    }


async def answer(send: Any, status: int = 200, body: bytes = b"ok", **headers: str) -> None:
    """Send a whole response."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def fine(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200."""
    await answer(send)


def one_request(
    app: App, wire: Wire, scope: Event | None = None, metrics: Metrics | None = None
) -> Awaitable[None]:
    """Let an edge around *app* serve one request."""
    return Edge(app, Journal(metrics or Metrics()))(
        scope if scope is not None else scope_of(), wire.receive, wire.send
    )


def pair(lines: list[str]) -> tuple[re.Match[str], re.Match[str]]:
    """Return the start line and the completion line; there is one of each, for one id."""
    starts = [match for line in lines if (match := STARTED.match(line))]
    ends = [match for line in lines if (match := COMPLETED.match(line))]
    assert (1, 1) == (len(starts), len(ends)), lines
    assert starts[0].groups() == (*ends[0].groups()[:2], ends[0][4])
    return starts[0], ends[0]


def error_code(wire: Wire) -> str:
    """Return the code of the error that was sent, whose envelope keeps its contract."""
    body = json.loads(wire.body)
    contracts.check("error", body)
    assert ["application/json"] == wire.header(b"content-type")
    assert [str(len(wire.body))] == wire.header(b"content-length")
    return str(body["error"]["code"])


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    "given", [b"a", b"abc-123", b"x" * 128, b"!#$%&'()*+,/:;<=>?@[]^_`{|}~\"\\"]
)
@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
def test_id_when_fit(given: bytes, name: bytes, lines: list[str]) -> None:
    """A given id comes back byte for byte, and stands in both lines."""
    wire = Wire()
    asyncio.run(_serve(fine, wire, scope_of("GET", "/x", (name, given))))

    assert [given.decode()] == wire.header(b"x-request-id")
    assert given.decode() == pair(lines)[0][3]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [b""],
        [b"x" * 129],
        [b"a\x1b[31m"],
        [b"a\nb"],
        [b"a\n"],
        [b"a\r\nX-Evil: 1"],
        [b"\x00"],
        [b"\x7f"],
        [b"a\tb"],
        ["\u00e9".encode()],
        ["\u00e9".encode("latin-1")],
        [b"one", b"two"],
        [b"same", b"same"],
    ],
)
def test_id_when_unfit(given: list[bytes], lines: list[str]) -> None:
    """No id, a hostile one, or two of them: a fresh UUID, and nothing of theirs in the log."""
    wire = Wire()
    headers = [(b"x-request-id", value) for value in given]
    asyncio.run(_serve(fine, wire, scope_of("GET", "/x", *headers)))
    (made,) = wire.header(b"x-request-id")

    assert made == str(uuid.UUID(made))
    assert made == pair(lines)[0][3]
    assert all(line.isprintable() for line in lines)


def test_ids_are_fresh() -> None:
    """Requests without an id get one each."""
    wires = [Wire() for _ in range(20)]
    for wire in wires:
        asyncio.run(_serve(fine, wire))

    assert 20 == len({wire.header(b"x-request-id")[0] for wire in wires})


def test_ids_when_many_requests_run_at_once(lines: list[str]) -> None:
    """Each request has its own id in its response, its log lines, and wherever its code looks."""
    seen: dict[str, str | None] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        seen[scope["path"]] = request_id.get()
        await asyncio.sleep(0.001)
        await answer(send)

    async def scenario() -> dict[str, str]:
        shared = Edge(app, Journal(Metrics()))
        wires = {f"/{i}": Wire() for i in range(30)}
        await asyncio.gather(
            *(
                shared(scope_of("GET", path, (b"x-request-id", f"id{path[1:]}".encode())),
                       wire.receive, wire.send)
                for path, wire in wires.items()
            )
        )  # fmt: skip
        return {path: wire.header(b"x-request-id")[0] for path, wire in wires.items()}

    sent = asyncio.run(scenario())
    expected = {f"/{i}": f"id{i}" for i in range(30)}

    assert [expected, expected] == [seen, sent]
    assert 60 == len(lines)
    for match in filter(None, map(STARTED.match, lines)):
        assert expected[match[2]] == match[3]


def test_id_is_forgotten_after_the_request() -> None:
    """What is logged after a request carries no id of it."""

    async def scenario() -> str | None:
        await one_request(fine, Wire())
        return request_id.get()

    assert asyncio.run(scenario()) is None


# ---------------------------------------------------------------- whatever happens


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """Break before the response."""
    raise RuntimeError("s3cret")


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    """Refuse with an error of ours that nobody translated."""
    raise ModelNotReady("Not yet.", retry_after_s=2)


async def broken_midway(scope: Any, receive: Any, send: Any) -> None:
    """Break after the response has begun."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("s3cret")


async def mute(scope: Any, receive: Any, send: Any) -> None:
    """Return without an answer."""


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def endless_stream(scope: Any, receive: Any, send: Any) -> None:
    """Begin to answer and never end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.Event().wait()


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    """Answer 404."""
    await answer(send, 404)


async def _serve(app: App, wire: Wire, scope: Event | None = None) -> None:
    """Serve one request to its end, and no longer than a second."""
    async with asyncio.timeout(1):
        await one_request(app, wire, scope)


async def _serve_then(
    app: App, wire: Wire, deed: Callable[[Edge, Wire], None], metrics: Metrics, stack: Stack
) -> float:
    """Serve one request, do *deed* while it runs; return the seconds from there to its end."""

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        stack.open_in(scope)
        await app(scope, receive, send)

    whole = Edge(watched, Journal(metrics))

    async def served() -> None:
        await whole(scope_of(), wire.receive, wire.send)

    task = asyncio.create_task(served())
    await asyncio.sleep(0.01)
    began_s = time.perf_counter()
    deed(whole, wire)
    async with asyncio.timeout(1):
        await asyncio.wait({task})
    task.result()
    return time.perf_counter() - began_s


def nothing(whole: Edge, wire: Wire) -> None:
    """Do nothing."""


def hang_up(whole: Edge, wire: Wire) -> None:
    """Let the client leave."""
    wire.hang_up()


def abort(whole: Edge, wire: Wire) -> None:
    """Let the server's patience end."""
    whole.abort()


FATES: list[Any] = [
    pytest.param(fine, nothing, 200, 200, id="answered"),
    pytest.param(not_found, nothing, 404, 404, id="refused"),
    pytest.param(refusing, nothing, 503, 503, id="refused by an error that got out"),
    pytest.param(broken, nothing, 500, 500, id="broken"),
    pytest.param(mute, nothing, 500, 500, id="not answered"),
    pytest.param(broken_midway, nothing, 200, 200, id="broken midway"),
    pytest.param(endless, hang_up, None, 499, id="left before the answer"),
    pytest.param(endless_stream, hang_up, 200, 499, id="left in the answer"),
    pytest.param(endless, abort, 503, 503, id="aborted before the answer"),
    pytest.param(endless_stream, abort, 200, 200, id="aborted in the answer"),
]


@pytest.mark.parametrize(("app", "deed", "sent", "logged"), FATES)
def test_request_leaves_once(
    app: App,
    deed: Callable[[Edge, Wire], None],
    sent: int | None,
    logged: int,
    lines: list[str],
) -> None:
    """One pair of lines, one closing, one count, whatever becomes of the request."""
    wire, metrics, stack = Wire(), Metrics(), Stack()
    asyncio.run(_serve_then(app, wire, deed, metrics, stack))
    _, end = pair(lines)
    labels = {"method": "GET", "route": "", "model": "", "status": str(logged)}

    assert sent == wire.status
    assert str(logged) == end[3]
    assert 1 == stack.n_closed
    assert 0 == metrics.registry.get_sample_value("tier3a_requests_in_flight")
    assert 1 == metrics.registry.get_sample_value("tier3a_requests_total", labels)


@pytest.mark.parametrize(("app", "deed", "sent", "logged"), FATES)
def test_response_has_both_headers_once(
    app: App, deed: Callable[[Edge, Wire], None], sent: int | None, logged: int
) -> None:
    """Whatever is answered carries one id and one time."""
    wire = Wire()
    took_s = asyncio.run(_serve_then(app, wire, deed, Metrics(), Stack())) + 0.05
    if sent is None:
        assert [] == wire.sent
        return
    (process_time,) = wire.header(b"x-process-time")

    assert 1 == len(wire.header(b"x-request-id"))
    assert re.fullmatch(r"\d+\.\d+", process_time)
    assert 0 <= float(process_time) <= took_s


@pytest.mark.parametrize("app", [endless, endless_stream])
def test_client_that_leaves_is_noticed_at_once(app: App) -> None:
    """The work for it is cancelled at once, before the first byte or after."""
    took_s = asyncio.run(_serve_then(app, Wire(), hang_up, Metrics(), Stack()))

    assert took_s < PROMPT_S


def test_work_is_over_before_its_things_are_given_back(lines: list[str]) -> None:
    """The app has ended, its own cleaning up included, when the exit stack closes."""
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["exchange"].leaving.callback(order.append, "closed")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append("ended")

    asyncio.run(_serve_then(app, Wire(), hang_up, Metrics(), Stack()))
    order.append(lines[-1].partition(":")[0])

    assert ["ended", "closed", "Request completed"] == order


def test_client_that_leaves_after_the_answer(lines: list[str]) -> None:
    """An answer that was given whole counts as such, whenever the client closes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        wire.hang_up()

    wire = Wire()
    asyncio.run(_serve(app, wire))

    assert "200" == pair(lines)[1][3]


def test_bug_is_logged_and_not_told(lines: list[str]) -> None:
    """The client learns that it was our fault and nothing else; the log has the rest."""
    wire = Wire()
    asyncio.run(_serve(broken, wire))

    assert (500, "internal_error") == (wire.status, error_code(wire))
    assert b"s3cret" not in wire.body
    assert 1 == len([line for line in lines if line.startswith("A request broke")])


def test_error_that_got_out_keeps_its_form() -> None:
    """An error of ours is answered as itself, with its pause."""
    wire = Wire()
    asyncio.run(_serve(refusing, wire))

    assert (503, "model_not_ready") == (wire.status, error_code(wire))
    assert ["2"] == wire.header(b"retry-after")


def test_abort_before_the_answer() -> None:
    """Who gets no answer any more is told why."""
    wire = Wire()
    asyncio.run(_serve_then(endless, wire, abort, Metrics(), Stack()))

    assert "shutting_down" == error_code(wire)


def test_abort_cuts_all_that_runs() -> None:
    """However many run, and wherever they stand, none is left."""

    async def scenario() -> list[int | None]:
        whole = Edge(endless, Journal(Metrics()))
        wires = [Wire(), Wire(), Wire(b"half", is_whole=False)]

        async def served(wire: Wire) -> None:
            await whole(scope_of(), wire.receive, wire.send)

        tasks = [asyncio.create_task(served(wire)) for wire in wires]
        await asyncio.sleep(0.01)
        whole.abort()
        async with asyncio.timeout(1):
            await asyncio.gather(*tasks)
        whole.abort()  # nothing left to cut
        return [wire.status for wire in wires]

    assert [503, 503, 503] == asyncio.run(scenario())


def test_headers_of_the_app_are_kept_but_ours() -> None:
    """What the app sends stays, save what only the edge can know."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, content_type="text/plain", X_Request_ID="other", x_process_time="9")

    wire = Wire()
    asyncio.run(_serve(app, wire, scope_of("GET", "/x", (b"x-request-id", b"mine"))))

    assert ["text/plain"] == wire.header(b"content-type")
    assert ["mine"] == wire.header(b"x-request-id")
    assert "9" not in wire.header(b"x-process-time")
    assert 1 == len(wire.header(b"x-process-time"))


def test_process_time_covers_the_work() -> None:
    """The time until the head of the response is all of it, the reading of the body included."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.03)
        await answer(send)

    async def scenario() -> float:
        wire = Wire(b"a", is_whole=False)
        asyncio.get_running_loop().call_later(0.03, lambda: wire.give(b"b", more=False))
        await _serve(app, wire)
        return float(wire.header(b"x-process-time")[0])

    assert 0.055 <= asyncio.run(scenario()) < 1


@pytest.mark.parametrize(
    ("method", "path", "logged_method", "logged_path"),
    [
        ("POST", "/v1/chat/completions", "POST", "/v1/chat/completions"),
        ("GET", "/a\r\nRequest completed: GET", "GET", "/a%0D%0ARequest%20completed%3A%20GET"),
        ("GET", "/\x1b[31m\x00", "GET", "/%1B%5B31m%00"),
        ("GET", "/\u00e9\u2028", "GET", "/%C3%A9%E2%80%A8"),
        ("GET", "/" + "a" * 5000, "GET", "/" + "a" * 255),
        ("BREW", "/x", "OTHER", "/x"),
        ("GET\n", "/x", "OTHER", "/x"),
    ],
    ids=lambda value: value.encode("ascii", "backslashreplace").decode()[:20],
)
def test_lines_when_method_or_path_are_hostile(
    method: str, path: str, logged_method: str, logged_path: str, lines: list[str]
) -> None:
    """Nothing that a client sends can forge a line, or make one endless."""
    asyncio.run(_serve(fine, Wire(), scope_of(method, path)))
    start, _ = pair(lines)

    assert (logged_method, logged_path) == (start[1], start[2])


def test_websocket_is_refused_before_it_opens() -> None:
    """There is none here, and the app is not asked."""
    wire = Wire()
    asyncio.run(_serve(broken, wire, {"type": "websocket"}))

    assert [{"type": "websocket.close", "code": 1008}] == wire.sent


def test_lifespan_passes_through(lines: list[str]) -> None:
    """What is no request is the app's affair."""
    kind = "lifespan"
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(_serve(app, Wire(), {"type": kind}))

    assert ([kind], []) == (seen, lines)


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("pieces", [(), (b"abc",), (b"", b"ab", b"", b"c"), (b"a" * 100_000,)])
def test_body_reaches_the_app_whole(pieces: tuple[bytes, ...]) -> None:
    """However it was cut on its way, the app reads one body, and then silence."""
    bodies: list[Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append(await receive())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await receive()
        await answer(send)

    wire = Wire(*pieces)
    asyncio.run(_serve(app, wire))

    assert [{"type": "http.request", "body": b"".join(pieces), "more_body": False}] == bodies
    assert 200 == wire.status


@pytest.mark.parametrize("declared", [b"9" * 19, b"9" * 5000])
def test_body_when_declared_beyond_all_numbers(declared: bytes) -> None:
    """A length of thousands of digits is too large, and not a number to be parsed."""
    wire = Wire(b"x", is_whole=False)
    asyncio.run(_serve(fine, wire, scope_of("POST", "/x", (b"content-length", declared))))

    assert (413, "request_too_large") == (wire.status, error_code(wire))


def test_body_when_declared_too_large(lines: list[str]) -> None:
    """A declared length over the cap is refused before a byte is read."""
    wire = Wire()
    length = str(edge.MAX_BODY_BYTES + 1).encode()
    asyncio.run(_serve(broken, wire, scope_of("POST", "/x", (b"content-length", length))))

    assert (413, "request_too_large") == (wire.status, error_code(wire))
    assert 0 == wire.n_read
    assert "413" == pair(lines)[1][3]


def test_body_when_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap itself is allowed, declared and real."""
    monkeypatch.setattr(edge, "MAX_BODY_BYTES", 10)
    wire = Wire(b"12345", b"67890")
    asyncio.run(_serve(fine, wire, scope_of("POST", "/x", (b"content-length", b"10"))))

    assert 200 == wire.status


def test_body_when_too_large_in_pieces(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """A body that never said its length is cut where it passes the cap; the rest is not read."""
    monkeypatch.setattr(edge, "MAX_BODY_BYTES", 10)
    wire = Wire(b"12345", b"67890", b"1", b"2", b"3")
    asyncio.run(_serve(broken, wire, scope_of("POST")))

    assert (413, "request_too_large") == (wire.status, error_code(wire))
    assert 3 == wire.n_read
    assert "413" == pair(lines)[1][3]


def test_body_when_it_is_longer_than_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The declared length is not believed."""
    monkeypatch.setattr(edge, "MAX_BODY_BYTES", 10)
    wire = Wire(b"12345678901")
    asyncio.run(_serve(broken, wire, scope_of("POST", "/x", (b"content-length", b"5"))))

    assert 413 == wire.status


@pytest.mark.parametrize("length", [b"", b"-1", b"many", b"1e3", "\u0661".encode()])
def test_body_when_its_length_is_no_number(length: bytes) -> None:
    """A length that is none is the server's affair; the body is read as it comes."""
    wire = Wire(b"abc")
    asyncio.run(_serve(fine, wire, scope_of("POST", "/x", (b"content-length", length))))

    assert 200 == wire.status


@pytest.mark.parametrize("pieces", [(b"",), (b"abc",)])
def test_body_when_it_stalls(
    pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A body that stops arriving is given up, whether it had begun or not."""
    monkeypatch.setattr(edge, "BODY_STALL_S", 0.02)
    wire = Wire(*pieces, is_whole=False)
    asyncio.run(_serve(broken, wire, scope_of("POST")))

    assert (408, "request_timeout") == (wire.status, error_code(wire))
    assert "408" == pair(lines)[1][3]


def test_body_when_slow_but_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece starts the patience anew."""
    monkeypatch.setattr(edge, "BODY_STALL_S", 0.1)

    async def scenario() -> int | None:
        wire = Wire(b"0", is_whole=False)
        loop = asyncio.get_running_loop()
        for i in range(1, 5):
            loop.call_later(0.04 * i, functools.partial(wire.give, b"x", more=i < 4))
        await _serve(fine, wire, scope_of("POST"))
        return wire.status

    assert 200 == asyncio.run(scenario())


def test_client_that_leaves_with_its_whole_answer(lines: list[str]) -> None:
    """What an app still does after its last byte is done in peace, and the line tells its status."""
    did: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        wire.hang_up()
        await asyncio.sleep(0.02)
        did.append("the rest")

    wire = Wire()
    asyncio.run(_serve(app, wire, scope_of()))

    assert ["the rest"] == did
    assert "200" == pair(lines)[1][3]


def test_client_that_stops_reading_is_cut(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Who takes nothing for too long is as good as gone: the work ends, what it held is given back."""
    monkeypatch.setattr(edge, "READ_STALL_S", 0.02)
    stack = Stack()

    class Stuck(Wire):
        async def send(self, event: Event) -> None:
            await super().send(event)
            if event["type"] == "http.response.body":
                await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stack.open_in(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    wire = Stuck()
    asyncio.run(_serve(app, wire, scope_of()))

    assert 2 == len(wire.sent)
    assert 1 == stack.n_closed
    assert "499" == pair(lines)[1][3]


def test_client_that_leaves_within_the_body(lines: list[str]) -> None:
    """Nothing is run and nothing is sent for it; the line says that it left."""
    ran: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ran.append(1)

    wire = Wire(b"half", is_whole=False)
    wire.hang_up()
    asyncio.run(_serve(app, wire, scope_of("POST")))

    assert ([], []) == (ran, wire.sent)
    assert "499" == pair(lines)[1][3]


# ---------------------------------------------------------------- over a real socket


@contextlib.asynccontextmanager
async def server(app: App) -> AsyncIterator[tuple[Edge, int]]:
    """Serve *app* behind an edge with uvicorn, on a free port of the loopback."""
    whole = Edge(app, Journal(Metrics()))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        whole, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve(sockets=[listening]))
    try:
        yield whole, listening.getsockname()[1]
    finally:
        running.should_exit = True
        await serving
        listening.close()


@contextlib.asynccontextmanager
async def connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Read one response that tells its length; return status, head and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    return int(head.split(" ")[1]), head, await reader.readexactly(int(length[1]))


def test_socket_when_a_request_breaks_and_the_next_is_fine() -> None:
    """On one connection, a broken request gets its envelope and the next its answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/broken":
            raise RuntimeError("s3cret")
        await answer(send, content_length="2")

    async def scenario() -> list[tuple[int, str, bytes]]:
        async with asyncio.timeout(10), server(app) as (_, port), connection(port) as (r, w):
            found = []
            for path in (b"/broken", b"/fine"):
                w.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: r1\r\n\r\n" % path)
                found.append(await read_response(r))
            return found

    broken_one, fine_one = asyncio.run(scenario())

    assert (500, 200) == (broken_one[0], fine_one[0])
    assert "internal_error" == json.loads(broken_one[2])["error"]["code"]
    assert b"s3cret" not in broken_one[2]
    for _, head, _ in (broken_one, fine_one):
        assert 1 == head.lower().count("x-request-id: r1\r\n")
        assert 1 == head.lower().count("x-process-time: ")


@pytest.mark.parametrize("is_midway", [False, True])
def test_socket_when_the_client_closes(is_midway: bool, lines: list[str]) -> None:
    """Closing the connection ends the work at once, before the first byte or in the stream."""

    async def scenario() -> float:
        began, ended = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                if is_midway:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
                began.set()
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with asyncio.timeout(10), server(app) as (_, port):
            async with connection(port) as (_, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await began.wait()
            left_s = time.perf_counter()
            await ended.wait()
            return time.perf_counter() - left_s

    assert asyncio.run(scenario()) < PROMPT_S
    assert "499" == pair(lines)[1][3]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 100000000000\r\n\r\n",
        b"Content-Length: 1001\r\n\r\n" + b"x" * 10,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001 + b"\r\n",
    ],
    ids=["declared far over", "declared just over", "chunked"],
)
def test_socket_when_the_body_is_too_large(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes while the body is still on its way."""
    monkeypatch.setattr(edge, "MAX_BODY_BYTES", 1000)

    async def scenario() -> tuple[int, str, bytes]:
        async with asyncio.timeout(10), server(broken) as (_, port), connection(port) as (r, w):
            w.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head)
            return await read_response(r)

    status, head_text, body = asyncio.run(scenario())

    assert (413, "request_too_large") == (status, json.loads(body)["error"]["code"])
    assert 1 == head_text.lower().count("x-request-id: ")


def test_socket_when_aborted() -> None:
    """At the end of the server's patience a stream is cut, and a waiting request told why."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            await endless_stream(scope, receive, send)
        await endless(scope, receive, send)

    async def scenario() -> tuple[bytes, int]:
        async with (
            asyncio.timeout(10),
            server(app) as (whole, port),
            connection(port) as (r1, w1),
            connection(port) as (r2, w2),
        ):
            w1.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            w2.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await r1.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            whole.abort()
            return await r1.read(), (await read_response(r2))[0]

    assert (b"", 503) == asyncio.run(scenario())
