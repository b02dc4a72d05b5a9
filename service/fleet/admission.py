"""
Who may generate now, who waits, and who is turned away.

The smallest priority first; among equals, first come, first served. A priority orders those who wait and
takes no place from any of them. A permit is held from here until the request has left, by whatever way.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from dataclasses import dataclass

from service.errors import QueueFull, QueueTimeout, ServiceError, ShuttingDown

RETRY_AFTER_S = 1


class Permit:
    """The right to generate; `release`, or leaving its `with`, gives it to whoever is next."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def __enter__(self) -> None:
        """Hold it."""

    def __exit__(self, *error: object) -> None:
        """Give it back."""
        self.release()

    def release(self) -> None:
        """Give the permit back. Idempotent."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._pass_on()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """
    Someone in the queue.

    Attributes:
        priority: the smaller, the earlier.
        turn: becomes the permit.
    """

    priority: int
    turn: asyncio.Future[Permit]


class Admission:
    """
    Permits and the queue before them.

    Args:
        n_permits: how many requests generate at once.
        n_places: how many may wait.
        timeout_s: longest wait, in seconds.

    Attributes:
        timeout_s: longest wait, in seconds.
    """

    def __init__(self, n_permits: int, n_places: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._n_permits = self._n_free = n_permits
        self._n_places = n_places
        self._waiting: list[_Waiter] = []  # who is next comes first
        self._is_closed = False
        self._is_held = False

    @property
    def n_in_use(self) -> int:
        """How many permits are taken."""
        return self._n_permits - self._n_free

    @property
    def n_waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiting)

    @property
    def n_held(self) -> int:
        """How many requests wait because no permits are handed out."""
        return len(self._waiting) if self._is_held else 0

    def hold(self) -> None:
        """Hand out no more permits until `resume`; who comes waits in the queue. Idempotent."""
        self._is_held = True

    def resume(self) -> None:
        """Hand out permits again, first to those who have waited. Idempotent."""
        self._is_held = False
        n_free, self._n_free = self._n_free, 0
        for _ in range(n_free):
            self._pass_on()

    async def acquire(self, priority: int = 0) -> Permit:
        """
        Take a permit, or wait for one behind all whose *priority* is the same or smaller.

        Raises:
            QueueFull: no permit is free and no place either; at once.
            QueueTimeout: it waited `timeout_s` seconds in vain.
            ShuttingDown: the server is ending.
        """
        if self._is_closed:
            raise _ending()
        if self._n_free > 0 and not self._waiting and not self._is_held:
            self._n_free -= 1
            return Permit(self)
        if len(self._waiting) >= self._n_places:
            raise QueueFull(
                f"All permits are taken and {len(self._waiting)} requests wait already.",
                retry_after_s=RETRY_AFTER_S,
            )
        return await self._wait(priority)

    def close(self) -> None:
        """Turn away everyone who waits, and everyone who comes."""
        self._is_closed = True
        for waiter in self._waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(_ending())
        self._waiting.clear()

    async def _wait(self, priority: int) -> Permit:
        waiter = _Waiter(priority, asyncio.get_running_loop().create_future())
        insort(self._waiting, waiter, key=lambda each: each.priority)  # behind its equals
        try:
            async with asyncio.timeout(self.timeout_s):
                return await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise QueueTimeout(
                f"The request waited {self.timeout_s:g} s and was not started.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except BaseException:
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        """Clear the place of a waiter that goes; a permit that came at that very moment goes on."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        turn = waiter.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().release()

    def _pass_on(self) -> None:
        while self._waiting and not self._is_held:
            turn = self._waiting.pop(0).turn
            if not turn.done():
                turn.set_result(Permit(self))
                return
        self._n_free += 1


def _ending() -> ServiceError:
    return ShuttingDown("The server is shutting down.", retry_after_s=RETRY_AFTER_S)
