"""One request's stream of events: in order, with signs of silence, and with an end."""

import asyncio
from collections.abc import Sequence

import pytest

from service.errors import EngineDied, InvalidRequest, ServiceError, ShuttingDown
from service.fleet.ticket import Ticket
from service.protocol import Accepted, Delta

DELTAS = [Delta(7, "a", 1), Delta(7, "", 2), Delta(7, "b", 3, "stop")]


def ticket(*events: Accepted | Delta | ServiceError) -> Ticket:
    """Return a ticket to which *events* have come."""
    made = Ticket(7, lambda _number: None)
    for event in events:
        made.put(event)
    return made


async def collect(of: Ticket, idle_s: float = 5.0) -> list[Delta | None]:
    """Return everything that *of* yields."""
    return [delta async for delta in of.deltas(idle_s)]


def test_accepted_when_the_engine_takes_it() -> None:
    """The prompt's length comes first."""

    async def scenario() -> int:
        return await ticket(Accepted(7, 12), *DELTAS).accepted()

    assert 12 == asyncio.run(scenario())


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("too long", param="messages", code="context_length_exceeded"),
        EngineDied("gone"),
        ShuttingDown("ending"),
    ],
)
def test_accepted_when_it_is_refused(error: ServiceError) -> None:
    """The very error is raised, before any answer has begun."""

    async def scenario() -> None:
        await ticket(error).accepted()

    with pytest.raises(ServiceError) as caught:
        asyncio.run(scenario())

    assert error is caught.value


def test_deltas_when_all_are_there() -> None:
    """They come in order and end with the finish reason, whatever might follow."""

    async def scenario() -> list[Delta | None]:
        return await collect(ticket(*DELTAS, Delta(7, "late", 4)))

    assert DELTAS == asyncio.run(scenario())


def test_deltas_when_they_come_one_by_one() -> None:
    """Each is handed on as it comes."""

    async def scenario() -> list[Delta | None]:
        mine = ticket()
        reading = asyncio.create_task(collect(mine))
        for delta in DELTAS:
            await asyncio.sleep(0)
            mine.put(delta)
        return await reading

    assert DELTAS == asyncio.run(scenario())


def test_deltas_when_nothing_comes() -> None:
    """Silence is told, again and again, and the stream goes on afterwards."""

    async def scenario() -> list[Delta | None]:
        mine = ticket()
        found: list[Delta | None] = []
        async for delta in mine.deltas(0.005):
            found.append(delta)
            if len(found) == 2:
                for event in DELTAS:
                    mine.put(event)
        return found

    assert [None, None, *DELTAS] == asyncio.run(scenario())


def test_deltas_when_silence_ends_just_then() -> None:
    """A delta that comes in the moment the patience ends is not lost."""

    async def scenario(delays_s: Sequence[float]) -> list[Delta | None]:
        mine = ticket()
        loop = asyncio.get_running_loop()
        for i, delay_s in enumerate(delays_s):
            last = i == len(delays_s) - 1
            loop.call_later(delay_s, mine.put, Delta(7, str(i), i, "stop" if last else None))
        return await collect(mine, idle_s=0.002)

    found = asyncio.run(scenario([0.002 * i + 0.00001 * i for i in range(1, 30)]))

    assert [str(i) for i in range(29)] == [delta.text for delta in found if delta is not None]


def test_deltas_when_something_breaks() -> None:
    """What came before the error is given, then the error is raised."""

    async def scenario() -> list[str]:
        found: list[str] = []
        reading = ticket(DELTAS[0], EngineDied("gone")).deltas(5.0)
        try:
            async for delta in reading:
                assert delta is not None
                found.append(delta.text)
        except EngineDied:
            return found
        raise AssertionError("it ended as if all were well")

    assert ["a"] == asyncio.run(scenario())


def test_close_gives_the_number_back() -> None:
    """Whoever gave the ticket out hears which one is closed."""
    closed: list[int] = []
    Ticket(7, closed.append).close()

    assert [7] == closed
