"""A real server on a real socket, started as a user would start it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from service.settings import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
OURS = {option.metadata["env"] for option in OPTIONS}
MODULE = ("-m", "service", "--port", "{port}")
UVICORN = ("-m", "uvicorn", "service.app:app", "--port", "{port}")
GUNICORN = ("-m", "gunicorn", "-k", "asgi", "-b", "127.0.0.1:{port}", "service.app:app")
POLL_S = 0.05
# Else every client reads all certificates that there are, for 27 ms of processor time, and no test needs one.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class LiveServer:
    """
    A server process and its log.

    Attributes:
        url: where it listens.
        process: the process that was started; under gunicorn, the parent of the one that serves.
        log: the file that its two output streams go to.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, timeout_s: float = 30, **options: object) -> httpx.Client:
        """Return an HTTP client for it that waits at most *timeout_s*."""
        return httpx.Client(base_url=self.url, timeout=timeout_s, verify=PLAIN, **options)  # type: ignore[arg-type]

    def wait_until(self, path: str, status: int, deadline_s: float = 90) -> httpx.Response:
        """Poll *path* until it answers *status*; fail with the log if it never does."""
        end = time.monotonic() + deadline_s
        seen: object = None
        with self.client(5) as http:
            while time.monotonic() < end:
                try:
                    response = http.get(path)
                except httpx.TransportError as error:
                    seen = error
                else:
                    seen = response.status_code
                    if seen == status:
                        return response
                time.sleep(POLL_S)
        raise AssertionError(f"{path}: {seen!r}, never {status}; the log:\n{self.log_text()}")

    def log_text(self) -> str:
        """Return all that it has printed until now."""
        return self.log.read_text("utf-8", "replace")

    def lines_of(self, request_id: str, deadline_s: float = 5) -> list[str]:
        """Return the log lines of one request, its completion, which comes after the answer, included."""
        end = time.monotonic() + deadline_s
        lines: list[str] = []
        while time.monotonic() < end and not any("Request completed" in line for line in lines):
            mark = f"[request_id={request_id}]"
            lines = [line for line in self.log_text().splitlines() if mark in line]
            time.sleep(POLL_S)
        return lines

    def engine_pid(self) -> int:
        """Return the process id of its one engine."""
        (engine,) = self.engines()
        return engine

    def engines(self) -> list[int]:
        """Return the process ids of all engines below it."""
        return [child.pid for child in _descendants(self.process.pid) if _is_engine(child)]

    def end(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = 15) -> int:
        """Send *number* and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(deadline_s)


@contextmanager
def running(log: Path, how: Sequence[str] = MODULE, **environment: str) -> Iterator[LiveServer]:
    """Start a server with *environment* on a free port; whatever happens, nothing of it stays."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *(word.format(port=port) for word in how)],
            cwd=ROOT,
            env=clean_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = LiveServer(f"http://127.0.0.1:{port}", process, log)
    try:
        yield server
    finally:
        family = _descendants(process.pid)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        for relative in family:
            with suppress(psutil.NoSuchProcess):
                relative.kill()


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without any setting of the server's, and with *extra*."""
    return {k: v for k, v in os.environ.items() if k not in OURS} | dict(extra)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Tell whether *pid* runs, a zombie not counted."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_engine(process: psutil.Process) -> bool:
    try:
        return bool({"service.engine", "tests.faulty_engine"} & {*process.cmdline()})
    except psutil.NoSuchProcess:
        return False
