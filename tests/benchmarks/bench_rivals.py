"""Tokens per second against mlx_lm.server: the same model, prompts and wishes, in turns, in one run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog.card import EMBEDDED_FOLDER
from tests.benchmarks.conftest import Report
from tests.benchmarks.load import PROMPTS, body, send_all
from tests.live import ROOT, LiveServer, free_port

ROUNDS = 9
START_S = 60
# The answers to these prompts are longer than what is asked for, since mlx_lm.server can't be told to go on.
WORKLOADS: dict[str, tuple[int, dict[str, Any], str]] = {
    "1 client": (1, {}, ">= 1.1"),
    "8 clients": (8, {}, ">= 1.1"),
    "8 clients, each a seed": (8, {"temperature": 0.2}, ">= 3"),
    "8 clients, each its settings": (8, {"temperature": 0.2, "top_p": 0.9}, "-"),
    "8 clients, logprobs": (8, {"logprobs": True, "top_logprobs": 5}, "-"),
}


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an mlx_lm.server with the built-in model."""
    port = free_port()
    log = tmp_path_factory.mktemp("rival") / "log"
    words = ["-m", "mlx_lm", "server", "--model", str(EMBEDDED_FOLDER), "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=sink,
            stderr=sink,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        _wait(port, log)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text("utf-8", "replace"))


def requests(name: str, model: str) -> list[dict[str, object]]:
    """Return what the clients of a workload send."""
    n_clients, fields, _ = WORKLOADS[name]
    sent = [
        body(PROMPTS[i]) | {"model": model, "ignore_eos": False} | fields for i in range(n_clients)
    ]
    for i, request in enumerate(sent):
        if "seed" in name:
            request["seed"] = i
        if "settings" in name:
            request |= {"top_k": 20 + i, "min_p": 0.01 * i}
    return sent


@pytest.mark.parametrize("name", WORKLOADS)
def test_tokens_per_second_against_mlx_lm_server(
    name: str, bench_server: LiveServer, rival: int, benchmark: Any, report: Report
) -> None:
    """The same requests to either, in turns."""
    ours = int(bench_server.url.rpartition(":")[2])
    ratios: list[float] = []

    def tokens_per_s(port: int, model: str) -> float:
        began_s = time.perf_counter()
        n_tokens = asyncio.run(send_all(port, requests(name, model)))
        return n_tokens / (time.perf_counter() - began_s)

    def one_round() -> None:
        ratios.append(tokens_per_s(ours, "gemma") / tokens_per_s(rival, str(EMBEDDED_FOLDER)))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    report(f"tokens/s, ours / mlx_lm.server, {name}", ratios[1:], WORKLOADS[name][2])
