"""Our end of the socket pair: what comes in, what goes out, and its end, on both event loops that serve."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from service.fleet.link import BUFFER_BYTES, Link, socket_pair
from service.protocol import Cancel, FrameSplitter, Step, Text, Tokenize, frame, to_engine_decoder

NONSENSE = struct.pack(">I", 3) + b"\xc1\xc1\xc1"
LIMIT_S = 5.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario on one of the loops that uvicorn and gunicorn take."""

    def run_(scenario: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT_S):
                await scenario()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(limited())

    return run_


class Heard:
    """
    A link and what it told.

    Attributes:
        link: what is tested.
        engine: the other end.
        messages: what was heard.
        ends: what was told of the end, each time that it was told.
    """

    def __init__(self, engine: socket.socket) -> None:
        self.engine = engine
        self.messages: list[object] = []
        self.ends: list[str | None] = []
        self.link = Link(self.messages.append, self.ends.append)


@asynccontextmanager
async def linked() -> AsyncIterator[Heard]:
    """Make a link over a real socket pair; the other end is closed in the end."""
    ours, theirs = socket_pair()
    with theirs:
        heard = Heard(theirs)
        await asyncio.get_running_loop().create_connection(lambda: heard.link, sock=ours)
        try:
            yield heard
        finally:
            heard.link.end()
            await asyncio.sleep(0)  # asyncio closes the socket in the next turn


def test_messages_are_heard_in_order(run: Run) -> None:
    """However the socket chops them."""

    async def scenario() -> None:
        async with linked() as heard:
            data = frame(Step(())) * 3
            heard.engine.sendall(data[:5])
            await asyncio.sleep(0.01)
            heard.engine.sendall(data[5:])
            while len(heard.messages) < 3:  # noqa: ASYNC110 (what comes, comes from a socket)
                await asyncio.sleep(0.001)
            assert [Step(())] * 3 == heard.messages
            assert [] == heard.ends

    run(scenario)


def test_messages_are_sent(run: Run) -> None:
    """The other end reads what was said."""

    async def scenario() -> None:
        async with linked() as heard:
            heard.link.send(Cancel(7))
            await asyncio.sleep(0)
            (body,) = FrameSplitter().feed(heard.engine.recv(1024))
            assert Cancel(7) == to_engine_decoder.decode(body)

    run(scenario)


def test_end_of_file_is_told_once(run: Run) -> None:
    """The engine's end closes: told after its last words, without a fault, and never again."""

    async def scenario() -> None:
        async with linked() as heard:
            heard.engine.sendall(frame(Step(())))
            heard.engine.close()
            assert await heard.link.ended is None
            assert ([Step(())], [None]) == (heard.messages, heard.ends)
            await asyncio.sleep(0.01)
            heard.link.end("too late")
            assert [None] == heard.ends

    run(scenario)


@pytest.mark.parametrize("way", ["end of file", "nonsense"])
def test_end_is_told_although_the_engine_reads_nothing(way: str, run: Run) -> None:
    """What could not be sent yet is not waited for."""

    async def scenario() -> None:
        async with linked() as heard:
            for number in range(40):
                heard.link.send(Tokenize(number, Text("x" * 100_000)))
            await asyncio.sleep(0)
            if way == "nonsense":
                heard.engine.sendall(NONSENSE)
            else:
                heard.engine.shutdown(socket.SHUT_WR)
            fault = await heard.link.ended
            assert (way == "nonsense") == (fault is not None and "no message" in fault)
            assert [fault] == heard.ends

    run(scenario)


def test_words_before_nonsense_are_heard(run: Run) -> None:
    """A message is a message, whatever comes behind it."""

    async def scenario() -> None:
        async with linked() as heard:
            heard.engine.sendall(frame(Step(())) + NONSENSE + frame(Step(())))
            await heard.link.ended
            assert [Step(())] == heard.messages

    run(scenario)


def test_end_of_our_own_is_told_in_the_same_turn(run: Run) -> None:
    """Who ends it has been told when the call returns; the engine reads an end of file."""

    async def scenario() -> None:
        async with linked() as heard:
            heard.link.end("it was slow")
            assert ["it was slow"] == heard.ends
            heard.link.send(Cancel(7))
            await asyncio.sleep(0.01)
            assert b"" == heard.engine.recv(1024)

    run(scenario)


def test_link_that_ends_before_it_is_made() -> None:
    """A start that is broken off has an end as well."""

    async def scenario() -> list[str | None]:
        ends: list[str | None] = []
        Link(lambda _: None, ends.append).end()
        return ends

    assert [None] == asyncio.run(scenario())


@pytest.mark.parametrize("option", ["SO_SNDBUF", "SO_RCVBUF"])
def test_both_ends_have_room_for_several_steps(option: str) -> None:
    """Whatever the system's own sizes are: 8 KB on a Mac."""
    for end in socket_pair():
        with end:
            assert BUFFER_BYTES <= end.getsockopt(socket.SOL_SOCKET, getattr(socket, option))
