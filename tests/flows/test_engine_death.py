"""The engine dies: its requests get an error, health tells the truth, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live import PLAIN, LiveServer, running

LONG = {
    "model": "gemma",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": True,
    "ignore_eos": True,
}

N_STREAMS = 8
# Seen on two idle cores: 9 ms for the median and the last. The goal is 100 ms; what a machine that does
# other things beside may add to a single client is allowed to the last one, and still tells a death that
# is found out by waiting, which took a second, from one that is told.
MEDIAN_S, LAST_S = 0.1, 0.5


async def stream_until_death(http: httpx.AsyncClient, begun: asyncio.Semaphore) -> float:
    """Read one stream, note in *begun* that it flows; return when its error event came."""
    async with http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        n_events = 0
        async for line in response.aiter_lines():
            n_events += line.startswith("data: ")
            if n_events == 3:
                begun.release()
            if '"engine_died"' in line:
                return time.perf_counter()
    raise AssertionError("the stream ended without an error event")


async def kill_under_streams(
    server: LiveServer,
) -> tuple[list[float], httpx.Response, httpx.Response]:
    """
    Kill the engine while it writes to many.

    Returns:
        The seconds until each stream's error event, smallest first; then what the first who had one got
        for asking after the health at once, and for another chat.
    """
    begun = asyncio.Semaphore(0)
    async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=PLAIN) as http:
        streams = [asyncio.create_task(stream_until_death(http, begun)) for _ in range(N_STREAMS)]
        for _ in streams:
            await begun.acquire()
        engine = server.engine_pid()
        killed_s = time.perf_counter()
        os.kill(engine, signal.SIGKILL)
        await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
        health = await http.get("/health")
        refused = await http.post("/v1/chat/completions", json=LONG)
        told_s = sorted(at_s - killed_s for at_s in await asyncio.gather(*streams))
    return told_s, health, refused


def broken_streams(http: httpx.Client) -> float:
    """Return how many streams the engine's deaths have broken."""
    name = 'tier3a_streams_broken_total{code="engine_died"}'
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose engine may be killed twice; after a third early death it would stay down."""
    with running(tmp_path_factory.mktemp("mortal") / "log") as server:
        yield server


def test_kill_under_streams_is_told_to_all_of_them_at_once(mortal: LiveServer) -> None:
    """Each has its error event in no time; who asks then hears that there is none, and when to come."""
    with mortal.client() as http:
        mortal.wait_until("/readyz", 200)
        told_s, health, refused = asyncio.run(kill_under_streams(mortal))
        mortal.wait_until("/readyz", 200)
        again = http.post("/v1/chat/completions", json=LONG | {"stream": False, "max_tokens": 4})

        assert len(told_s) == N_STREAMS
        assert statistics.median(told_s) < MEDIAN_S
        assert told_s[-1] < LAST_S
        assert health.status_code == 503
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_not_ready"
        assert "(ready)" not in refused.json()["error"]["message"]
        assert int(refused.headers["Retry-After"]) > 0
        assert again.status_code == 200


def test_kill_during_a_stream_costs_that_stream_and_nothing_else(mortal: LiveServer) -> None:
    """The stream ends with an error event, health goes 503 and then 200, the API process is the same."""
    server = mortal
    with server.client() as http:
        server.wait_until("/readyz", 200)
        n_broken = broken_streams(http)
        first = server.engine_pid()
        with http.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(first, signal.SIGKILL)
            events = [line for line in lines if line.startswith("data: ")]
        down = server.wait_until("/health", 503, deadline_s=2).json()
        refused = http.post("/v1/chat/completions", json=LONG | {"stream": False})
        server.wait_until("/readyz", 200)
        answered = http.post("/v1/chat/completions", json=LONG | {"stream": False, "max_tokens": 4})

        assert '"engine_died"' in events[-2]
        assert events[-1] == "data: [DONE]"
        assert down == {
            "status": "ok",
            "model_id": None,
            "model_status": "uninitialized",
            "models_healthy": False,
            "warmup_enabled": None,
            "warmup_completed": None,
        }
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_not_ready"
        assert int(refused.headers["Retry-After"]) > 0
        assert "The engine ended: its process was ended by SIGKILL" in server.log_text()
        assert answered.status_code == 200
        assert broken_streams(http) == n_broken + 1
        assert server.process.poll() is None
        assert server.engine_pid() != first


def test_damaged_model_leaves_the_server_alive_and_says_why(tmp_path: Path) -> None:
    """A folder with broken weights: live, not healthy, not ready, and the reason without any path."""
    folder = tmp_path / "broken-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with running(tmp_path / "log", MODEL_PATH=str(folder)) as server, server.client() as http:
        server.wait_until("/livez", 200)
        ready = http.get("/readyz")
        while "damaged" not in ready.text:
            ready = http.get("/readyz")
        health = http.get("/health")

        assert health.status_code == 503
        assert ready.status_code == 503
        assert "model.safetensors is damaged or incomplete" in ready.json()["models"][0]["reason"]
        assert str(tmp_path) not in ready.text


def test_missing_model_folder_leaves_the_server_alive_and_says_why(tmp_path: Path) -> None:
    """A MODEL_PATH that is nothing: three tries, then it stays down and says so."""
    missing = str(tmp_path / "no" / "such" / "model")
    with running(tmp_path / "log", MODEL_PATH=missing) as server, server.client() as http:
        server.wait_until("/livez", 200)
        reason = ""
        while "MODEL_PATH" not in reason:
            reason = http.get("/readyz").json()["models"][0]["reason"]

        assert http.get("/health").status_code == 503
        assert missing not in reason
