"""
Clients that leave, wherever their requests stand: `python -m tests.fuzz.vanish`.

A thousand of them may leave nothing in memory; and a permit has to be free again at once.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import httpx

from tests.fuzz.accounts import accounts, left_over, metrics
from tests.fuzz.asking import READY_S, chat, connected, percentile, posted
from tests.fuzz.record import Row, tell
from tests.fuzz.soak import CACHE_MB, memory_mb
from tests.live import UVICORN, LiveServer, running

AT_ONCE = 40
MAX_GROWTH_MB = 10.0
MAX_FREE_S = 0.05
LONG: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}


def vanish(server: LiveServer, n: int, chance: random.Random) -> None:
    """Begin *n* requests, some at a time, and leave each at some moment."""
    for begin in range(0, n, AT_ONCE):
        connections = [connected(server) for _ in range(min(AT_ONCE, n - begin))]
        for i, connection in enumerate(connections):
            connection.sendall(posted(chat(f"Count to {begin + i}.", stream=i % 2 == 0, **LONG)))
        time.sleep(chance.uniform(0, 0.5))
        for connection in connections:
            connection.close()
        if wrong := left_over(server):
            raise click.ClickException(wrong)


def time_to_free_s(server: LiveServer) -> float:
    """Leave a stream that flows; return after how long its permit was seen to be free."""
    with connected(server) as connection:
        connection.sendall(posted(chat(stream=True, **LONG)))
        while b"data: " not in connection.recv(65536):
            pass
    left_s = time.perf_counter()
    with httpx.Client(base_url=server.url, timeout=20) as http:
        while accounts(http.get("/metrics").text)["permits"]:
            pass
    return time.perf_counter() - left_s


def a_look_s(server: LiveServer) -> float:
    """Return how long it takes to look at the permits."""
    began_s = time.perf_counter()
    metrics(server)
    return time.perf_counter() - began_s


@click.command()
@click.option("--clients", default=1000, show_default=True)
@click.option("--times", default=200, show_default=True, help="Streams that are timed.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(clients: int, times: int, out: Path | None) -> None:
    """Have clients leave; fail if memory grew, or a permit was long in coming back."""
    chance = random.Random(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "log", UVICORN, PREFIX_CACHE_MB=CACHE_MB) as server,
    ):
        server.wait_until("/readyz", 200, READY_S)
        engine = server.engine_pid()
        vanish(server, clients // 2, chance)  # until caches are full and buffers have their size
        before_mb = memory_mb(server)
        vanish(server, clients, chance)
        grown_mb = memory_mb(server) - before_mb
        look_ms = 1000 * percentile([a_look_s(server) for _ in range(20)], 0.5)
        free_s = [time_to_free_s(server) for _ in range(times)]
        is_same = engine == server.engine_pid()
    rows = [
        Row(
            what=f"{clients:,} clients vanish",
            goal=f"memory grows by at most {MAX_GROWTH_MB:g} MB",
            seen=f"{grown_mb:+.1f} MB; nothing left over, {'the same' if is_same else 'another'} engine",
            is_met=grown_mb <= MAX_GROWTH_MB and is_same,
            command=f"python -m tests.fuzz.vanish --clients {clients} --times {times}",
        ),
        Row(
            what="From a client's leaving to a free permit",
            goal=f"p99 of at most {MAX_FREE_S * 1000:g} ms and a step",
            seen=f"p50 {percentile(free_s, 0.5) * 1000:.1f} ms, "
            f"p99 {percentile(free_s, 0.99) * 1000:.1f} ms, of {times}; a look at it takes {look_ms:.1f} ms",
            is_met=percentile(free_s, 0.99) <= MAX_FREE_S,
            command=f"python -m tests.fuzz.vanish --clients {clients} --times {times}",
        ),
    ]
    for row in rows:
        tell(row, out)
    sys.exit(not all(row.is_met for row in rows))


if __name__ == "__main__":
    main()
