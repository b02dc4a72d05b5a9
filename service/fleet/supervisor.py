"""
One engine process: started, watched, restarted, ended.

Death is seen at once, both ways: the engine's as the end of file on our end of the socket pair, ours as
the end of file on its end. Where the link ends, the state leaves READY and everyone who waits for the
engine is told, in that very turn of the loop; what the process itself died of is known a little later, when
it has been reaped. A death costs the requests in flight and nothing else; the next life begins after a
short pause. After `MAX_QUICK_DEATHS` in a row the model stays FAILED.

Two questions have one place each to ask. Is there an engine that takes requests? The lifecycle's state,
which moves with the link. What does the engine still owe, and to whom? `_owed`, cancels included.
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
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.errors import (
    EngineDied,
    InternalError,
    InvalidRequest,
    NumericalError,
    PromptTooLong,
    ServiceError,
    ShuttingDown,
)
from service.fleet.lifecycle import RETRY_AFTER_S, Lifecycle, State
from service.fleet.link import Link, socket_pair
from service.fleet.ticket import Ticket
from service.fleet.watch import Watch
from service.protocol import (
    Accepted,
    CacheFault,
    Cancel,
    Cancelled,
    Delta,
    Detokenize,
    Detokenized,
    Downloading,
    Embed,
    Embedded,
    Failed,
    Figures,
    FromEngine,
    Heartbeat,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Prompt,
    Rejected,
    Score,
    Scored,
    Step,
    Submit,
    Text,
    Tokenize,
    Tokenized,
    Tokens,
    WarmedUp,
)
from service.telemetry import Metrics

_log = logging.getLogger(__name__)

ROOT = str(Path(__file__).resolve().parents[2])
ENGINE_COMMAND = (sys.executable, "-m", "service.engine")
MAX_QUICK_DEATHS = 3
QUICK_DEATH_S = 10.0
PAUSES_S = (0.1, 1.0)
STALL_S = 30.0
LOAD_S = 600.0
LOOK_S = 0.25  # taste: a stall is to be told within a second of its time
FIRST_STEPS_PATIENCE = 4.0  # taste: the first steps of a life compile kernels and touch all weights
EXIT_S = 1.0
HEIR_S = (
    0.1  # taste: the last words of a process that is gone are there already, and need but be read
)

_Answer = Tokenized | Detokenized | Embedded | Scored
_Question = asyncio.Future[_Answer]


class Supervisor:
    """
    Keeps one engine process alive and carries messages to and from it.

    Args:
        load: what each life is told to load.
        lifecycle: the model's state, moved as the engine's messages come.
        metrics: where tokens are counted.
        command: argv of the engine; the number of its socket is appended.
        stall_s: seconds without progress, while there is work, after which it is killed.
        load_s: longest time to load, downloads not counted, in seconds.
        memory_bytes: most memory that it may hold; None: any.
        pauses_s: waits after the first, second and later quick deaths.

    Attributes:
        n_starts: engine processes that were started.
        n_deaths: those that ended unasked.
        n_cache_faults: times that the prefix cache on disk was given up.
    """

    def __init__(
        self,
        load: Load,
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        stall_s: float = STALL_S,
        load_s: float = LOAD_S,
        memory_bytes: int | None = None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self.lifecycle = lifecycle
        self._load = load
        self._metrics = metrics
        self._command = tuple(command)
        self._stall_s = stall_s
        self._load_s = load_s
        self._memory_bytes = memory_bytes
        self._pauses_s = pauses_s
        self.n_starts = self.n_deaths = self.n_cache_faults = 0
        self._next_number = 1
        # Who waits for an answer, by its number; None: nobody any more, it was cancelled, and the engine
        # has yet to say that it knows.
        self._owed: dict[int, Ticket | _Question | None] = {}
        self._unread: set[int] = set()  # of those: whom the text worker has not answered yet
        self._progress = Watch()
        self._load_ends_s: float | None = None  # None: the model is loaded, or being downloaded
        self._link: Link | None = (
            None  # of the last life; whether it still goes on, the lifecycle says
        )
        self._is_idle = asyncio.Event()
        self._load_failure: str | None = None
        self._is_hopeless = False  # the model can't be loaded, now or later
        self._healthy_since_s: float | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def n_owed(self) -> int:
        """How many jobs, questions and cancels the engine has not answered yet."""
        return len(self._owed)

    @property
    def memory_bytes(self) -> int:
        """Most memory that this engine process was seen to hold, as it tells itself."""
        return self._progress.memory_bytes

    @property
    def figures(self) -> Figures | None:
        """What the engine that serves has measured of itself; None: there is none."""
        return self._progress.figures if self.lifecycle.healthy_card is not None else None

    def start(self) -> None:
        """Begin the first life, at all or after `unload`; returns at once. Needs a running event loop."""
        if self.lifecycle.state is not State.STARTING:
            self.lifecycle.starting()
        self._is_hopeless = False
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
            self._owed[number] = ticket
            self._unread.add(number)
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

    async def embed(
        self,
        inputs: tuple[Text | Tokens, ...],
        prompt_name: str | None = None,
        dimensions: int | None = None,
    ) -> Embedded:
        """
        Return the vectors of *inputs*, as `Embed` tells of them; to be asked with a permit.

        Raises:
            ServiceError: as `submit`, or the model can't do this with these inputs.
        """
        answer = await self._ask(lambda number: Embed(number, inputs, prompt_name, dimensions))
        assert isinstance(answer, Embedded), answer
        return answer

    async def score(
        self, queries: tuple[str, ...], documents: tuple[str, ...], params: tuple[str, str]
    ) -> Scored:
        """
        Return how well *documents* answer *queries*, as `Score` tells of them; to be asked with a permit.

        Raises:
            ServiceError: as `submit`, or the model can't read one of them.
        """
        answer = await self._ask(lambda number: Score(number, queries, documents, params))
        assert isinstance(answer, Scored), answer
        return answer

    async def _ask(
        self, question: Callable[[int], Tokenize | Detokenize | Embed | Score]
    ) -> _Answer:
        link = self._open_link()
        (number,) = self._take_numbers(1)
        answer: _Question = asyncio.get_running_loop().create_future()
        link.send(question(number))
        self._owed[number] = answer
        self._unread.add(number)
        try:
            return await answer
        except asyncio.CancelledError:
            self._cancel(number)
            self._note_idleness()
            raise

    @property
    def _model(self) -> str:
        """The model's name in metrics; empty: it is not known yet."""
        return self.lifecycle.card.id if self.lifecycle.card is not None else ""

    def _take_numbers(self, n: int) -> range:
        """Return *n* numbers that were never used."""
        first = self._next_number
        self._next_number += n
        return range(first, first + n)

    def _open_link(self) -> Link:
        if self.lifecycle.healthy_card is None:
            raise self.lifecycle.refusal()
        assert self._link is not None
        return self._link

    async def drain(self, deadline_s: float) -> None:
        """Take no more requests; let the running ones finish for *deadline_s* seconds, then fail them."""
        self.lifecycle.draining()
        self._note_idleness()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._is_idle.wait()
        self._fail_all(ShuttingDown("The server is shutting down.", retry_after_s=RETRY_AFTER_S))

    async def unload(self, reason: str) -> None:
        """End the engine process, which `start` replaces, and wait until its memory has come back."""
        self.lifecycle.unloaded(reason)
        await self._end_life()

    async def stop(self) -> None:
        """End the engine process and wait until it is gone, about a second at most."""
        await self.drain(0)
        await self._end_life()
        self.lifecycle.stopped()

    async def _end_life(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def _keep_alive(self) -> None:
        n_quick_deaths = 0
        while True:
            reason = await self._live()
            self.n_deaths += 1
            _log.error("The engine ended: %s", reason)
            if self.lifecycle.state is State.DRAINING:
                return
            self.lifecycle.explained(reason)
            if self._is_hopeless:
                _log.error("Another try would end as this one did; it stays down.")
                self.lifecycle.given_up()
                return
            n_quick_deaths = n_quick_deaths + 1 if self._was_quick() else 0
            if n_quick_deaths >= MAX_QUICK_DEATHS:
                _log.error("The engine ended %d times in a row; it stays down.", n_quick_deaths)
                self.lifecycle.given_up()
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
        ours, theirs = socket_pair()
        try:
            with theirs:
                process = await self._spawn(theirs)
        except OSError as error:
            ours.close()
            reason = f"its process could not be started: {error.strerror}"
            self._lose(reason)
            return reason
        except BaseException:
            ours.close()
            raise
        exited = asyncio.create_task(process.wait())
        fault = None
        try:
            fault = await self._converse(ours, exited)
        finally:
            code = await _end(process, exited, EXIT_S if fault is None else 0)
        return self._load_failure or fault or _describe_exit(code)

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        self.n_starts += 1
        # A session of its own: a Ctrl-C in the terminal is for us to pass on, by closing the socket.
        return await asyncio.create_subprocess_exec(
            *self._command,
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=child_environment(),
        )

    async def _converse(self, ours: socket.socket, exited: asyncio.Task[int]) -> str | None:
        """Carry messages until the engine's end closes; return why it must be killed, if it must."""
        link = Link(self._on_message, self._on_end)
        try:
            await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            self._link = link
            self._progress = Watch()
            self._load_ends_s = time.monotonic() + self._load_s
            link.send(self._load)
            if self.lifecycle.state is State.STARTING:
                self.lifecycle.loading()
            return await self._watch(link, exited)
        finally:
            link.end()

    async def _watch(self, link: Link, exited: asyncio.Task[int]) -> str | None:
        """Wait for the link's end, and see to it that there is one; return its fault."""
        ends: set[asyncio.Future[Any]] = {link.ended, exited}
        while not link.ended.done():
            await asyncio.wait(
                ends,
                timeout=min(LOOK_S, self._stall_s / 4),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if exited.done():
                # Its last words may be on their way. Then the end of file comes, unless a process that
                # it left behind holds its end open.
                await asyncio.wait({link.ended}, timeout=HEIR_S)
                link.end()
            elif not link.ended.done() and (fault := self._fault()) is not None:
                link.end(f"{fault} and was killed")
        return link.ended.result()

    def _fault(self) -> str | None:
        """Return why the engine has to be killed now; None: it need not. Half of the time is told before."""
        if self._load_ends_s is not None and time.monotonic() > self._load_ends_s:
            return f"it did not load its model within {self._load_s:g} s"
        if self._memory_bytes is not None and self._progress.memory_bytes > self._memory_bytes:
            return f"it held more than the {self._memory_bytes // 1_000_000} MB of ENGINE_MEMORY_MB"
        is_warming = self.lifecycle.state is State.WARMING
        stall = self._progress.look(
            owes_texts=bool(self._unread),
            owes_turns=is_warming or len(self._owed) > len(self._unread),
            patience=FIRST_STEPS_PATIENCE if is_warming else 1.0,
        )
        if stall.seconds > self._stall_s:
            return f"it made no progress for {self._stall_s:g} s: {stall.what}"
        is_doubtful = stall.seconds > self._stall_s / 2
        self.lifecycle.doubted(
            f"the engine made no progress for {stall.seconds:.1f} s" if is_doubtful else None
        )
        return None

    def _note_download(self, message: Downloading) -> None:
        """Let a download take its time; what comes after it has as long as any loading."""
        if self.lifecycle.state is State.LOADING:
            self._load_ends_s = time.monotonic() + self._load_s if message.is_over else None
            self.lifecycle.downloading(message)

    def _on_end(self, fault: str | None) -> None:
        """Hear from the link that it has ended."""
        self._lose(self._load_failure or fault or "its process has ended")

    def _lose(self, reason: str) -> None:
        """Tell everyone, now, that there is no engine: first whoever asks, then those who wait for it."""
        if self.lifecycle.state not in {State.DRAINING, State.UNLOADED}:
            self.lifecycle.failed(reason)
        self._fail_all(EngineDied("The engine process ended while it worked on the request."))

    def _on_message(self, message: FromEngine) -> None:
        match message:
            case Step(deltas):
                for delta in deltas:
                    self._deliver(delta)
            case Accepted(number, n_prompt_tokens):
                self._unread.discard(number)
                self._metrics.prompt_tokens.labels(self._model).inc(n_prompt_tokens)
                if isinstance(ticket := self._owed.get(number), Ticket):
                    ticket.put(message)
            case Tokenized(number) | Detokenized(number) | Embedded(number) | Scored(number):
                question = self._settle(number)
                if isinstance(question, asyncio.Future) and not question.done():
                    question.set_result(message)
            case Rejected(number, text, param, code, None):
                self._fail(number, InvalidRequest(text, param=param, code=code))
            case Rejected(number, text, param, _, (n_tokens, most)):
                self._fail(number, PromptTooLong(text, n_tokens, most, param=param))
            case Cancelled(number):
                self._owed.pop(number, None)
            case Failed(number, is_numerical=True):
                self._fail(number, NumericalError("The model computed what is no number."))
            case Failed(number):
                self._fail(number, InternalError("The engine failed on this request."))
            case Loaded(card, budget):
                if self.lifecycle.state is State.LOADING:
                    self._healthy_since_s = time.monotonic()
                    self._load_ends_s = None
                    self.lifecycle.warming(card, budget)
            case WarmedUp(error, notes):
                if self.lifecycle.state is State.WARMING:
                    self.lifecycle.warmed(error, notes)
            case LoadFailed(reason, may_pass):
                self._load_failure, self._is_hopeless = reason, not may_pass
            case Heartbeat():
                self._progress.hear(message)
            case Downloading():
                self._note_download(message)
            case CacheFault(reason):
                _log.error("The prefix cache is not kept on disk: %s", reason)
                self.n_cache_faults += 1

    def _deliver(self, delta: Delta) -> None:
        if isinstance(ticket := self._owed.get(delta.ticket), Ticket):
            ticket.put(delta)
        if delta.finish_reason is not None:
            self._metrics.completion_tokens.labels(self._model).inc(delta.n_completion_tokens)
            self._settle(delta.ticket)

    def _close_ticket(self, number: int) -> None:
        if isinstance(self._owed.get(number), Ticket):
            self._cancel(number)
            self._note_idleness()

    def _cancel(self, number: int) -> None:
        """Have the engine forget *number*, if it still owes anything to it."""
        if number in self._owed:
            assert self._link is not None
            self._owed[number] = None
            self._unread.discard(number)
            self._link.send(Cancel(number))

    def _fail(self, number: int, error: ServiceError) -> None:
        match self._settle(number):
            case Ticket() as ticket:
                ticket.put(error)
            case asyncio.Future() as question if not question.done():
                question.set_exception(error)

    def _fail_all(self, error: ServiceError) -> None:
        for number in [*self._owed]:
            self._fail(number, error)
        self._owed.clear()  # a cancel is answered by the end as well
        self._unread.clear()

    def _settle(self, number: int) -> Ticket | _Question | None:
        """Take *number* off what is owed, and return who waited; a cancel stays until its own answer."""
        waiting = self._owed.get(number)
        if waiting is not None:
            del self._owed[number]
            self._unread.discard(number)
            self._note_idleness()
        return waiting

    def _note_idleness(self) -> None:
        """Let `drain` go on if nobody waits for an answer; before the end nobody waits for that."""
        if self.lifecycle.state is State.DRAINING and not any(
            waiting is not None for waiting in self._owed.values()
        ):
            self._is_idle.set()


def child_environment() -> dict[str, str]:
    """
    Return the environment of a process that imports `service.engine` as we would.

    The folder that we were started in may have a `service` of its own, which is not to be imported. Where we
    are installed among other packages, the child finds us there; else the root of the checkout is named.
    """
    paths = [os.environ.get("PYTHONPATH")]
    if sysconfig.get_path("purelib") != ROOT:
        paths.insert(0, ROOT)
    path = os.pathsep.join(filter(None, paths))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


async def _end(
    process: asyncio.subprocess.Process, exited: asyncio.Task[int], patience_s: float
) -> int:
    """Give *process* some seconds to exit by itself, then kill it; return its exit status."""
    try:
        await asyncio.wait({exited}, timeout=patience_s)
    finally:  # also if whoever waits here is cancelled: a killed process is gone in no time
        if not exited.done():
            # Some systems don't permit what comes too late, to a process that is dead and not yet reaped.
            with contextlib.suppress(ProcessLookupError, PermissionError):
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
