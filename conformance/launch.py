"""
A server that the suite starts itself, watched from its first moment.

The watch is a poll of /health in steps of a few milliseconds: connection refused, then 503 while
the model loads, 200 while it warms up, 200 when it is ready. A state that lasts less than a step
may go unseen, so no check may take "not seen" for "not there".
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conformance.client import Exchange, NoAnswer, Server
from conformance.serverlog import ServerLog

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
STEP_S = 0.005
N_AFTER_START = 20
CONTEXT_LENGTH = 2048
FLAG = "--context-length"


class LaunchFailed(Exception):
    """The command ended, or never answered; the text is one line for people."""


class Moment(NamedTuple):
    """What the server said at one step: its health, and another route while it wasn't ready."""

    health: Exchange
    other: Exchange | None = None


def is_ready(health: Exchange) -> bool:
    """
    Whether the start is over: healthy, and warmed up where that is enabled.

    It takes the fields' word for it, as loosely as the guide's own clients, so that a server
    that gets a type or the status code wrong is told so by a check and not waited for.
    """
    fields = health.fields()
    is_warm = not fields.get("warmup_enabled") or fields.get("warmup_completed")
    return bool(fields.get("models_healthy") and is_warm)


def is_starting(health: Exchange) -> bool:
    """Whether it is worth waiting: the server itself says that it will be ready later."""
    fields = health.fields()
    is_warming = fields.get("warmup_enabled") and fields.get("warmup_completed") is False
    says_so = health.status == 503 or fields.get("model_status") == "uninitialized" or is_warming
    return bool(says_so) and not is_ready(health)


class Launched:
    """
    A process group of its own, its combined output, and the moments of its start.

    Attributes:
        context_length: what the server was told to use, by its flag or its environment.
        moments: one for each answer from the first one to shortly after readiness.
    """

    def __init__(self, command: str, make_server: Callable[[str], Server]) -> None:
        port = _free_port()
        words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        environment.setdefault("CONTEXT_LENGTH", str(CONTEXT_LENGTH))
        self.context_length = _context_length(words, environment["CONTEXT_LENGTH"])
        self.server = make_server(f"http://127.0.0.1:{port}")
        self.moments: list[Moment] = []
        self._folder = tempfile.TemporaryDirectory(prefix="tier3a-conformance-")
        output = Path(self._folder.name) / "output"
        try:
            with output.open("wb") as sink:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._folder.cleanup()
            raise LaunchFailed(f"{words[0]}: {error.strerror}") from error
        self.log = ServerLog(output, offset=0)

    def watch(self) -> None:
        """
        Poll until the server is ready and a little longer, or its time is over.

        Raises:
            LaunchFailed: the process ended, or never answered.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        n_left = N_AFTER_START
        while n_left and time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LaunchFailed(f"ended with {self._process.returncode}: {self.log.last_line()}")
            with contextlib.suppress(NoAnswer):
                self.moments.append(self._look())
            if self.moments and not is_starting(self.moments[-1].health):
                n_left -= 1
            time.sleep(STEP_S)
        if not self.moments:
            raise LaunchFailed(f"no answer from /health within {READY_WITHIN_S:g} s")

    def _look(self) -> Moment:
        health = self.server.get("/health")
        if health.status != 503:
            return Moment(health)
        other = self.server.get("/v1/models")
        # Only between two 503s is it certain that the server wasn't ready meanwhile.
        return Moment(health, other if self.server.get("/health").status == 503 else None)

    def stop(self) -> None:
        """End the whole process group: SIGTERM first, SIGKILL if it is still there after 10 s."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_WITHIN_S)
            self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _context_length(words: list[str], from_environment: str) -> int:
    """Return the length configured: a flag on the command line beats the environment."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == FLAG:
            return int(following)
        if word.startswith(f"{FLAG}="):
            return int(word.removeprefix(f"{FLAG}="))
    return int(from_environment)
