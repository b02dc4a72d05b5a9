"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from falcon.asgi import Request, Response

from service.openai import chat
from service.openai.usage import Usage
from service.protocol import ModelCard
from service.web import sse
from service.web.intake import Begun, Intake, Submission, collect


class ChatCompletions:
    """Answers a chat, whole or as a stream."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, submit, and translate what comes; every refusal that is known comes before any header."""
        body = await self._intake.read(req, "chat-request")
        card = self._intake.card(body.get("model"))
        asked = chat.parse(body, card)
        self._intake.tell_ignored(resp, asked.ignored)
        submission = self._intake.submit(req, card, asked.jobs, asked.priority)
        if asked.is_stream:
            await submission.begin_stream()
            chunks = _chunks(submission, card, asked)
            self._intake.stream(resp, sse.stream(chunks, self._intake.note_broken))
            return
        accepted = await submission.accepted()
        answer = _answer(card, asked, accepted)
        self._intake.send(resp, answer.completion(await collect(accepted[0])))


def _answer(card: ModelCard, asked: chat.ChatRequest, accepted: Begun) -> chat.ChatAnswer:
    ticket, (n_prompt_tokens, *_) = accepted
    return chat.ChatAnswer(
        card.id,
        Usage(n_prompt_tokens, len(asked.jobs), ticket.waited_s),
        with_logprobs=asked.jobs[0].top_logprobs is not None,
        include_usage=asked.include_usage,
        custom_tools=asked.custom_tools,
        in_older_form=asked.in_older_form,
    )


async def _chunks(
    submission: Submission, card: ModelCard, asked: chat.ChatRequest
) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the chunks of one answer, None where the line went quiet."""
    async for ping in submission.pings():
        yield ping
    accepted = await submission.accepted()
    answer, (ticket, _) = _answer(card, asked, accepted), accepted
    for i in range(len(ticket.numbers)):
        yield answer.opening(i)
    async for delta in ticket.deltas(sse.PING_S):
        yield None if delta is None else answer.chunk(ticket.index_of(delta), delta)
    if answer.include_usage:
        yield answer.closing()
