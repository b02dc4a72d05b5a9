"""`/v1/responses`: answers that can be read, continued, cancelled and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import falcon
from falcon.asgi import Request, Response

from service.errors import InvalidRequest, ResponseNotFound, ServiceError
from service.fleet.ticket import Ticket
from service.openai import response_items, responses
from service.openai.response_events import Event, ResponseAnswer
from service.openai.usage import Usage
from service.web import sse
from service.web.archive import Archive
from service.web.intake import Intake, Submission


class _Cancelled(ServiceError):
    """Someone cancelled the response; put into its ticket to wake whoever waits there."""


@dataclass(slots=True)
class _Running:
    """
    A response that is being made.

    Attributes:
        farewell: the events to end with, once it was cancelled.
        over: set when it isn't being made any more.
    """

    ticket: Ticket
    answer: ResponseAnswer
    farewell: list[Event] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Responses:
    """Makes responses, and remembers those that shall be kept."""

    def __init__(self, intake: Intake, archive: Archive) -> None:
        self._intake = intake
        self._archive = archive
        self._running: dict[str, _Running] = {}

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, submit, and translate what comes; every refusal that is known comes before any header."""
        body = await self._intake.read(req, "response-request")
        card = self._intake.card(body.get("model"))
        with responses.own_names():
            asked = responses.parse(body, card, self._archive)
            self._intake.tell_ignored(resp, asked.ignored)
            answer = ResponseAnswer(card.id, asked)
            submission = self._intake.submit(req, card, [asked.job], asked.priority)
            if asked.is_stream:
                await submission.begin_stream()
            else:
                await submission.accepted()
        events = self._events(req, submission, answer)
        if asked.is_stream:
            stream = sse.stream(
                events,
                self._intake.note_broken,
                encode=sse.named_event,
                explain=answer.failed,
                end=b"",
            )
            self._intake.stream(resp, stream)
            return
        async for _ in events:
            pass
        self._intake.send(resp, answer.body())

    async def on_post_tokens(self, req: Request, resp: Response) -> None:
        """Count the tokens of a request's prompt; nothing is generated."""
        body = await self._intake.read(req, "response-request")
        card = self._intake.card(body.get("model"))
        with responses.own_names():
            asked = responses.parse(body, card, self._archive)
            found = await self._intake.tokenize(card, asked.job.prompt)
        count = {"object": "response.input_tokens", "input_tokens": len(found.ids)}
        self._intake.send(resp, count)

    async def on_get_one(self, req: Request, resp: Response, response_id: str) -> None:
        """Return a response that is kept, or will be: then as far as it has come, or by its events."""
        running = self._running.get(response_id)
        if running is not None and not running.answer.asked.is_kept:
            running = None
        body = self._archive.body(response_id)
        if running is None and body is None:
            raise _not_found()
        wanted = responses.retrieval(_query(req))
        if wanted.is_stream:
            stream = sse.stream(
                self._retold(response_id, running, wanted.starting_after),
                self._intake.note_broken,
                encode=sse.named_event,
                end=b"",
            )
            self._intake.stream(resp, stream)
        elif running is not None:
            self._intake.send(resp, running.answer.body())
        else:
            resp.data, resp.content_type = body, falcon.MEDIA_JSON

    async def on_delete_one(self, req: Request, resp: Response, response_id: str) -> None:  # noqa: ARG002
        """Forget a response; what continues it is then without it, too."""
        if not self._archive.forget(response_id):
            raise _not_found()
        self._intake.send(resp, {"id": response_id, "object": "response", "deleted": True})

    async def on_get_items(self, req: Request, resp: Response, response_id: str) -> None:
        """List the items that a response answers, those before its own request included."""
        found = self._archive.led_to(response_id)
        if found is None:
            raise _not_found()
        self._intake.send(resp, response_items.page(found, _query(req)))

    async def on_post_cancel(self, req: Request, resp: Response, response_id: str) -> None:  # noqa: ARG002
        """Stop a response where it is; who waits for it gets what there is."""
        running = self._end(response_id)
        if running is None:
            if self._archive.body(response_id) is None:
                raise _not_found()
            raise InvalidRequest("The response has ended already.", code="response_ended")
        running.farewell = running.answer.end("cancelled")
        running.ticket.close()
        running.ticket.put(_Cancelled("The response was cancelled."))
        self._keep(running.answer)
        self._intake.send(resp, running.answer.body())

    def _begun(self, req: Request, ticket: Ticket, answer: ResponseAnswer) -> _Running:
        """Note a response as running until its request has left, by whatever way."""
        running = self._running[answer.id] = _Running(ticket, answer)
        req.scope["exchange"].leaving.callback(self._end, answer.id)
        return running

    def _end(self, response_id: str) -> _Running | None:
        """Note a response as running no more; return what it was, None if it wasn't."""
        running = self._running.pop(response_id, None)
        if running is not None:
            running.over.set()
        return running

    async def _retold(
        self, response_id: str, running: _Running | None, starting_after: int
    ) -> AsyncIterator[Event | None]:
        """Yield the events of a kept response behind a number, None while it is still being made."""
        while running is not None and not running.over.is_set():
            try:
                async with asyncio.timeout(sse.PING_S):
                    await running.over.wait()
            except TimeoutError:
                yield None
        found = self._archive.events(response_id)
        if found is None:  # it failed, or its client left
            raise _not_found()
        for event in found:
            if event["sequence_number"] > starting_after:
                yield event

    async def _events(
        self, req: Request, submission: Submission, answer: ResponseAnswer
    ) -> AsyncIterator[Event | None]:
        """Yield the events of a response, None where the line went quiet."""
        try:
            async for ping in submission.pings():
                yield ping
            with responses.own_names():
                ticket, (n_prompt_tokens,) = await submission.accepted()
        except ServiceError as error:
            yield answer.trouble(error)
            raise
        answer.usage = Usage(n_prompt_tokens, waited_s=ticket.waited_s)
        running = self._begun(req, ticket, answer)
        for event in answer.opening():
            yield event
        try:
            async for delta in running.ticket.deltas(sse.PING_S):
                if running.farewell:  # this is from before it was cancelled
                    break
                if delta is None:
                    yield None
                    continue
                events = answer.add(delta)
                if answer.status != "in_progress":
                    self._keep(answer)
                    self._end(answer.id)
                for event in events:
                    yield event
        except _Cancelled:
            pass
        except ServiceError as error:
            self._end(answer.id)  # who hears of it finds it gone
            yield answer.trouble(error)
            raise
        for event in running.farewell:
            yield event

    def _keep(self, answer: ResponseAnswer) -> None:
        if answer.asked.is_kept:
            self._archive.keep(answer.body(), answer.asked.items, answer.pieces)


def _query(req: Request) -> dict[str, str]:
    """Return the query of a request; a list is told with commas, whichever way it was written."""
    return {
        name.removesuffix("[]"): ",".join(value) if isinstance(value, list) else str(value)
        for name, value in req.params.items()
    }


def _not_found() -> ResponseNotFound:
    return ResponseNotFound("No such response is kept.")
