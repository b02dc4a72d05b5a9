"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's interface."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

from falcon.asgi import Request, Response

from service.anthropic import messages
from service.anthropic.answer import PING, MessageAnswer
from service.openai.usage import Usage
from service.protocol import ModelCard
from service.web import sse
from service.web.failures import explained
from service.web.intake import Intake, Submission, collect


class Messages:
    """Answers a conversation, whole or as a stream, or counts what it would take to read it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, submit, and translate what comes; every refusal that is known comes before any header."""
        body = await self._intake.read(req, "messages-request")
        card = self._intake.card(body.get("model"))
        asked = messages.parse(body, card)
        self._intake.tell_ignored(resp, asked.ignored)
        submission = self._intake.submit(req, card, [asked.job], asked.priority)
        if asked.is_stream:
            await submission.begin_stream()
            events = sse.stream(
                _events(submission, card),
                self._intake.note_broken,
                encode=sse.named_event,
                explain=functools.partial(explained, path=req.path),
                end=b"",
            )
            self._intake.stream(resp, events)
            return
        ticket, (n_prompt_tokens,) = await submission.accepted()
        (deltas,) = await collect(ticket)
        self._intake.send(resp, MessageAnswer(card.id, Usage(n_prompt_tokens)).message(deltas))

    async def on_post_count_tokens(self, req: Request, resp: Response) -> None:
        """Count the tokens of the prompt; nothing is generated, so it needs no permit."""
        body = await self._intake.read(req, "message-tokens-request")
        card = self._intake.card(body.get("model"))
        tokenized = await self._intake.tokenize(card, messages.prompt(body, card))
        self._intake.send(resp, {"input_tokens": len(tokenized.ids)})


async def _events(submission: Submission, card: ModelCard) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the events of one answer, a ping where the line went quiet, None where it waits to begin."""
    async for ping in submission.pings():
        yield ping
    ticket, (n_prompt_tokens,) = await submission.accepted()
    answer = MessageAnswer(card.id, Usage(n_prompt_tokens))
    yield answer.opening()
    async for delta in ticket.deltas(sse.PING_S):
        for event in [PING] if delta is None else answer.events(delta):
            yield event
