"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from falcon.asgi import Request, Response

from service.fleet.ticket import Ticket
from service.openai import chat
from service.openai.usage import Usage
from service.web import sse
from service.web.intake import Intake, collect


class ChatCompletions:
    """Answers a chat, whole or as a stream."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, admit, submit, and translate what comes; every refusal comes before any header."""
        body = await self._intake.read(req, "chat-request")
        card = self._intake.card(body["model"])
        asked = chat.parse(body, card)
        ticket = await self._intake.submit(req, card, asked.jobs, asked.priority)
        (n_prompt_tokens, *_) = await ticket.accepted()
        answer = chat.ChatAnswer(
            card.id,
            Usage(n_prompt_tokens, len(asked.jobs), ticket.waited_s),
            with_logprobs=asked.jobs[0].top_logprobs is not None,
            include_usage=asked.include_usage,
        )
        if asked.is_stream:
            chunks = _chunks(ticket, answer)
            self._intake.stream(resp, sse.stream(chunks, self._intake.note_broken))
        else:
            self._intake.send(resp, answer.completion(await collect(ticket)))


async def _chunks(ticket: Ticket, answer: chat.ChatAnswer) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the chunks of one answer, None where the line went quiet."""
    for i in range(len(ticket.numbers)):
        yield answer.opening(i)
    async for delta in ticket.deltas(sse.PING_S):
        yield None if delta is None else answer.chunk(ticket.index_of(delta), delta)
    if answer.include_usage:
        yield answer.closing()
