"""One request's events: in order, with signs of silence, and with an end when all its jobs have one."""

import asyncio
from collections.abc import Sequence

import pytest

from service.errors import EngineDied, InvalidRequest, ServiceError, ShuttingDown
from service.fleet.ticket import Ticket
from service.protocol import Accepted, Delta

DELTAS = [Delta(7, "a", 1), Delta(7, "", 2), Delta(7, "b", 3, "stop")]
OTHERS = [Delta(8, "c", 1), Delta(8, "d", 2, "length")]


def ticket(*events: Accepted | Delta | ServiceError, n_jobs: int = 1) -> Ticket:
    """Return a ticket of *n_jobs*, from number 7 on, to which *events* have come."""
    made = Ticket(range(7, 7 + n_jobs), lambda _number: None)
    for event in events:
        made.put(event)
    return made


async def collect(of: Ticket, idle_s: float = 5.0) -> list[Delta | None]:
    """Return everything that *of* yields."""
    return [delta async for delta in of.deltas(idle_s)]


def test_accepted_when_the_engine_takes_it() -> None:
    """The prompt's length comes first."""

    async def scenario() -> tuple[int, ...]:
        return await ticket(Accepted(7, 12), *DELTAS).accepted()

    assert (12,) == asyncio.run(scenario())


def test_accepted_when_there_are_several_jobs() -> None:
    """All prompts' lengths, in the jobs' order; what the first says meanwhile is not lost."""

    async def scenario() -> tuple[tuple[int, ...], list[Delta | None]]:
        mine = ticket(Accepted(8, 20), *OTHERS, Accepted(7, 10), *DELTAS, n_jobs=2)
        return await mine.accepted(), await collect(mine)

    assert ((10, 20), [*OTHERS, *DELTAS]) == asyncio.run(scenario())


def test_accepted_when_one_of_several_is_refused() -> None:
    """One refusal is the whole request's, also behind what another has begun to say."""

    async def scenario() -> None:
        refused = InvalidRequest("too long")
        await ticket(Accepted(7, 1), DELTAS[0], refused, n_jobs=2).accepted()

    with pytest.raises(InvalidRequest):
        asyncio.run(scenario())


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


def test_deltas_of_several_jobs() -> None:
    """They come as the engine sent them, until each job has its end; the index tells whose they are."""

    async def scenario() -> list[tuple[int, str]]:
        mixed = [DELTAS[0], OTHERS[0], *DELTAS[1:], OTHERS[1], Delta(8, "late", 3)]
        mine = ticket(*mixed, n_jobs=2)
        return [(mine.index_of(each), each.text) async for each in mine.deltas(5.0) if each]

    assert [(0, "a"), (1, "c"), (0, ""), (0, "b"), (1, "d")] == asyncio.run(scenario())


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


def test_close_gives_the_numbers_back() -> None:
    """Whoever gave the ticket out hears which jobs are closed."""
    closed: list[int] = []
    Ticket(range(7, 10), closed.append).close()

    assert [7, 8, 9] == closed
