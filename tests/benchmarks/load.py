"""
A load generator that costs little: raw sockets on one event loop, chunks timed and counted, not parsed.

The machine has few cores and the client shares them with what it measures. Whatever goes wrong with a
request is a failure of that request, kept with its reason; nothing is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Questions with long answers: each of the counted tokens is text, and so a chunk of its own.
LONG = (
    "Tell me everything about this server.",
    "Explain all settings.",
    "What happens to a request?",
)
PROMPTS = tuple(LONG[i % len(LONG)] for i in range(8))
N_TOKENS = 128
NOT_ENDED = "not ended in time"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d+)")
_SPOKEN = re.compile(rb'"(?:content|arguments)": ?"(?!")')
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_PREFILL = re.compile(rb'"prefill_s": ?([\d.e-]+)')
_MESSAGE = re.compile(rb'"message": ?("(?:[^"\\]|\\.)*")')
MAX_MESSAGE = 200


@dataclass(frozen=True)
class Ask:
    """
    One request of a client.

    Attributes:
        messages: what it adds to the conversation. If the first is a user's, the answer to the ask before
            is added in front of it; else the conversation goes on as it was written beforehand.
        n_tokens: the longest answer.
        fields: what else the body has.
        is_measured: whether its times count; failures always do.
    """

    messages: tuple[Mapping[str, Any], ...]
    n_tokens: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    is_measured: bool = True


@dataclass(frozen=True)
class Client:
    """One conversation, *at_s* seconds after the start of all; each ask waits for the answer before it."""

    asks: tuple[Ask, ...]
    at_s: float = 0.0


@dataclass
class Answer:
    """
    What came for one ask; times are seconds of one clock.

    Attributes:
        first_s: when the first text came.
        gaps_s: from one chunk of text to the next; none between those that came together.
        prefill_s: what the engine says that reading the prompt took, if it does.
        failure: why there is no whole answer.
    """

    is_measured: bool
    began_s: float
    first_s: float | None = None
    ended_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    n_tokens: int = 0
    prefill_s: float | None = None
    failure: str | None = NOT_ENDED


@dataclass
class Target:
    """Where requests go, and under which name the model is known there."""

    port: int
    model: str


def body(target: Target, messages: Sequence[Mapping[str, Any]], ask: Ask) -> bytes:
    """Return the request of *ask* as JSON: greedy, and streamed with its usage, unless its fields differ."""
    return json.dumps(
        {
            "model": target.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": ask.n_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **ask.fields,
        }
    ).encode()


async def send_all(
    target: Target, clients: Sequence[Client], limit_s: float, at_once: int | None = None
) -> list[Answer]:
    """
    Let all *clients* ask, at most *at_once* of them at a time, and return what came.

    After *limit_s* seconds all is broken off, and what has not ended is a failure.
    """
    permits = asyncio.Semaphore(at_once or len(clients))
    answers: list[Answer] = []
    began_s = time.perf_counter()

    async def turn(client: Client) -> None:
        await asyncio.sleep(began_s + client.at_s - time.perf_counter())
        async with permits:
            await converse(target, client, answers)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(turn(client) for client in clients))
    never_sent = sum(len(client.asks) for client in clients) - len(answers)
    now_s = time.perf_counter()
    return answers + [Answer(False, began_s=now_s, ended_s=now_s) for _ in range(never_sent)]


async def converse(target: Target, client: Client, answers: list[Answer]) -> None:
    """Make the asks of one client, one after the other, and add what comes to *answers*."""
    messages: list[Mapping[str, Any]] = []
    said = ""
    for i, ask in enumerate(client.asks):
        if i and ask.messages[0]["role"] == "user":
            messages.append({"role": "assistant", "content": said})
        messages.extend(ask.messages)
        answer = Answer(ask.is_measured, began_s=time.perf_counter())
        answers.append(answer)
        raw = bytearray()
        try:
            await exchange(target.port, body(target, messages, ask), answer, raw)
        except OSError as error:
            answer.failure = type(error).__name__
        finally:
            answer.ended_s = time.perf_counter()
        if i + 1 < len(client.asks):
            said = text_of(bytes(raw))


async def exchange(port: int, payload: bytes, answer: Answer, raw: bytearray) -> None:
    """
    Send one request and read its stream to the end into *raw*; note what is seen in *answer*.

    Raises:
        OSError: the connection was refused or cut.
    """
    loop = asyncio.get_running_loop()
    stream = Stream(answer, raw, loop.create_future())
    transport, _ = await loop.create_connection(lambda: stream, "127.0.0.1", port)
    try:
        transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload
        )
        await stream.over
    finally:
        transport.close()
    judge(bytes(raw), answer)


class Stream(asyncio.Protocol):
    """What comes over one connection, timed as it comes; no task is woken before it is *over*."""

    def __init__(self, answer: Answer, raw: bytearray, over: asyncio.Future[None]) -> None:
        self._answer = answer
        self._raw = raw
        self._last_s: float | None = None
        self.over = over

    def data_received(self, data: bytes) -> None:
        """Keep *data*, and when it came if there is text in it."""
        self._raw += data
        n_chunks = len(_SPOKEN.findall(data))
        if not n_chunks:
            return
        now_s = time.perf_counter()
        if self._last_s is None:
            self._answer.first_s = self._last_s = now_s
            n_chunks -= 1
        if n_chunks:
            self._answer.gaps_s += [now_s - self._last_s, *[0.0] * (n_chunks - 1)]
        self._last_s = now_s

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that all has come, or why not."""
        if self.over.done():
            return
        if exc is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(exc)


def judge(raw: bytes, answer: Answer) -> None:
    """Read status, usage and timings from a whole response; without usage it is a failure, told in words."""
    status, usage = _STATUS.match(raw), _USAGE.search(raw[-2048:])
    if status is None or usage is None:
        answer.failure = f"status {status[1].decode()}{_message(raw)}" if status else "no answer"
        return
    prefill = _PREFILL.search(raw[-2048:])
    answer.n_tokens = int(usage[1])
    answer.prefill_s = float(prefill[1]) if prefill else None
    answer.failure = None


def _message(raw: bytes) -> str:
    """Return what an answer says of its error, after a colon, on one line; nothing if it says nothing."""
    found = _MESSAGE.search(raw)
    with contextlib.suppress(ValueError):
        return f": {' '.join(json.loads(found[1]).split())[:MAX_MESSAGE]}" if found else ""
    return ""


def text_of(raw: bytes) -> str:
    """Return the text that the chunks of a stream make."""
    said = ""
    for line in raw.decode("utf-8", "replace").splitlines():
        if not line.startswith('data: {"'):
            continue
        with contextlib.suppress(ValueError, LookupError, TypeError):
            said += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    return said
