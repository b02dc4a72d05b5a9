"""One request's stream of events from the engine, in the API process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from service.errors import ServiceError
from service.protocol import Accepted, Delta


class Ticket:
    """
    What the engine says to the jobs of one request: each accepted once, then deltas, or an error.

    Its queue needs no bound of its own: it never holds more deltas than the context has tokens.

    Attributes:
        numbers: its jobs' numbers in the protocol, in the jobs' order.
        sent_s: when the jobs were sent to the engine, by the monotonic clock.
        waited_s: seconds that the request waited for its permit.
        n_prompt_tokens: tokens of all prompts that were accepted.
        first_s: when the first token came, by the monotonic clock; None: none has come yet.
        ended: the last delta of each job that has ended.
    """

    def __init__(self, numbers: range, close: Callable[[int], None]) -> None:
        self.numbers = numbers
        self.sent_s = time.monotonic()
        self.waited_s = 0.0
        self.n_prompt_tokens = 0
        self.first_s: float | None = None
        self.ended: list[Delta] = []
        self._n_generated: dict[int, int] = {}  # tokens of each job until now
        self._close = close
        self._n_running = len(numbers)
        self._early: list[Delta] = []
        self._events: asyncio.Queue[Accepted | Delta | ServiceError | None] = asyncio.Queue()
        self._n_put = 0
        self._reminder: asyncio.TimerHandle | None = None

    @property
    def n_completion_tokens(self) -> int:
        """Tokens that have come until now, of all jobs."""
        return sum(self._n_generated.values())

    def put(self, event: Accepted | Delta | ServiceError) -> None:
        """Add *event*, from the supervisor; after an error nothing more comes."""
        self._n_put += 1
        if isinstance(event, Accepted):
            self.n_prompt_tokens += event.n_prompt_tokens
        elif isinstance(event, Delta):
            if self.first_s is None:
                self.first_s = time.monotonic()
            self._n_generated[event.ticket] = event.n_completion_tokens
            if event.finish_reason is not None:
                self.ended.append(event)
        self._events.put_nowait(event)

    def index_of(self, delta: Delta) -> int:
        """Return which of the jobs *delta* belongs to, from 0 on."""
        return self.numbers.index(delta.ticket)

    async def accepted(self) -> tuple[int, ...]:
        """
        Wait until the engine has tokenized all prompts; return their lengths in tokens, in job order.

        Raises:
            ServiceError: the engine rejected a job, died, or the server is ending.
        """
        lengths: dict[int, int] = {}
        while len(lengths) < len(self.numbers):
            event = await self._next()
            if isinstance(event, Accepted):
                lengths[event.ticket] = event.n_prompt_tokens
            elif event is not None:  # a job that was accepted before the others are
                self._early.append(event)
        return tuple(lengths[number] for number in self.numbers)

    async def deltas(self, idle_s: float) -> AsyncIterator[Delta | None]:
        """
        Yield each delta as it comes, each job's last one with its finish reason.

        Args:
            idle_s: seconds of silence after which a None comes.

        Raises:
            ServiceError: a job broke, the engine died, or the server is ending.
        """
        self._remind(idle_s, self._n_put)
        try:
            while self._n_running:
                delta = self._early.pop(0) if self._early else await self._next()
                assert not isinstance(delta, Accepted), delta
                self._n_running -= delta is not None and delta.finish_reason is not None
                yield delta
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
        """Give the ticket back; the engine is told to stop what was not done. Idempotent."""
        for number in self.numbers:
            self._close(number)

    async def _next(self) -> Accepted | Delta | None:
        event = await self._events.get()
        if isinstance(event, ServiceError):
            raise event
        return event
