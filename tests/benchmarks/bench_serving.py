"""What serving costs besides tokens: start, size, health under load."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.conftest import Report
from tests.benchmarks.load import N_TOKENS, PROMPTS, Ask, Client, Target, send_all
from tests.live import UVICORN, LiveServer, running


def test_health_answers_while_eight_clients_generate(
    bench_server: LiveServer, benchmark: Any, report: Report
) -> None:
    """The latency of `/health` on an open connection, 99th percentile, in milliseconds."""
    target = Target(int(bench_server.url.rpartition(":")[2]), "gemma")
    asks = [Ask(({"role": "user", "content": text},), N_TOKENS) for text in PROMPTS]
    clients = [Client((ask,)) for ask in asks]
    is_over = threading.Event()

    def load() -> None:
        while not is_over.is_set():
            asyncio.run(send_all(target, clients, limit_s=30))

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
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
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
