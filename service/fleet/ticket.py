"""One request's stream of events from the engine, in the API process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from service.errors import ServiceError
from service.protocol import Accepted, Delta


class Ticket:
    """
    What the engine says to one submitted job, in order: accepted once, then deltas, or an error.

    Its queue needs no bound of its own: it never holds more deltas than the context has tokens.

    Attributes:
        number: the ticket's number in the protocol.
    """

    def __init__(self, number: int, close: Callable[[int], None]) -> None:
        self.number = number
        self._close = close
        self._events: asyncio.Queue[Accepted | Delta | ServiceError] = asyncio.Queue()

    def put(self, event: Accepted | Delta | ServiceError) -> None:
        """Add *event*, from the supervisor; after an error nothing more comes."""
        self._events.put_nowait(event)

    async def accepted(self) -> int:
        """
        Wait until the engine has templated and tokenized the prompt; return its length in tokens.

        Raises:
            ServiceError: the engine rejected the job, died, or the server is ending.
        """
        event = await self._next()
        assert isinstance(event, Accepted), event
        return event.n_prompt_tokens

    async def deltas(self, idle_s: float) -> AsyncIterator[Delta | None]:
        """
        Yield each delta as it comes, the last one with the finish reason; None after *idle_s* of silence.

        Raises:
            ServiceError: the job broke, the engine died, or the server is ending.
        """
        while True:
            if self._events.empty():
                try:
                    async with asyncio.timeout(idle_s):
                        delta = await self._next()
                except TimeoutError:
                    yield None
                    continue
            else:
                delta = await self._next()
            assert isinstance(delta, Delta), delta
            yield delta
            if delta.finish_reason is not None:
                return

    def close(self) -> None:
        """Give the ticket back; the engine is told to stop if it was not done. Idempotent."""
        self._close(self.number)

    async def _next(self) -> Accepted | Delta:
        event = await self._events.get()
        if isinstance(event, ServiceError):
            raise event
        return event
