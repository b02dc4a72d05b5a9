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
        self._events: asyncio.Queue[Accepted | Delta | ServiceError | None] = asyncio.Queue()
        self._n_put = 0
        self._reminder: asyncio.TimerHandle | None = None

    def put(self, event: Accepted | Delta | ServiceError) -> None:
        """Add *event*, from the supervisor; after an error nothing more comes."""
        self._n_put += 1
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
        self._remind(idle_s, self._n_put)
        try:
            while True:
                delta = await self._next()
                assert not isinstance(delta, Accepted), delta
                yield delta
                if delta is not None and delta.finish_reason is not None:
                    return
        finally:
            if self._reminder is not None:
                self._reminder.cancel()

    def _remind(self, idle_s: float, n_put_before: int) -> None:
        """Put a None if nothing else was put since; one timer for the stream, none for each delta."""
        if self._n_put == n_put_before and self._reminder is not None:
            self._events.put_nowait(None)
        loop = asyncio.get_running_loop()
        self._reminder = loop.call_later(idle_s, self._remind, idle_s, self._n_put)

    def close(self) -> None:
        """Give the ticket back; the engine is told to stop if it was not done. Idempotent."""
        self._close(self.number)

    async def _next(self) -> Accepted | Delta | None:
        event = await self._events.get()
        if isinstance(event, ServiceError):
            raise event
        return event
