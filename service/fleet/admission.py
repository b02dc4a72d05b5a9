"""
Who may generate now, who waits, and who is turned away.

First come, first served. A permit is held from here until the request has left, by whatever way.
"""

from __future__ import annotations

import asyncio
from collections import deque

from service.errors import QueueFull, QueueTimeout, ServiceError, ShuttingDown
from service.telemetry import Metrics

RETRY_AFTER_S = 1


class Permit:
    """The right to generate; `release` gives it to whoever waits longest."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        """Give the permit back. Idempotent."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._pass_on()


class Admission:
    """
    Permits and the queue before them.

    Args:
        n_permits: how many requests generate at once.
        n_places: how many may wait.
        timeout_s: longest wait, in seconds.
    """

    def __init__(self, n_permits: int, n_places: int, timeout_s: float, metrics: Metrics) -> None:
        self._n_free = n_permits
        self._n_places = n_places
        self._timeout_s = timeout_s
        self._waiting: deque[asyncio.Future[Permit]] = deque()
        self._is_closed = False
        metrics.permits_in_use.set_function(lambda: n_permits - self._n_free)
        metrics.queue_length.set_function(lambda: len(self._waiting))

    async def acquire(self) -> Permit:
        """
        Take a permit, or wait for one.

        Raises:
            QueueFull: no permit is free and no place either; at once.
            QueueTimeout: it waited `timeout_s` seconds in vain.
            ShuttingDown: the server is ending.
        """
        if self._is_closed:
            raise _ending()
        if self._n_free > 0 and not self._waiting:
            self._n_free -= 1
            return Permit(self)
        if len(self._waiting) >= self._n_places:
            raise QueueFull(
                f"All permits are taken and {len(self._waiting)} requests wait already.",
                retry_after_s=RETRY_AFTER_S,
            )
        return await self._wait()

    def close(self) -> None:
        """Turn away everyone who waits, and everyone who comes."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(_ending())

    async def _wait(self) -> Permit:
        turn: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await turn
        except TimeoutError:
            self._leave(turn)
            raise QueueTimeout(
                f"The request waited {self._timeout_s:g} s and was not started.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except BaseException:
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[Permit]) -> None:
        """Clear the place of a waiter that goes; a permit that came at that very moment goes on."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().release()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(Permit(self))
                return
        self._n_free += 1


def _ending() -> ServiceError:
    return ShuttingDown("The server is shutting down.", retry_after_s=RETRY_AFTER_S)
