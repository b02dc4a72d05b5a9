"""
Servers that the suite starts itself, by the command of `--launch`.

One instance runs for the whole session where it is the server to test. The others are variants:
the same command with an option turned, by its flag or by its environment variable. One variant
runs at a time, for as long as the next check asks for the same.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from conformance.client import Server
from conformance.serverlog import ServerLog
from conformance.start import READY_WITHIN_S, Start, is_starting

STOP_WITHIN_S = 10.0
GONE_WITHIN_S = 60.0  # after SIGKILL it is the system that takes its time
OTHER_HOSTS = ("127.0.0.2", "::1")  # macOS has only the second, some containers only the first
CONTEXT_LENGTH = "2048"
FLAGS = {
    "MODEL_PATH": "--model-path",
    "MODEL_TYPE": "--model-type",
    "CONTEXT_LENGTH": "--context-length",
    "MLX_WARMUP": "--mlx-warmup",
    "SERVER_HOST": "--host",
    "SERVER_PORT": "--port",
    "MAX_CONCURRENCY": "--max-concurrency",
    "QUEUE_TIMEOUT": "--queue-timeout",
    "QUEUE_SIZE": "--queue-size",
    "LOG_LEVEL": "--log-level",
}


class LaunchFailed(Exception):
    """The command ended, or never answered; the text is one line for people."""


class Turned(NamedTuple):
    """
    The options that an instance is given, apart from what its command says.

    Attributes:
        flags: option values by flag, put at the command's end, or where it has `{flags}`; an
            empty value leaves the flag alone.
        environment: option values by variable; others are set as they are.
        unset: variables that neither the environment nor the command may say.

    In both, `{port}` stands for the instance's port.
    """

    flags: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    unset: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Show it as it would be typed."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        flags = [f"{name} {value}".strip() for name, value in self.flags.items()]
        return " ".join([*(f"-u {name}" for name in self.unset), *variables, *flags])


NOTHING = Turned()


class Process(Protocol):
    """What is needed of a process; `subprocess.Popen` has more."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""

    def wait(self, timeout: float) -> int:
        """Return the exit status, or raise `subprocess.TimeoutExpired`."""


def spawn(words: Sequence[str], environment: Mapping[str, str], output: IO[bytes]) -> Process:
    """
    Start a command in a process group of its own.

    Raises:
        OSError: there is no such command.
    """
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


class Launched:
    """
    A process group of its own and its combined output.

    Attributes:
        command: the words and variables as they would be typed.
        start: what was seen of its start.
        log: its output.
    """

    def __init__(
        self,
        words: list[str],
        environment: Mapping[str, str],
        server: Server,
    ) -> None:
        self.command = shlex.join(words)
        self.server = server
        self.start = Start(server)
        self._folder = tempfile.TemporaryDirectory(prefix="tier3a-conformance-")
        output = Path(self._folder.name) / "output"
        try:
            with output.open("wb") as sink:
                self.process = spawn(words, environment, sink)
        except OSError as error:
            self._folder.cleanup()
            raise LaunchFailed(f"{words[0]}: {error.strerror}") from error
        self.log = ServerLog(output, offset=0)

    def has_ended(self) -> bool:
        """Whether the process that was started is gone."""
        return self.process.poll() is not None

    def has_settled(self) -> bool:
        """Whether nothing more is to be waited for: its start is over, or it has ended."""
        moments = self.start.moments
        return self.has_ended() or (bool(moments) and not is_starting(moments[-1].health))

    def wait_until_ready(self, step_s: float) -> None:
        """
        Watch the start until the server is ready, or says for a minute that it isn't yet.

        Args:
            step_s: from one look to the next.

        Raises:
            LaunchFailed: the process ended, or never answered.
        """
        within_s = max(READY_WITHIN_S, 6 * self.server.timeout_s)
        self.start.watch(within_s, self.has_ended, step_s)
        self.demand_answers(within_s)

    def wait_until_answering(self) -> None:
        """
        Watch the start until the server answers at all.

        Raises:
            LaunchFailed: the process ended, or never answered.
        """
        self.start.watch(READY_WITHIN_S, lambda: self.has_ended() or bool(self.start.moments))
        self.demand_answers(READY_WITHIN_S)

    def demand_answers(self, within_s: float) -> None:
        """
        Look back on a start that was watched for *within_s*.

        Raises:
            LaunchFailed: the process ended, or never answered.
        """
        if self.has_ended():
            raise LaunchFailed(f"ended with {self.process.returncode}: {self.log.last_line()}")
        if not self.start.moments:
            raise LaunchFailed(f"no answer from /health within {within_s:g} s")

    def wait_until_ended(self, within_s: float) -> int | None:
        """Return the exit status, or None where the process is still there after *within_s*."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the whole process group: SIGTERM first, SIGKILL if it is still there after 10 s."""
        self._send(signal.SIGTERM)
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._send(signal.SIGKILL)
            self.process.wait(GONE_WITHIN_S)
            self._folder.cleanup()

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the group; that all of it have ended is "not permitted" on macOS."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Launcher:
    """
    Starts instances of one command, each on a free port, and stops them.

    Attributes:
        context_length: what an instance is told to use when nothing is turned.
        first: the first instance that was begun, by which others are measured.
    """

    def __init__(self, command: str, make_server: Callable[[str], Server]) -> None:
        self._words = shlex.split(command)
        self._make_server = make_server
        self._environment = {"CONTEXT_LENGTH": CONTEXT_LENGTH} | dict(os.environ)
        self._environment["PYTHONUNBUFFERED"] = "1"
        self.first: Launched | None = None
        self._variant: tuple[Turned, Launched] | None = None
        self._failed: dict[str, LaunchFailed] = {}
        self.context_length = int(self.value_of("CONTEXT_LENGTH"))

    def value_of(self, variable: str) -> str:
        """Return what an instance is told when nothing is turned; empty where it is told nothing."""
        named = (FLAGS[variable], variable)  # `env CONTEXT_LENGTH=512 serve` names it, too
        given = (_value_of(self._words, name) for name in named)
        return next(filter(None, given), self._environment.get(variable, ""))

    @property
    def start_s(self) -> float:
        """How long the first instance took to become ready."""
        stretches = list(self.first.start.stretches()) if self.first else []
        return stretches[-1].from_s if stretches else READY_WITHIN_S

    @property
    def patience_s(self) -> float:
        """How long another may take, since what never comes shall not be waited for too long."""
        return 3 * self.start_s + 5

    def begin(
        self,
        turned: Turned = NOTHING,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        before: Sequence[str] = (),
    ) -> Launched:
        """
        Start an instance and return at once; the caller stops it.

        Args:
            turned: replaces what the command itself says of these options.
            host: where the instance is looked for.
            port: the same; by default a free one, which also takes the place of `{port}`.
            before: words of a program that starts the command.

        Raises:
            LaunchFailed: there is no such command.
        """
        port = port or free_port(host)
        hidden = {name for name, flag in FLAGS.items() if flag in turned.flags} | {*turned.unset}
        variables = {*hidden, *turned.environment}
        words = _without(self._words, [*turned.flags, *variables, *map(FLAGS.get, variables)])
        flags = [word for pair in turned.flags.items() for word in pair if word]
        place = words.index("{flags}") if "{flags}" in words else len(words)
        words[place : place + 1] = flags
        kept = {name: text for name, text in self._environment.items() if name not in hidden}
        given = {
            name: text.replace("{port}", str(port)) for name, text in turned.environment.items()
        }
        address = f"[{host}]" if ":" in host else host
        launched = Launched(
            [word.replace("{port}", str(port)) for word in (*before, *words)],
            {**kept, **given},
            self._make_server(f"http://{address}:{port}"),
        )
        self.first = self.first or launched
        return launched

    def variant(self, turned: Turned) -> Launched:
        """
        Return an instance with *turned*, ready to be asked; it lasts until another is wanted.

        Raises:
            LaunchFailed: it didn't become ready; it isn't tried again.
        """
        if str(turned) in self._failed:
            raise self._failed[str(turned)]
        if self._variant is None or self._variant[0] != turned:
            self.stop()
            try:
                self._variant = (turned, self._ready(turned))
            except LaunchFailed as error:
                self._failed[str(turned)] = error
                raise
        return self._variant[1]

    def _ready(self, turned: Turned) -> Launched:
        launched = self.begin(turned)
        try:
            launched.start.watch(self.patience_s, launched.has_settled)
            launched.demand_answers(self.patience_s)
            if not launched.has_settled():
                raise LaunchFailed(f"never ready; {launched.start.moments[-1].health}")
        except LaunchFailed:
            launched.stop()
            raise
        return launched

    def stop(self) -> None:
        """Stop the variant that runs, if one does."""
        if self._variant:
            self._variant[1].stop()
        self._variant = None


def free_port(host: str = "127.0.0.1") -> int:
    """
    Return a port that nobody listens on there.

    Raises:
        OSError: this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def other_host() -> str:
    """Return a loopback address of this machine that isn't the usual one; empty if it has none."""
    for host in OTHER_HOSTS:
        with contextlib.suppress(OSError):
            free_port(host)
            return host
    return ""


def _without(words: list[str], names: Collection[str | None]) -> list[str]:
    """Leave out each of *names*, as `--flag value`, `--flag=value` or `VARIABLE=value`."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in names:
            next(rest, None)
        elif word.partition("=")[0] not in names:
            kept.append(word)
    return kept


def _value_of(words: list[str], name: str) -> str:
    """Return what the command itself gives for *name*; empty where it doesn't."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return ""
