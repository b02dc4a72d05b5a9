"""What serving costs: start, size, tokens per second over HTTP against the bare engine, health under load."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.load import PROMPTS, streams
from tests.live import ROOT, UVICORN, LiveServer, running

ROUNDS = 15


class Bare:
    """The bare engine, ready in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bare"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask("")

    def tokens_per_s(self, n: int) -> float:
        """Generate for *n* prompts at once."""
        return float(self._ask(f"{n}\n"))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=10)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    """The bare BatchGenerator with the embedded model."""
    process = Bare()
    yield process
    process.close()


@pytest.mark.parametrize("n_clients", [1, 8])
def test_streamed_tokens_per_second_against_the_bare_engine(
    n_clients: int, bench_server: LiveServer, bare: Bare, benchmark: Any, report: Report
) -> None:
    """The same prompts through HTTP and through BatchGenerator alone, in turns."""
    port = int(bench_server.url.rpartition(":")[2])
    ratios: list[float] = []

    def over_http() -> float:
        began_s = time.perf_counter()
        n_tokens = asyncio.run(streams(port, PROMPTS[:n_clients]))
        return n_tokens / (time.perf_counter() - began_s)

    def one_round() -> None:
        ratios.append(over_http() / bare.tokens_per_s(n_clients))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    report(f"tokens/s over HTTP / bare engine, {n_clients} clients", ratios[1:], ">= 0.9")


def test_health_answers_while_eight_clients_generate(
    bench_server: LiveServer, benchmark: Any, report: Report
) -> None:
    """The latency of `/health` on an open connection, 99th percentile, in milliseconds."""
    port = int(bench_server.url.rpartition(":")[2])
    is_over = threading.Event()

    def load() -> None:
        while not is_over.is_set():
            asyncio.run(streams(port, PROMPTS))

    generating = threading.Thread(target=load)
    generating.start()
    latencies_ms: list[float] = []
    try:
        with httpx.Client(base_url=bench_server.url) as http:

            def ask() -> None:
                began_s = time.perf_counter()
                http.get("/health").raise_for_status()
                latencies_ms.append((time.perf_counter() - began_s) * 1000)
                time.sleep(0.005)

            benchmark.pedantic(ask, rounds=600, warmup_rounds=20)
    finally:
        is_over.set()
        generating.join()
    p99_ms = sorted(latencies_ms)[int(len(latencies_ms) * 0.99)]
    report("/health p99 while 8 clients generate, ms", [p99_ms], "<= 10")


def first_answer(port: int) -> bytes:
    """Poll `/health` until there is an answer, with nothing that costs time of its own."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
                return connection.recv(64)
        except OSError:
            time.sleep(0.002)


def test_start(benchmark: Any, report: Report, tmp_path: Path) -> None:
    """From exec to the first HTTP answer, to ready; and the memory of the API process then."""
    first_s: list[float] = []
    ready_s: list[float] = []
    resident_mb: list[float] = []

    def start() -> None:
        began_s = time.perf_counter()
        with running(tmp_path / "log", UVICORN) as server:
            answer = first_answer(int(server.url.rpartition(":")[2]))
            first_s.append(time.perf_counter() - began_s)
            assert answer.startswith(b"HTTP/1.1 503")
            server.wait_until("/readyz", 200)
            ready_s.append(time.perf_counter() - began_s)
            with server.client() as http:
                http.post("/v1/chat/completions", json={}).json()
                http.get("/openapi.json").json()
            resident_mb.append(psutil.Process(server.process.pid).memory_info().rss / 1e6)

    benchmark.pedantic(start, rounds=5, warmup_rounds=1)
    report("first HTTP answer after exec, s", first_s[1:], "<= 0.5")
    report("embedded model ready and warmed up after exec, s", ready_s[1:], "<= 4")
    report("API process, resident MB", resident_mb[1:], "<= 80")
