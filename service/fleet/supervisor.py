"""
One engine process: started, watched, restarted, ended.

Death is seen at once, both ways: the engine's as the end of file on our end of the socket pair, ours as
the end of file on its end. A death costs the requests in flight and nothing else; the next life begins
after a short pause. After `MAX_QUICK_DEATHS` in a row the model stays FAILED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from service.errors import EngineDied, InternalError, InvalidRequest, ServiceError, ShuttingDown
from service.fleet.lifecycle import RETRY_AFTER_S, Lifecycle, State
from service.fleet.ticket import Ticket
from service.protocol import (
    Accepted,
    Cancel,
    Cancelled,
    Delta,
    Detokenize,
    Detokenized,
    Failed,
    FrameSplitter,
    FromEngine,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Prompt,
    Rejected,
    Step,
    Submit,
    ToEngine,
    Tokenize,
    Tokenized,
    WarmedUp,
    frame,
    from_engine_decoder,
)
from service.telemetry import Metrics

_log = logging.getLogger(__name__)

ROOT = str(Path(__file__).resolve().parents[2])
ENGINE_COMMAND = (sys.executable, "-m", "service.engine")
MAX_QUICK_DEATHS = 3
QUICK_DEATH_S = 10.0
PAUSES_S = (0.1, 1.0)
STALL_S = 120.0
EXIT_S = 1.0


class Supervisor:
    """
    Keeps one engine process alive and carries messages to and from it.

    Args:
        load: what each life is told to load.
        lifecycle: the model's state, moved as the engine's messages come.
        metrics: where deaths and tokens are counted.
        command: argv of the engine; the number of its socket is appended.
        stall_s: seconds without a word, while there is work, after which it is killed.
        pauses_s: waits after the first, second and later quick deaths.
    """

    def __init__(
        self,
        load: Load,
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        stall_s: float = STALL_S,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self.lifecycle = lifecycle
        self._load = load
        self._metrics = metrics
        self._command = tuple(command)
        self._stall_s = stall_s
        self._pauses_s = pauses_s
        self._next_number = 1
        self._tickets: dict[int, Ticket] = {}
        self._questions: dict[int, asyncio.Future[Tokenized | Detokenized]] = {}
        self._cancelled: set[int] = set()
        self._link: _Link | None = None
        self._is_idle = asyncio.Event()
        self._load_failure: str | None = None
        self._healthy_since_s: float | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the first life; returns at once. Needs a running event loop."""
        self._keeper = asyncio.create_task(self._keep_alive(), name="supervisor")

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """
        Send *jobs*, at least one, to the engine; returns at once.

        Raises:
            ModelNotReady: there is no engine that takes requests.
            ShuttingDown: the server is ending.
        """
        link = self._open_link()
        ticket = Ticket(self._take_numbers(len(jobs)), self._close_ticket)
        for number, job in zip(ticket.numbers, jobs, strict=True):
            link.send(Submit(number, job))
            self._tickets[number] = ticket
        return ticket

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        """
        Return the tokens of *prompt*; nothing is generated, so it needs no permit.

        Raises:
            ServiceError: as `submit`, or the model can't take this prompt.
        """
        answer = await self._ask(lambda number: Tokenize(number, prompt))
        assert isinstance(answer, Tokenized), answer
        return answer

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """
        Return the text of token *ids*.

        Raises:
            ServiceError: as `submit`, or the model has no such tokens.
        """
        answer = await self._ask(lambda number: Detokenize(number, ids))
        assert isinstance(answer, Detokenized), answer
        return answer.text

    async def _ask(
        self, question: Callable[[int], Tokenize | Detokenize]
    ) -> Tokenized | Detokenized:
        link = self._open_link()
        (number,) = self._take_numbers(1)
        self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            link.send(question(number))
            return await self._questions[number]
        finally:
            del self._questions[number]

    def _take_numbers(self, n: int) -> range:
        """Return *n* numbers that were never used."""
        first = self._next_number
        self._next_number += n
        return range(first, first + n)

    def _open_link(self) -> _Link:
        if self._link is None or self.lifecycle.healthy_card is None:
            raise self.lifecycle.refusal()
        return self._link

    async def drain(self, deadline_s: float) -> None:
        """Take no more requests; let the running ones finish for *deadline_s* seconds, then fail them."""
        self.lifecycle.draining()
        if self._tickets:
            self._is_idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self._is_idle.wait()
        self._fail_all(ShuttingDown("The server is shutting down.", retry_after_s=RETRY_AFTER_S))

    async def stop(self) -> None:
        """End the engine process and wait until it is gone, about a second at most."""
        await self.drain(0)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        self.lifecycle.stopped()

    async def _keep_alive(self) -> None:
        n_quick_deaths = 0
        while True:
            reason = await self._live()
            self._metrics.engine_deaths.inc()
            _log.error("The engine ended: %s", reason)
            self._fail_all(EngineDied("The engine process ended while it worked on the request."))
            if self.lifecycle.state is State.DRAINING:
                return
            self.lifecycle.failed(reason)
            n_quick_deaths = n_quick_deaths + 1 if self._was_quick() else 0
            if n_quick_deaths >= MAX_QUICK_DEATHS:
                _log.error("The engine ended %d times in a row; it stays down.", n_quick_deaths)
                return
            await asyncio.sleep(
                self._pauses_s[min(max(n_quick_deaths, 1), len(self._pauses_s)) - 1]
            )
            if self.lifecycle.state is not State.FAILED:  # the server began to end meanwhile
                return
            self.lifecycle.starting_again()

    def _was_quick(self) -> bool:
        """Tell whether the life that ended served for no time worth the name."""
        since_s = self._healthy_since_s
        return since_s is None or time.monotonic() - since_s < QUICK_DEATH_S

    async def _live(self) -> str:
        """Run one engine process to its end; return why it ended."""
        self._load_failure = None
        self._healthy_since_s = None
        self._cancelled.clear()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await self._spawn(theirs)
        except OSError as error:
            ours.close()
            return f"its process could not be started: {error.strerror}"
        except BaseException:
            ours.close()
            raise
        fault = None
        try:
            fault = await self._converse(ours)
        finally:
            code = await _end(process, EXIT_S if fault is None else 0)
        return self._load_failure or fault or _describe_exit(code)

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        # A session of its own: a Ctrl-C in the terminal is for us to pass on, by closing the socket.
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        return await asyncio.create_subprocess_exec(
            *self._command,
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    async def _converse(self, ours: socket.socket) -> str | None:
        """Carry messages until the engine's end closes; return why it must be killed, if it must."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: _Link(self._on_message), sock=ours)
        self._link = link
        try:
            link.send(self._load)
            if self.lifecycle.state is State.STARTING:
                self.lifecycle.loading()
            return await self._watch(link)
        finally:
            self._link = None
            link.close()

    async def _watch(self, link: _Link) -> str | None:
        """Wait for the link's end; return why the engine must be killed, if it must."""
        while True:
            await asyncio.wait({link.closed}, timeout=min(1.0, self._stall_s / 4))
            if link.closed.done():
                return link.fault
            owes_an_answer = (
                self._tickets
                or self._questions
                or self._cancelled
                or self.lifecycle.state is State.WARMING
            )
            if not owes_an_answer:
                link.heard_s = time.monotonic()
            elif time.monotonic() - link.heard_s > self._stall_s:
                return f"it made no progress for {self._stall_s:g} s and was killed"

    def _on_message(self, message: FromEngine) -> None:
        match message:
            case Step(deltas):
                for delta in deltas:
                    self._deliver(delta)
            case Accepted(number, n_prompt_tokens):
                self._metrics.prompt_tokens.inc(n_prompt_tokens)
                if ticket := self._tickets.get(number):
                    ticket.put(message)
            case Tokenized(number) | Detokenized(number):
                if (question := self._questions.get(number)) and not question.done():
                    question.set_result(message)
            case Rejected(number, text, param, code):
                self._fail(number, InvalidRequest(text, param=param, code=code))
            case Cancelled(number):
                self._cancelled.discard(number)
            case Failed(number):
                self._fail(number, InternalError("The engine failed on this request."))
            case Loaded(card, budget):
                if self.lifecycle.state is State.LOADING:
                    self._healthy_since_s = time.monotonic()
                    self.lifecycle.warming(card, budget)
            case WarmedUp(error):
                if self.lifecycle.state is State.WARMING:
                    self.lifecycle.warmed(error)
            case LoadFailed(reason):
                self._load_failure = reason

    def _deliver(self, delta: Delta) -> None:
        if ticket := self._tickets.get(delta.ticket):
            ticket.put(delta)
        if delta.finish_reason is not None:
            self._metrics.completion_tokens.inc(delta.n_completion_tokens)
            self._forget(delta.ticket)

    def _close_ticket(self, number: int) -> None:
        if self._forget(number) is not None and self._link is not None:
            self._cancelled.add(number)
            self._link.send(Cancel(number))

    def _forget(self, number: int) -> Ticket | None:
        ticket = self._tickets.pop(number, None)
        if not self._tickets:
            self._is_idle.set()
        return ticket

    def _fail(self, number: int, error: ServiceError) -> None:
        if ticket := self._forget(number):
            ticket.put(error)
        elif (question := self._questions.get(number)) and not question.done():
            question.set_exception(error)

    def _fail_all(self, error: ServiceError) -> None:
        for number in [*self._tickets, *self._questions]:
            self._fail(number, error)


class _Link(asyncio.Protocol):
    """
    Our end of the socket pair.

    Attributes:
        closed: done when the engine's end is gone.
        heard_s: monotonic seconds of its last word.
        fault: what was wrong with its words; None: nothing.
    """

    def __init__(self, on_message: Callable[[FromEngine], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard_s = time.monotonic()
        self.fault: str | None = None
        self._on_message = on_message
        self._splitter = FrameSplitter()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_s = time.monotonic()
        try:
            for body in self._splitter.feed(data):
                self._on_message(from_engine_decoder.decode(body))
        except (ValueError, msgspec.ValidationError):
            _log.exception("The engine sent what is no message; its link is closed.")
            self.fault = "it sent what is no message and was killed"
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: ToEngine) -> None:
        """Send *message*; to a dead engine it is dropped, since its end is about to be seen."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def close(self) -> None:
        """Close our end; the engine takes that as its order to exit."""
        if self._transport is not None:
            self._transport.close()


async def _end(process: asyncio.subprocess.Process, patience_s: float) -> int:
    """Give *process* some seconds to exit by itself, then kill it; return its exit status."""
    exited = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({exited}, timeout=patience_s)
    finally:  # also if whoever waits here is cancelled: a killed process is gone in no time
        if not exited.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await _see_through(exited)
    return exited.result()


async def _see_through(task: asyncio.Task[int]) -> None:
    """Wait until *task* is done, and only then be cancelled, if anyone asked for it meanwhile."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"its process exited with status {code}"
    names = (known.name for known in signal.Signals if known == -code)
    return f"its process was ended by {next(names, f'signal {-code}')}"
