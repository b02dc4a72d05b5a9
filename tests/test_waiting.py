"""A stream whose request waits in the queue is open meanwhile, on every interface."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from falcon.asgi import App

from service.errors import InvalidRequest, ServiceError
from service.fleet.ticket import Ticket
from service.protocol import Delta, Job
from service.telemetry import Metrics
from service.web import failures, sse
from service.web.archive import Archive
from service.web.edge import Edge, Event
from service.web.journal import Journal
from service.web.resources.chat import ChatCompletions
from service.web.resources.completions import Completions
from service.web.resources.messages import Messages
from service.web.resources.responses import Responses
from tests.test_intake import CARD, JOBS, Case, Engine, leave, request

TURNS = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURNS},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": TURNS, "max_tokens": 8},
    "/v1/responses": {"input": "Hi"},
}
ENDS = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/messages": b'data: {"type":"message_stop"}\n\n',
    "/v1/responses": b"}\n\n",
}


class Talking(Engine):
    """An engine that answers one word, or refuses every second request."""

    refusal: ServiceError | None = None

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """Hand out a ticket that has its whole answer."""
        if self.refusal is not None:
            ticket = Ticket(range(len(jobs)), self.closed.append)
            ticket.put(self.refusal)
            return ticket
        ticket = super().submit(jobs)
        for number in ticket.numbers:
            ticket.put(Delta(number, "Hello", 1, "stop"))
        return ticket


class Wire(list[Event]):
    """What was sent; `pinged` is set when that has a ping."""

    def __init__(self) -> None:
        super().__init__()
        self.pinged = asyncio.Event()

    async def send(self, event: Event) -> None:
        """Take one event."""
        self.append(event)
        if b"ping" in event.get("body", b""):
            self.pinged.set()


async def streamed(path: str, case: Case, sent: Wire) -> None:
    """Ask for a stream; what comes is added to *sent*."""
    app: Any = App()
    failures.install(app)
    app.add_route("/v1/chat/completions", ChatCompletions(case.intake))
    app.add_route("/v1/completions", Completions(case.intake))
    app.add_route("/v1/messages", Messages(case.intake))
    app.add_route("/v1/responses", Responses(case.intake, Archive()))
    body = json.dumps(ASKED[path] | {"stream": True}).encode()
    inbound: asyncio.Queue[Event] = asyncio.Queue()
    inbound.put_nowait({"type": "http.request", "body": body, "more_body": False})

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await Edge(app, Journal(Metrics()))(scope, inbound.get, sent.send)


def waited_for(path: str, refusal: ServiceError | None) -> tuple[int, bytes]:
    """Return status and body of a stream that waited for a permit for a while."""
    engine = Talking()
    case, first, sent = Case(engine), request(), Wire()

    async def scenario() -> None:
        await case.intake.submit(first, CARD, JOBS, 0).accepted()
        engine.refusal = refusal
        asking = asyncio.create_task(streamed(path, case, sent))
        await sent.pinged.wait()
        leave(first)
        await asking

    asyncio.run(scenario())
    return int(sent[0]["status"]), b"".join(event.get("body", b"") for event in sent[1:])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings come soon."""
    monkeypatch.setattr(sse, "PING_S", 0.02)


@pytest.mark.parametrize("path", ASKED)
def test_stream_is_open_while_its_request_waits(path: str) -> None:
    """Comments come first, then the answer as ever."""
    status, body = waited_for(path, None)

    assert 200 == status
    assert body.startswith(b": ping\n\n")
    assert b"Hello" in body
    assert body.endswith(ENDS[path])


@pytest.mark.parametrize("path", ASKED)
def test_stream_that_is_refused_after_it_waited(path: str) -> None:
    """The status was sent long ago, so the refusal is the stream's last event, in the interface's words."""
    status, body = waited_for(path, InvalidRequest("Too long.", param="messages", code="too_long"))

    assert 200 == status
    assert body.startswith(b": ping\n\n")
    assert b"Too long." in body
    assert b"too_long" in body
