"""What is measured, started and stopped: our server, those of others and the bare BatchGenerator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Protocol

import httpx
import psutil

from tests import environments
from tests.benchmarks import rivals
from tests.benchmarks.load import Answer, Client, Target, send_all
from tests.benchmarks.rivals import Rival
from tests.live import ROOT, free_port, running

START_S = 60.0
POLL_S = 0.1
OWN_ROWS = 32
SAMPLE_S = 0.1


class NotUp(Exception):
    """A system did not start; the message says why."""


@dataclass(frozen=True)
class Setup:
    """
    How a system is started.

    Attributes:
        model: the folder of the model, which all servers are given.
        concurrency: rows in a batch.
        environment: settings of our server alone.
        folder: where logs may lie.
        rivals: where rivals with environments of their own are installed, if they are.
    """

    model: Path
    concurrency: int
    environment: dict[str, str]
    folder: Path
    rivals: Path | None = None


@dataclass
class Run:
    """
    What one measurement saw.

    Attributes:
        answers: one for each request.
        memory_mb: resident memory of all the system's processes, every tenth of a second.
        api_cpu_s: processor seconds of the process that speaks HTTP, where that is one of its own.
    """

    answers: list[Answer]
    memory_mb: list[float] = field(default_factory=list)
    api_cpu_s: float | None = None


class Measurable(Protocol):
    """A system that can be started, asked and stopped; a stopped one can be started again."""

    def start(self) -> None:
        """
        Return when it takes requests.

        Raises:
            NotUp: it does not.
        """

    def stop(self) -> None:
        """End it, whatever its state."""

    def is_up(self) -> bool:
        """Tell whether its process runs."""

    def run(self, clients: Sequence[Client], limit_s: float, at_once: int | None) -> Run:
        """Let *clients* ask; what fails is in the answers."""


class Ours:
    """Our server: `python -m service`, in an environment without other settings than those given."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._stack = ExitStack()
        self._process: psutil.Process | None = None
        self._target = Target(0, "")

    def start(self) -> None:
        """Start it, and wait until the model is warmed up."""
        environment = {
            "MODEL_PATH": str(self._setup.model),
            "LOG_LEVEL": "WARNING",
            "MAX_CONCURRENCY": str(self._setup.concurrency),
            **self._setup.environment,
        }
        live = self._stack.enter_context(running(self._setup.folder / "ours.log", **environment))
        try:
            live.wait_until("/readyz", 200, START_S)
            (model,) = httpx.get(live.url + "/v1/models", timeout=5).json()["data"]
        except (AssertionError, httpx.HTTPError) as error:
            self.stop()
            raise NotUp(f"our server: {str(error)[-400:]}") from error
        self._process = psutil.Process(live.process.pid)
        self._target = Target(int(live.url.rpartition(":")[2]), model["id"])

    def stop(self) -> None:
        """End it and its engine."""
        self._stack.close()
        self._process = None

    def is_up(self) -> bool:
        """Tell whether its process runs."""
        return self._process is not None and self._process.is_running()

    def run(self, clients: Sequence[Client], limit_s: float, at_once: int | None) -> Run:
        """Let *clients* ask."""
        assert self._process is not None
        before_s = _cpu_s(self._process)
        with Memory(self._process) as memory:
            answers = asyncio.run(send_all(self._target, clients, limit_s, at_once))
        after_s = _cpu_s(self._process)
        spent_s = None if before_s is None or after_s is None else after_s - before_s
        return Run(answers, memory.seen_mb, spent_s)


class Single:
    """A system of a single process, which is started here and speaks to nobody else."""

    _process: psutil.Popen | None = None

    def stop(self) -> None:
        """End it."""
        end(self._process)
        self._process = None

    def is_up(self) -> bool:
        """Tell whether its process runs."""
        return self._process is not None and self._process.poll() is None


class Other(Single):
    """A server of others, as it comes; it may have as many rows as ours, but 32 at least."""

    def __init__(self, rival: Rival, setup: Setup) -> None:
        self._rival = rival
        self._setup = setup
        self._log = setup.folder / f"{rival.name}.log"
        self._target = Target(0, str(setup.model))

    def start(self) -> None:
        """Start it, and wait until it answers; it loads the model before."""
        port = free_port()
        rows = max(OWN_ROWS, self._setup.concurrency)
        words = self._rival.words(self._setup.model, port, rows)
        with self._log.open("ab") as log:
            self._process = psutil.Popen(
                [self._rival.python(self._setup.rivals), *words],
                cwd=ROOT if self._rival.is_here else self._setup.folder,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )
        self._target.port = port
        deadline_s = time.monotonic() + self._rival.start_s
        while time.monotonic() < deadline_s and self.is_up():
            with suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
                return
            time.sleep(POLL_S)
        ended = "did not answer" if self.is_up() else "ended"
        self.stop()
        said = rivals.last_line(self._log.read_text("utf-8", "replace"))
        raise NotUp(f"{self._rival.name} {ended}: {said}")

    def run(self, clients: Sequence[Client], limit_s: float, at_once: int | None) -> Run:
        """Let *clients* ask."""
        assert self._process is not None
        with Memory(self._process) as memory:
            answers = asyncio.run(send_all(self._target, clients, limit_s, at_once))
        return Run(answers, memory.seen_mb)

    def _environment(self) -> dict[str, str]:
        """Return its variables: it asks no hub, and what it keeps in a home isn't there for the next run."""
        if self._rival.is_here:
            return os.environ | {"HF_HUB_OFFLINE": "1"}
        return environments.clean() | {"HF_HUB_OFFLINE": "1", "HOME": str(self._setup.folder)}


class Bare(Single):
    """The bare BatchGenerator: conversations of one ask, all at once and greedy."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def start(self) -> None:
        """Start it, and wait until the model is loaded."""
        with (self._setup.folder / "bare.log").open("ab") as log:
            self._process = psutil.Popen(
                [sys.executable, "-m", "tests.benchmarks.bare", str(self._setup.model)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            )
        if not self._line("", START_S):
            self.stop()
            raise NotUp("the bare generator did not start")

    def run(self, clients: Sequence[Client], limit_s: float, at_once: int | None) -> Run:
        """Let *clients* ask; their times are those of the generating process."""
        assert self._process is not None
        assert at_once is None
        asks = [client.asks[0] for client in clients]
        asked = [{"messages": ask.messages, "n_tokens": ask.n_tokens} for ask in asks]
        with Memory(self._process) as memory:
            line = self._line(json.dumps(asked) + "\n", limit_s)
        if not line:
            return Run([Answer(ask.is_measured, 0.0) for ask in asks], memory.seen_mb)
        return Run([_answer(times) for times in json.loads(line)], memory.seen_mb)

    def _line(self, sent: str, limit_s: float) -> str:
        """Send a line and return the one that answers it; after the limit it is killed, and there is none."""
        process = self._process
        assert process is not None
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            process.stdin.write(sent)
            process.stdin.flush()
            return str(process.stdout.readline())
        except OSError:
            return ""
        finally:
            timer.cancel()


KINDS: dict[str, Callable[[Setup], Measurable]] = {
    "ours": Ours,
    "bare": Bare,
    **{name: partial(Other, rival) for name, rival in rivals.RIVALS.items()},
}


class Memory:
    """Resident memory of a process and all below it, looked at while the block runs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen_mb: list[float] = []

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = [self._process, *self._process.children(recursive=True)]
        while True:
            with suppress(psutil.Error):
                self.seen_mb.append(sum(one.memory_info().rss for one in family) / 1e6)
            if self._is_over.wait(SAMPLE_S):
                return


def end(process: psutil.Popen | None) -> None:
    """End a process, kindly, then not; and what is left of those that it had started."""
    if process is None:
        return
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = process.children(recursive=True)
    for pipe in (process.stdin, process.stdout):
        _close(pipe)
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    try:
        process.wait(5)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)
    for relative in family:
        with suppress(psutil.Error):
            relative.kill()


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with suppress(OSError):
            pipe.close()


def _answer(times_s: list[float]) -> Answer:
    """Return the answer whose tokens came at these times after its start."""
    return Answer(
        is_measured=True,
        began_s=0.0,
        first_s=times_s[0],
        ended_s=times_s[-1],
        gaps_s=[later - sooner for sooner, later in pairwise(times_s)],
        n_tokens=len(times_s),
        failure=None,
    )


def _cpu_s(process: psutil.Process) -> float | None:
    try:
        spent = process.cpu_times()
    except psutil.Error:
        return None
    return spent.user + spent.system
