"""What is measured, started and stopped: our server, mlx_lm.server and the bare BatchGenerator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Protocol

import httpx
import psutil

from tests.benchmarks.load import Answer, Client, Target, send_all
from tests.live import ROOT, free_port, running

START_S = 60.0
SAMPLE_S = 0.1


class NotUp(Exception):
    """A system did not start; the message says why."""


@dataclass(frozen=True)
class Setup:
    """
    How a system is started.

    Attributes:
        model: the folder of the model, which both servers are given.
        concurrency: rows in a batch.
        environment: settings of our server alone.
        folder: where logs may lie.
    """

    model: Path
    concurrency: int
    environment: dict[str, str]
    folder: Path


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


class Rival(Single):
    """mlx_lm.server, as it comes; it may have as many rows as ours."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._target = Target(0, str(setup.model))

    def start(self) -> None:
        """Start it, and wait until it answers; it loads the model before."""
        port = free_port()
        words = ["-m", "mlx_lm", "server", "--model", str(self._setup.model), "--port", str(port)]
        rows = ["--decode-concurrency", str(max(32, self._setup.concurrency))]
        with (self._setup.folder / "mlx_lm.log").open("ab") as log:
            self._process = psutil.Popen(
                [sys.executable, *words, *rows],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            )
        self._target.port = port
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.is_up():
            with suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
                return
            time.sleep(0.1)
        self.stop()
        raise NotUp("mlx_lm.server did not answer")

    def run(self, clients: Sequence[Client], limit_s: float, at_once: int | None) -> Run:
        """Let *clients* ask."""
        assert self._process is not None
        with Memory(self._process) as memory:
            answers = asyncio.run(send_all(self._target, clients, limit_s, at_once))
        return Run(answers, memory.seen_mb)


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


KINDS: dict[str, type[Ours] | type[Rival] | type[Bare]] = {
    "ours": Ours,
    "mlx_lm": Rival,
    "bare": Bare,
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
    """End a process: kindly, then not."""
    if process is None:
        return
    for pipe in (process.stdin, process.stdout):
        _close(pipe)
    process.terminate()
    try:
        process.wait(5)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)


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
