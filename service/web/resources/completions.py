"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from falcon.asgi import Request, Response

from service.fleet.ticket import Ticket
from service.openai import completions
from service.openai.usage import Usage
from service.web import sse
from service.web.intake import Intake, collect


class Completions:
    """Continues texts, whole or as a stream."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, admit, submit, and translate what comes; every refusal comes before any header."""
        body = await self._intake.read(req, "completion-request")
        card = self._intake.card(body["model"])
        asked = completions.parse(body)
        ticket = await self._intake.submit(req, card, asked.jobs, asked.priority)
        lengths = await ticket.accepted()
        answer = completions.CompletionAnswer(
            card.id,
            Usage(
                sum(lengths[:: asked.n]),
                len(asked.jobs),
                ticket.waited_s,
                n_prompts=len(asked.jobs) // asked.n,
            ),
            with_logprobs=asked.jobs[0].top_logprobs is not None,
            include_usage=asked.include_usage,
        )
        if asked.is_stream:
            chunks = _chunks(ticket, answer)
            self._intake.stream(resp, sse.stream(chunks, self._intake.note_broken))
        else:
            self._intake.send(resp, answer.completion(await collect(ticket)))


async def _chunks(
    ticket: Ticket, answer: completions.CompletionAnswer
) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the chunks of all answers as they come, None where the line went quiet."""
    async for delta in ticket.deltas(sse.PING_S):
        yield None if delta is None else answer.chunk(ticket.index_of(delta), delta)
    if answer.include_usage:
        yield answer.closing()
