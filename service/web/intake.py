"""
Where a request for answers comes in: the model it means, a permit, a ticket; and what goes back out.

Every endpoint that generates goes through here and nowhere else, so that each refusal comes before any
header, and whatever way a request ends gives back what it held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service import contracts
from service.catalog.resolve import resolve
from service.fleet.admission import Admission
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.openai import tokens
from service.openai.body import decode
from service.protocol import Delta, Job, ModelCard, Prompt, Tokenized
from service.telemetry import Metrics
from service.web import sse

_log = logging.getLogger(__name__)


class Intake:
    """
    Takes requests in and sends answers out.

    Attributes:
        supervisor: the engine's keeper, for what needs no permit.
    """

    def __init__(self, supervisor: Supervisor, admission: Admission, metrics: Metrics) -> None:
        self.supervisor = supervisor
        self._admission = admission
        self._metrics = metrics

    async def read(self, req: Request, contract: str) -> dict[str, Any]:
        """
        Return the request's body, which keeps *contract*.

        Raises:
            InvalidRequest: it is no strict JSON, or breaks the contract.
        """
        body = decode(await req.stream.read())
        contracts.check(contract, body)
        return body

    def card(self, model: str) -> ModelCard:
        """
        Return the card of the model that a request means by *model*.

        Raises:
            ModelNotReady: there is none that takes requests.
            ModelNotFound: no model goes by that name.
        """
        card = self.supervisor.lifecycle.healthy_card
        if card is None:
            raise self.supervisor.lifecycle.refusal()
        return resolve(model, [card])

    async def submit(
        self, req: Request, card: ModelCard, jobs: Sequence[Job], priority: int
    ) -> Ticket:
        """
        Wait for a permit, the smallest *priority* first, and send *jobs* down.

        Permit and ticket go back when the request has ended.

        Raises:
            ServiceError: no permit is to be had, or no engine.
        """
        _log.info("Processing text request model=%s endpoint=%s", card.id, req.path)
        leaving = req.scope["exchange"].leaving
        came_s = time.monotonic()
        permit = await self._admission.acquire(priority)
        leaving.callback(permit.release)
        ticket = self.supervisor.submit(jobs)
        ticket.waited_s = time.monotonic() - came_s
        leaving.callback(ticket.close)
        return ticket

    async def tokenize(self, card: ModelCard, prompt: Prompt) -> Tokenized:
        """
        Return the tokens of *prompt*; nothing is generated, so it needs no permit.

        Raises:
            RequestTooLarge: it is far larger than the model's context.
            ServiceError: the model can't take it, or there is no engine.
        """
        tokens.check_size(prompt, card)
        return await self.supervisor.tokenize(prompt)

    def send(self, resp: Response, body: dict[str, Any]) -> None:
        """Answer with *body*, encoded here and now: whatever fails in that must fail before headers."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)

    def stream(self, resp: Response, events: AsyncIterator[bytes]) -> None:
        """Answer with server-sent *events*, as `sse` makes them."""
        resp.content_type = sse.MEDIA_TYPE
        resp.set_header("Cache-Control", "no-cache")
        resp.stream = events

    def note_broken(self, code: str) -> None:
        """Count a stream that ended in the error *code*, since its status was sent long before."""
        self._metrics.streams_broken.labels(code).inc()


async def collect(ticket: Ticket) -> list[list[Delta]]:
    """
    Return all deltas of each job, in job order.

    Raises:
        ServiceError: one of them broke.
    """
    found: list[list[Delta]] = [[] for _ in ticket.numbers]
    async for delta in ticket.deltas(sse.PING_S):
        if delta is not None:
            found[ticket.index_of(delta)].append(delta)
    return found
