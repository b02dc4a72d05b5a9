"""Streams are events of one line each, and end the same way whatever happened."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from service import contracts
from service.errors import EngineDied, ShuttingDown
from service.web import sse

DONE = b"data: [DONE]\n\n"
BROKEN: list[str] = []  # the codes that the last stream told


async def chunks(
    items: Sequence[dict[str, Any] | None], error: BaseException | None = None
) -> AsyncIterator[dict[str, Any] | None]:
    """Yield *items*, then break with *error*."""
    for item in items:
        yield item
    if error is not None:
        raise error


def streamed(*items: dict[str, Any] | None, error: BaseException | None = None) -> list[bytes]:
    """Return the pieces of the stream that *items* become."""

    async def scenario() -> list[bytes]:
        return [piece async for piece in sse.stream(chunks(items, error), BROKEN.append)]

    BROKEN.clear()
    return asyncio.run(scenario())


def data_of(event: bytes) -> Any:
    """Return the JSON of one event."""
    return json.loads(event.removeprefix(b"data: "))


@pytest.mark.parametrize(
    "text", ["", "plain", "a\nb", "\n\ndata: [DONE]\n\n", "\r", "\r\n", "\u2028\u2029\x85", "\0", "\x1b"]
)  # fmt: skip
def test_event_is_one_line(text: str) -> None:
    """Whatever a model says, its event is one `data` line between which nothing slips."""
    event = sse.event({"text": text})

    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert b"\n" not in event[:-2]
    assert b"\r" not in event
    assert {"text": text} == data_of(event)


def test_event_with_a_name() -> None:
    """Where an interface names its events, the name is the type of what they carry."""
    event = sse.named_event({"type": "response.created", "text": "a\nb"})

    assert b'event: response.created\ndata: {"type":"response.created","text":"a\\nb"}\n\n' == event


def test_stream_in_another_interface() -> None:
    """Its events are named, its errors are its own, and it needs no last word."""

    async def scenario() -> list[bytes]:
        events = sse.stream(
            chunks([{"type": "a"}, None], EngineDied("gone")),
            BROKEN.append,
            encode=sse.named_event,
            explain=lambda error: {"type": "error", "code": error.code},
            end=b"",
        )
        return [piece async for piece in events]

    error = sse.named_event({"type": "error", "code": "engine_died"})

    assert [sse.named_event({"type": "a"}), b": ping\n\n", error] == asyncio.run(scenario())


def test_stream_when_all_goes_well() -> None:
    """Each chunk is an event, and `[DONE]` comes once at the end."""
    assert [sse.event({"i": 1}), sse.event({"i": 2}), DONE] == streamed({"i": 1}, {"i": 2})


def test_stream_when_empty() -> None:
    """Even a stream of nothing ends."""
    assert [DONE] == streamed()


def test_stream_when_quiet() -> None:
    """Silence is a comment, which clients skip."""
    pieces = streamed(None, {"i": 1}, None)

    assert [b": ping\n\n", sse.event({"i": 1}), b": ping\n\n", DONE] == pieces


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineDied("The engine died."), "engine_died"),
        (ShuttingDown("Ending."), "shutting_down"),
        (ValueError("s3cret /etc/passwd"), "internal_error"),
        (AssertionError("s3cret"), "internal_error"),
    ],
)
def test_stream_when_something_breaks(error: Exception, code: str) -> None:
    """The error is the last event but `[DONE]`, in the envelope, and a bug's text stays inside."""
    first, event, *rest = streamed({"i": 1}, error=error)
    contracts.check("error", data_of(event))

    assert sse.event({"i": 1}) == first
    assert code == data_of(event)["error"]["code"]
    assert [DONE] == rest
    assert b"s3cret" not in event


def test_stream_when_a_chunk_cannot_be_written() -> None:
    """A text that is no text costs its own stream, which still ends as it should."""
    _, event, *rest = streamed({"i": 1}, {"text": "\ud800"}, {"i": 3})

    assert "internal_error" == data_of(event)["error"]["code"]
    assert [DONE] == rest


def test_stream_when_cancelled() -> None:
    """A client that left is owed nothing: no error, no `[DONE]`, and the cancellation goes on."""

    async def scenario() -> list[bytes]:
        found: list[bytes] = []

        async def forever() -> AsyncIterator[dict[str, Any] | None]:
            yield {"i": 1}
            await asyncio.Event().wait()

        async def read() -> None:
            async for piece in sse.stream(forever(), BROKEN.append):
                found.append(piece)

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        return found

    assert [sse.event({"i": 1})] == asyncio.run(scenario())


def test_stream_tells_how_it_broke() -> None:
    """The status was 200 long ago; whoever counts gets the code of the error, once."""
    streamed({"i": 1})
    assert [] == BROKEN
    streamed({"i": 1}, error=EngineDied("gone"))
    assert ["engine_died"] == BROKEN
    streamed({"i": 1}, error=RuntimeError("bug"))
    assert ["internal_error"] == BROKEN
