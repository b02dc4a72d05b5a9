"""The suite run as its users run it, and servers for it to meet."""

import json
import os
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conformance.reports.shape import Report

ROOT = Path(__file__).parent.parent.parent
SUITE = ROOT / "conformance"
STEERING = ("TIER3A_BASE_URL", "CONTEXT_LENGTH", "PYTEST_ADDOPTS")
LIMIT_S = 90

Run = subprocess.CompletedProcess[str]


def clean_environment() -> dict[str, str]:
    """Return this environment without what would steer the suite, and without pytest's plugins."""
    kept = {name: value for name, value in os.environ.items() if name not in STEERING}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}


def conformance(*options: str, **environment: str) -> Run:
    """Run the suite with *options*."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", *options],
        cwd=ROOT,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def verdict_line(run: Run) -> str:
    """Return the last line that a run printed."""
    return run.stdout.rstrip("\n").rpartition("\n")[2]


def reported(run: Run, path: Path) -> Report:
    """Return the report that a run wrote; fail with its output where it wrote none."""
    assert path.exists(), run.stdout[-3000:] + run.stderr[-3000:]
    report: Report = json.loads(path.read_text())
    return report


def miniature(fault: str = "", *options: str) -> str:
    """Return the command that starts the correct server, or a wrong one."""
    words = [sys.executable, "-m", "conformance.broken", *options]
    return f"{shlex.join([*words, *(['--fault', fault] if fault else [])])} --port {{port}}"


@contextmanager
def running(log: Path, *options: str) -> Iterator[str]:
    """Run the correct server on a free port, its log in *log*; yield its URL."""
    port = free_port()
    words = shlex.split(miniature("", *options).replace("{port}", str(port)))
    with log.open("wb") as sink:
        process = subprocess.Popen(words, cwd=ROOT, stderr=sink, env=clean_environment())
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}")


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def speaking(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections on a free port and let *speak* do to each what it wants; yield the URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                speak(self.request)

    with _Threads(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
