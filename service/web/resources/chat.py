"""`POST /v1/chat/completions`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service import contracts
from service.catalog.resolve import resolve
from service.fleet.admission import Admission
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.openai import chat
from service.openai.body import decode
from service.protocol import Delta
from service.telemetry import Metrics
from service.web import sse

_log = logging.getLogger(__name__)


class ChatCompletions:
    """Answers a chat, whole or as a stream."""

    def __init__(self, supervisor: Supervisor, admission: Admission, metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._admission = admission
        self._metrics = metrics

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, admit, submit, and translate what comes; every refusal comes before any header."""
        body = decode(await req.stream.read())
        contracts.check("chat-request", body)
        asked = chat.parse(body)
        card = self._supervisor.lifecycle.healthy_card
        if card is None:
            raise self._supervisor.lifecycle.refusal()
        card = resolve(asked.model, [card])
        _log.info("Processing text request model=%s endpoint=%s", card.id, req.path)

        leaving = req.scope["exchange"].leaving
        permit = await self._admission.acquire()
        leaving.callback(permit.release)
        ticket = self._supervisor.submit(asked.job)
        leaving.callback(ticket.close)
        answer = chat.ChatAnswer(card.id, await ticket.accepted(), asked.include_usage)

        if asked.is_stream:
            resp.content_type = sse.MEDIA_TYPE
            resp.set_header("Cache-Control", "no-cache")
            resp.stream = sse.stream(_chunks(ticket, answer), self._note_broken)
        else:
            deltas = [delta async for delta in ticket.deltas(sse.PING_S) if delta is not None]
            resp.content_type = falcon.MEDIA_JSON
            resp.data = msgspec.json.encode(answer.completion(deltas))

    def _note_broken(self, code: str) -> None:
        self._metrics.streams_broken.labels(code).inc()


async def _chunks(ticket: Ticket, answer: chat.ChatAnswer) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the chunks of one answer, None where the line went quiet."""
    yield answer.opening()
    last: Delta | None = None
    async for delta in ticket.deltas(sse.PING_S):
        yield None if delta is None else answer.chunk(delta)
        last = delta
    assert last is not None
    if answer.include_usage:
        yield answer.closing(last)
