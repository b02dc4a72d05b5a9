"""Permits are neither lost nor doubled, and waiting has its order and its end."""

import asyncio
import random
import time

import pytest

from service.errors import QueueFull, QueueTimeout, ServiceError, ShuttingDown
from service.fleet.admission import Admission, Permit


class Door:
    """An admission, and ways to ask it."""

    def __init__(self, n_permits: int, n_places: int, timeout_s: float = 5.0) -> None:
        self.admission = Admission(n_permits, n_places, timeout_s)

    @property
    def n_in_use(self) -> int:
        """Permits given out."""
        return self.admission.n_in_use

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return self.admission.n_waiting

    def queue_up(self, priority: int = 0) -> asyncio.Task[Permit]:
        """Begin to wait for a permit."""
        return asyncio.create_task(self.admission.acquire(priority))


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_permits_are_counted() -> None:
    """As many permits as configured are given at once, without waiting."""

    async def scenario() -> None:
        door = Door(2, 5)
        permits = [await door.admission.acquire() for _ in range(2)]
        waiter = door.queue_up()
        await settle()

        assert (2, 1, False) == (door.n_in_use, door.n_waiting, waiter.done())
        for permit in permits:
            permit.release()
        (await waiter).release()
        assert (0, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_permit_when_released_twice() -> None:
    """A second release gives nothing: it would let one request too many in."""

    async def scenario() -> None:
        door = Door(2, 0)
        first, _second = await door.admission.acquire(), await door.admission.acquire()
        first.release()
        first.release()

        assert 1 == door.n_in_use

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [
        ([0] * 7, [0, 1, 2, 3, 4, 5, 6]),
        ([3, 2, 1, 0, -1, -2, -3], [6, 5, 4, 3, 2, 1, 0]),
        ([0, 5, -1, 0, -1, 5, 1], [2, 4, 0, 3, 6, 1, 5]),
    ],
)
def test_waiters_are_served_in_their_order(priorities: list[int], expected: list[int]) -> None:
    """The smallest priority first; among equals, first come, first served."""

    async def scenario() -> list[int]:
        door, served = Door(1, 10), []
        held = await door.admission.acquire()

        async def one(i: int, priority: int) -> None:
            permit = await door.admission.acquire(priority)
            served.append(i)
            await asyncio.sleep(0)
            permit.release()

        tasks = []
        for i, priority in enumerate(priorities):
            tasks.append(asyncio.create_task(one(i, priority)))
            await asyncio.sleep(0)
        held.release()
        await asyncio.gather(*tasks)
        return served

    assert expected == asyncio.run(scenario())


def test_newcomer_does_not_overtake() -> None:
    """A permit that becomes free goes to who waits, also if someone asks in the same moment."""

    async def scenario() -> None:
        door = Door(1, 5)
        held = await door.admission.acquire()
        waiter = door.queue_up()
        await settle()
        held.release()
        newcomer = door.queue_up()
        await settle()

        assert (True, False) == (waiter.done(), newcomer.done())
        waiter.result().release()
        (await newcomer).release()
        assert 0 == door.n_in_use

    asyncio.run(scenario())


@pytest.mark.parametrize("n_places", [0, 1, 3])
def test_queue_when_full(n_places: int) -> None:
    """Who finds neither permit nor place is refused at once, and told when to come again."""

    async def scenario() -> QueueFull:
        door = Door(1, n_places)
        held = await door.admission.acquire()
        waiters = [door.queue_up() for _ in range(n_places)]
        await settle()
        began_s = time.process_time()
        with pytest.raises(QueueFull) as caught:
            await door.admission.acquire()
        assert time.process_time() - began_s < 0.05
        assert n_places == door.n_waiting
        held.release()
        for waiter in waiters:
            (await waiter).release()
        assert 0 == door.n_in_use
        return caught.value

    error = asyncio.run(scenario())

    assert (429, "queue_full", "rate_limit_error") == (error.status, error.code, error.type)
    assert error.retry_after_s


def test_queue_when_full_and_the_newcomer_is_urgent() -> None:
    """Nobody who waits loses the place to a smaller priority: that orders the queue, no more."""

    async def scenario() -> None:
        door = Door(1, 1)
        held = await door.admission.acquire()
        waiter = door.queue_up(1000)
        await settle()
        with pytest.raises(QueueFull):
            await door.admission.acquire(-1000)
        held.release()

        (await waiter).release()
        assert (0, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_wait_when_always_overtaken() -> None:
    """Who lets others go first for too long is refused like anyone, and not forgotten."""

    async def scenario() -> None:
        door = Door(1, 2, timeout_s=0.2)
        held = await door.admission.acquire(-1)
        patient = door.queue_up()
        await settle()
        while not patient.done():
            urgent = door.queue_up(-1)
            await settle()
            held.release()
            held = await urgent

        assert isinstance(patient.exception(), QueueTimeout)
        assert (1, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_wait_when_too_long() -> None:
    """Who waited its time is refused and has left the queue; the permit stays where it was."""

    async def scenario() -> QueueTimeout:
        door = Door(1, 1, timeout_s=0.02)
        held = await door.admission.acquire()
        with pytest.raises(QueueTimeout) as caught:
            await door.admission.acquire()
        assert (1, 0) == (door.n_in_use, door.n_waiting)
        held.release()
        assert 0 == door.n_in_use
        return caught.value

    error = asyncio.run(scenario())

    assert (503, "queue_timeout") == (error.status, error.code)
    assert error.retry_after_s


@pytest.mark.parametrize("is_release_first", [True, False])
def test_wait_when_permit_and_timeout_come_together(is_release_first: bool) -> None:
    """Whichever of the two wins, the permit is held by the waiter or free, and never lost."""

    async def scenario() -> None:
        door = Door(1, 1, timeout_s=0.02)
        held = await door.admission.acquire()
        waiter = door.queue_up()
        await asyncio.sleep(0)
        delay_s = 0.015 if is_release_first else 0.025
        asyncio.get_running_loop().call_later(delay_s, held.release)
        time.sleep(0.05)  # noqa: ASYNC251 (a busy loop: both fall due in the same turn of it)
        await asyncio.wait({waiter})
        if waiter.exception() is None:
            waiter.result().release()
        await settle()

        assert (0, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_waiter_when_cancelled() -> None:
    """A client that leaves the queue frees its place, and the next in line moves up."""

    async def scenario() -> None:
        door = Door(1, 2)
        held = await door.admission.acquire()
        second, first = door.queue_up(), door.queue_up(-1)
        await settle()
        first.cancel()
        await settle()
        assert 1 == door.n_waiting
        held.release()

        (await second).release()
        assert (0, 0) == (door.n_in_use, door.n_waiting)
        assert first.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize("has_next", [True, False])
def test_waiter_when_cancelled_with_the_permit_on_its_way(has_next: bool) -> None:
    """A permit given to someone who is just leaving goes on to the next, or is free again."""

    async def scenario() -> None:
        door = Door(1, 2)
        held = await door.admission.acquire()
        leaving = door.queue_up()
        following = door.queue_up() if has_next else None
        await settle()
        held.release()
        leaving.cancel()
        await settle()
        assert leaving.cancelled()
        if following is not None:
            (await following).release()

        assert (0, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_acquire_in_a_task_that_was_once_cancelled() -> None:
    """Who survived an earlier cancellation and waits again gets a permit that is really its own."""

    async def scenario() -> None:
        door = Door(1, 1)
        held = await door.admission.acquire()

        async def survivor() -> Permit:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                return await door.admission.acquire()
            raise AssertionError("never cancelled")

        task = asyncio.create_task(survivor())
        await settle()
        task.cancel()
        await settle()
        held.release()
        permit = await task

        assert 1 == door.n_in_use
        permit.release()
        assert 0 == door.n_in_use

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(12))
def test_permits_after_much_coming_and_going(seed: int) -> None:
    """Whatever leaves when, no more than the permits are in use, and in the end all are free."""
    chance = random.Random(seed)
    n_permits, n_places = chance.randint(1, 4), chance.randint(0, 20)

    async def scenario() -> None:
        door = Door(n_permits, n_places, timeout_s=chance.choice((0.001, 0.004, 5.0)))
        n_inside = 0

        async def visit() -> None:
            nonlocal n_inside
            permit = await door.admission.acquire(chance.randint(-2, 2))
            n_inside += 1
            try:
                assert n_inside <= n_permits
                for _ in range(chance.randint(0, 5)):
                    await asyncio.sleep(0)
            finally:
                n_inside -= 1
                permit.release()

        visits: list[asyncio.Task[None]] = []
        for _ in range(400):
            visits.append(asyncio.create_task(visit()))
            if chance.random() < 0.5:
                chance.choice(visits).cancel()
            if chance.random() < 0.4:
                await asyncio.sleep(0)
        ends = await asyncio.gather(*visits, return_exceptions=True)

        expected = (type(None), asyncio.CancelledError, QueueFull, QueueTimeout)
        assert [] == [end for end in ends if not isinstance(end, expected)]
        assert (0, 0) == (door.n_in_use, door.n_waiting)
        rest = [await door.admission.acquire() for _ in range(n_permits)]
        assert n_permits == len(rest)

    asyncio.run(scenario())


def test_close_turns_everyone_away() -> None:
    """At the end who waits and who comes is refused; who is inside may finish."""

    async def scenario() -> list[ServiceError]:
        door = Door(1, 5)
        held = await door.admission.acquire()
        waiters = [door.queue_up() for _ in range(3)]
        await settle()
        door.admission.close()
        door.admission.close()
        with pytest.raises(ShuttingDown) as caught:
            await door.admission.acquire()
        ends = await asyncio.gather(*waiters, return_exceptions=True)
        assert 1 == door.n_in_use
        held.release()
        assert (0, 0) == (door.n_in_use, door.n_waiting)
        with pytest.raises(ShuttingDown):
            await door.admission.acquire()
        return [caught.value, *(end for end in ends if isinstance(end, ServiceError))]

    errors = asyncio.run(scenario())

    assert [(503, "shutting_down")] * 4 == [(error.status, error.code) for error in errors]


def test_close_when_a_waiter_is_leaving() -> None:
    """Closing and cancelling at once ends the wait once, and leaves nothing behind."""

    async def scenario() -> None:
        door = Door(1, 5)
        held = await door.admission.acquire()
        waiter = door.queue_up()
        await settle()
        waiter.cancel()
        door.admission.close()
        await asyncio.wait({waiter})
        held.release()

        assert (0, 0) == (door.n_in_use, door.n_waiting)

    asyncio.run(scenario())


def test_permits_when_held() -> None:
    """None is handed out, whether one is free or comes back; then those who waited get them in turn."""

    async def scenario() -> None:
        admission = Admission(2, 3, 5.0)
        permit = await admission.acquire()
        admission.hold()
        waiting = [asyncio.create_task(admission.acquire()) for _ in range(3)]
        await settle()
        assert (1, 3, 3) == (admission.n_in_use, admission.n_waiting, admission.n_held)
        permit.release()
        await settle()
        assert (0, 3) == (admission.n_in_use, admission.n_held)
        with pytest.raises(QueueFull):
            await admission.acquire()
        admission.resume()
        await settle()
        assert [True, True, False] == [task.done() for task in waiting]
        assert (2, 1, 0) == (admission.n_in_use, admission.n_waiting, admission.n_held)
        waiting[0].result().release()
        (await waiting[2]).release()
        waiting[1].result().release()
        assert (0, 0) == (admission.n_in_use, admission.n_waiting)

    asyncio.run(scenario())
