"""
Where a request for answers comes in: the model it means, a permit, a ticket; and what goes back out.

Every endpoint that generates goes through here and nowhere else, so that each refusal comes before any
header, and whatever way a request ends gives back what it held. Only a stream that has to wait for long
begins before it is accepted, since many clients give up when they hear nothing: what it is refused with
then is its last event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service import contracts
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.openai import models, tokens
from service.openai.body import decode_measured, measure
from service.protocol import (
    GENERATING,
    Delta,
    Embedded,
    Job,
    ModelCard,
    ModelKind,
    Prompt,
    Scored,
    Text,
    Tokenized,
    Tokens,
)
from service.telemetry import Metrics
from service.web import sse
from service.web.image_fetch import ImageFetch
from service.web.journal import Visit

_log = logging.getLogger(__name__)


Begun = tuple[Ticket, tuple[int, ...]]


class Submission:
    """
    A request's jobs on their way: through the queue, by a permit, to the engine's word that it takes them.

    Args:
        coming: waits for all of it, and returns the ticket with the lengths of the prompts in tokens.
    """

    def __init__(self, coming: Coroutine[Any, Any, Begun]) -> None:
        self._coming = asyncio.create_task(coming)
        # Nobody asks what became of it where the client has left.
        self._coming.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def accepted(self) -> Begun:
        """
        Wait for the end of it; return the ticket, and the length of each prompt in tokens.

        Raises:
            ServiceError: no permit is to be had, or no engine, or the engine rejected a job.
        """
        return await self._coming

    async def pings(self) -> AsyncIterator[None]:
        """Yield a None for every PING_S seconds that it still takes."""
        while not await self._is_done_soon():
            yield None

    async def begin_stream(self) -> None:
        """
        Wait until a stream may begin: it was accepted, or has waited for as long as a client hears nothing.

        Raises:
            ServiceError: as `accepted`, if it is known by then.
        """
        if await self._is_done_soon():
            self._coming.result()

    def cancel(self) -> None:
        """Give up waiting; what was taken until now goes back with the request."""
        self._coming.cancel()

    async def _is_done_soon(self) -> bool:
        await asyncio.wait({self._coming}, timeout=sse.PING_S)
        return self._coming.done()


class Intake:
    """
    Takes requests in and sends answers out.

    Args:
        fleet: the models.
        metrics: where broken streams are counted.
        image_fetch: gets images that requests give by their address.
    """

    def __init__(self, fleet: Fleet, metrics: Metrics, image_fetch: ImageFetch) -> None:
        self._image_fetch = image_fetch
        self._fleet = fleet
        self._metrics = metrics

    async def read(self, req: Request, contract: str) -> dict[str, Any]:
        """
        Return the request's body, which keeps *contract*; others get their turn between two steps of it.

        Raises:
            InvalidRequest: it is no strict JSON, or breaks the contract, or has an image that can't be had.
        """
        raw = await req.stream.read()
        for _ in measure(raw):
            await asyncio.sleep(0)
        body = decode_measured(raw)
        await asyncio.sleep(0)
        contracts.check(contract, body)
        await asyncio.sleep(0)
        await self._image_fetch.fill(body)
        return body

    def card(self, model: str | None, kinds: tuple[ModelKind, ...] = GENERATING) -> ModelCard:
        """
        Return the card of the model that a request means by *model*, or by leaving it out.

        Args:
            model: a name that the model goes by.
            kinds: those that can do what the request is for.

        Raises:
            ModelNotReady: there is none that takes requests.
            ModelNotFound: no model goes by that name.
            UnsupportedModelType: it is of another kind.
        """
        found = self._fleet.resolve(model)
        if found.kind not in kinds:
            raise models.wrong_kind(found)
        return found

    def submit(
        self, req: Request, card: ModelCard, jobs: Sequence[Job], priority: int
    ) -> Submission:
        """
        Begin to wait for a permit, the smallest *priority* first, and for the model, to send *jobs* down.

        Permit and ticket go back when the request has ended; until then the model stays in memory.

        Raises:
            RateLimited: the request's key has used its limit.
        """
        _log.info("Processing text request model=%s endpoint=%s", card.id, req.path)
        leaving = req.scope["exchange"].leaving
        visit: Visit = req.scope["exchange"].visit
        visit.model = card.id
        self._let_in(visit, leaving)
        model = self._fleet.of(card)
        self._fleet.take(model)
        leaving.callback(self._fleet.leave, model)
        submission = Submission(self._accepted(leaving, visit, model, jobs, priority))
        leaving.callback(submission.cancel)
        return submission

    def _let_in(self, visit: Visit, leaving: ExitStack) -> None:
        """Count a request among those of its key, and its tokens when it leaves."""
        limits = visit.key.limits
        limits.admit()
        leaving.callback(lambda: limits.charge(visit.n_prompt_tokens + visit.n_completion_tokens))

    async def _accepted(
        self,
        leaving: ExitStack,
        visit: Visit,
        model: ServedModel,
        jobs: Sequence[Job],
        priority: int,
    ) -> Begun:
        came_s = time.monotonic()
        permit = await model.admission.acquire(priority)
        leaving.callback(permit.release)
        left_s = came_s + model.admission.timeout_s - time.monotonic()
        await self._fleet.bring_up(model, left_s)
        # From here on the engine counts, perhaps before this goes on.
        waited_s = time.monotonic() - came_s
        visit.ticket = ticket = model.supervisor.submit(jobs)
        ticket.waited_s = waited_s
        leaving.callback(ticket.close)
        return ticket, await ticket.accepted()

    async def embed(
        self,
        req: Request,
        card: ModelCard,
        inputs: tuple[Text | Tokens, ...],
        *,
        prompt_name: str | None,
        dimensions: int | None,
        priority: int,
    ) -> Embedded:
        """
        Return the vectors of *inputs*, in their turn, the smallest *priority* first.

        Raises:
            ServiceError: no permit is to be had, or no engine, or the model can't take an input.
        """
        async with self._permitted(req, card, priority) as supervisor:
            found = await supervisor.embed(inputs, prompt_name, dimensions)
        req.scope["exchange"].visit.n_read_tokens = found.n_tokens
        return found

    async def score(
        self,
        req: Request,
        card: ModelCard,
        queries: tuple[str, ...],
        documents: tuple[str, ...],
        *,
        params: tuple[str, str],
        priority: int,
    ) -> Scored:
        """
        Return how well *documents* answer *queries*, in their turn, the smallest *priority* first.

        Raises:
            ServiceError: as `embed`.
        """
        async with self._permitted(req, card, priority) as supervisor:
            found = await supervisor.score(queries, documents, params)
        req.scope["exchange"].visit.n_read_tokens = found.n_tokens
        return found

    @asynccontextmanager
    async def _permitted(
        self, req: Request, card: ModelCard, priority: int
    ) -> AsyncIterator[Supervisor]:
        """Wait for a permit, and for the model, and hold both; for what is answered in one piece."""
        _log.info("Processing text request model=%s endpoint=%s", card.id, req.path)
        visit: Visit = req.scope["exchange"].visit
        visit.model = card.id
        self._let_in(visit, req.scope["exchange"].leaving)
        model = self._fleet.of(card)
        self._fleet.take(model)
        came_s = time.monotonic()
        try:
            with await model.admission.acquire(priority):
                left_s = came_s + model.admission.timeout_s - time.monotonic()
                await self._fleet.bring_up(model, left_s)
                yield model.supervisor
        finally:
            self._fleet.leave(model)

    async def tokenize(self, card: ModelCard, prompt: Prompt) -> Tokenized:
        """
        Return the tokens of *prompt*, in its turn; nothing is generated.

        Raises:
            RequestTooLarge: it is far larger than the model's context.
            ServiceError: the model can't take it, there is no engine, or too many ask.
        """
        tokens.check_size(prompt, card)
        async with self._questioned(card) as supervisor:
            return await supervisor.tokenize(prompt)

    async def detokenize(self, card: ModelCard, ids: tuple[int, ...]) -> str:
        """
        Return the text of token *ids*, in its turn.

        Raises:
            ServiceError: as `tokenize`, or the model has no such tokens.
        """
        async with self._questioned(card) as supervisor:
            return await supervisor.detokenize(ids)

    @asynccontextmanager
    async def _questioned(self, card: ModelCard) -> AsyncIterator[Supervisor]:
        """Wait for the turn to ask a model about tokens, and hold it."""
        model = self._fleet.of(card)
        self._fleet.take(model)
        try:
            with await model.questions.acquire():
                await self._fleet.bring_up(model, model.questions.timeout_s)
                yield model.supervisor
        finally:
            self._fleet.leave(model)

    def send(self, resp: Response, body: dict[str, Any]) -> None:
        """Answer with *body*, encoded here and now: whatever fails in that must fail before headers."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)

    def tell_ignored(self, resp: Response, fields: Sequence[str]) -> None:
        """Tell which *fields* of the request change nothing of its answer, if any do."""
        if fields:
            resp.set_header("X-Ignored-Fields", ", ".join(fields))

    def stream(self, resp: Response, events: AsyncIterator[bytes]) -> None:
        """Answer with server-sent *events*, as `sse` makes them."""
        resp.content_type = sse.MEDIA_TYPE
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
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
