"""
A server under steady load, and what it holds of memory meanwhile: `python -m tests.fuzz.soak`.

With `--leak` the engine is made to keep something of each request, to show that the judge can say no.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import psutil

from tests.fuzz.accounts import left_over
from tests.fuzz.asking import READY_S
from tests.fuzz.record import Row, tell
from tests.live import UVICORN, LiveServer, running

LOOK_S = 2.0
MAX_GROWTH_MB = 20.0
SETTLING = 0.2  # of the time, in which caches fill and are no growth
CACHE_MB = "8"  # so small that it is full by then, however slow the machine is
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 16,
                              "stream": True, "temperature": 1}),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 8, "logprobs": 2}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 8}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}),
    ("/v1/tokenize", {"prompt": "Hello"}),
    ("/v1/chat/completions", {"messages": []}),
]  # fmt: skip


def growth_mb(curve: Sequence[float]) -> float:
    """Return by how many MB a *curve* of memory grew once it had settled: its last fifth over the first."""
    settled = curve[int(len(curve) * SETTLING) :]
    n = max(len(settled) // 5, 1)
    return statistics.median(settled[-n:]) - statistics.median(settled[:n])


def memory_mb(server: LiveServer) -> float:
    """Return what the server and its engine hold."""
    whole = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (whole, *whole.children(recursive=True))) / 1e6


def keep_asking(
    server: LiveServer, is_over: threading.Event, counts: list[int], pause_s: float
) -> None:
    """Send one request after the other, and now and then leave before the answer."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for n in itertools.count():
            if is_over.wait(pause_s):
                return
            path, body = BODIES[n % len(BODIES)]
            try:
                timeout = 0.02 if n % 49 == 0 else 60
                client.post(path, json={"model": "gemma"} | body, timeout=timeout)
            except httpx.TimeoutException:
                pass
            counts.append(n)


def soak(
    server: LiveServer, minutes: float, clients: int, pause_s: float
) -> tuple[int, list[float]]:
    """Ask for so long; return how many requests were sent, and the curve of memory in MB."""
    curve: list[float] = []
    counts: list[int] = []
    is_over = threading.Event()
    threads = [
        threading.Thread(target=keep_asking, args=(server, is_over, counts, pause_s))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + minutes * 60
    while time.monotonic() < end_s:
        time.sleep(LOOK_S)
        curve.append(memory_mb(server))
        if len(curve) % 15 == 0:
            click.echo(
                f"{len(counts):,} requests, {curve[-1]:.1f} MB, grew {growth_mb(curve):+.1f} MB"
            )
    is_over.set()
    for thread in threads:
        thread.join()
    return len(counts), curve


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--clients", default=4, show_default=True)
@click.option("--pause-ms", default=0, show_default=True, help="What a client waits between two.")
@click.option("--leak", is_flag=True, help="Have the engine keep something of each request.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(minutes: float, clients: int, pause_ms: int, leak: bool, out: Path | None) -> None:
    """Ask for so many minutes; fail if memory grew."""
    how = [word.replace("service.app", "tests.faulty_app") for word in UVICORN] if leak else UVICORN
    fault = {"FAULT": "leak"} if leak else {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "log", how, PREFIX_CACHE_MB=CACHE_MB, **fault) as server,
    ):
        server.wait_until("/readyz", 200, READY_S)
        engine = server.engine_pid()
        n, curve = soak(server, minutes, clients, pause_ms / 1000)
        wrong = left_over(server) or ("" if engine == server.engine_pid() else "the engine died")
    grown = growth_mb(curve)
    looks = ", ".join(f"{mb:.0f}" for mb in curve[:: max(len(curve) // 12, 1)])
    has_grown = grown > MAX_GROWTH_MB
    row = Row(
        what=f"A server under steady load for {minutes:g} minutes" + " with a leak" * leak,
        goal=f"memory grows by more than {MAX_GROWTH_MB:g} MB, which is seen"
        if leak
        else f"memory grows by at most {MAX_GROWTH_MB:g} MB",
        seen=f"{grown:+.1f} MB after {n:,} requests; in MB, over time: {looks}"
        + f"; {wrong}" * bool(wrong),
        is_met=has_grown == leak and not wrong,
        command=f"python -m tests.fuzz.soak --minutes {minutes:g}"
        + f" --pause-ms {pause_ms}" * bool(pause_ms)
        + " --leak" * leak,
    )
    tell(row, out)
    sys.exit(not row.is_met)


if __name__ == "__main__":
    main()
