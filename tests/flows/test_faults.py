"""What goes wrong inside costs as little as the table in `tests/README.md` says, on a real server."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faulty_engine import MARK
from tests.live import GUNICORN, PLAIN, UVICORN, LiveServer, is_alive, running

CHAT = "/v1/chat/completions"
WAYS = {"uvicorn": UVICORN, "gunicorn": GUNICORN}


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Return a chat of one message."""
    body = {"model": "gemma", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return body | fields


@contextmanager
def faulty(
    tmp_path: Path, fault: str, way: str = "uvicorn", **environment: str
) -> Iterator[LiveServer]:
    """Start a server whose engine has *fault*."""
    how = [word.replace("service.app", "tests.faulty_app") for word in WAYS[way]]
    with running(tmp_path / "log", how, FAULT=fault, **environment) as server:
        server.wait_until("/livez", 200)
        yield server


def reason(server: LiveServer) -> str:
    """Return why the model is not ready."""
    found = httpx.get(server.url + "/readyz", timeout=5, verify=PLAIN).json()["models"][0]["reason"]
    return str(found)


@pytest.mark.parametrize("way", WAYS)
def test_load_that_takes_long(way: str, tmp_path: Path) -> None:
    """The port is open, nothing is served early, and who asks is told to come again."""
    with faulty(tmp_path, "slow-load:1", way) as server, server.client() as http:
        seen = {http.get("/health").status_code, http.get("/readyz").status_code}
        refused = http.post(CHAT, json=chat())
        server.wait_until("/readyz", 200)

        assert {503} == seen
        assert (503, "model_not_ready") == (
            refused.status_code,
            refused.json()["error"]["code"],
        )
        assert refused.headers["Retry-After"]
        assert 200 == http.post(CHAT, json=chat()).status_code


def test_load_that_takes_too_long(tmp_path: Path) -> None:
    """It has its time; after three lives it stays down, and says why."""
    with faulty(tmp_path, "slow-load:60", LOAD_TIMEOUT="1") as server:
        end_s = time.monotonic() + 30
        while "did not load its model within 1 s" not in reason(server):
            assert time.monotonic() < end_s
            time.sleep(0.05)

        assert 503 == httpx.get(server.url + "/health", verify=PLAIN).status_code


def test_warm_up_that_hangs(tmp_path: Path) -> None:
    """It is killed when its patience is over; the next life begins."""
    with faulty(tmp_path, "hung-warm-up", STALL_TIMEOUT="2") as server:
        server.wait_until("/health", 200)
        first = server.engine_pid()
        server.wait_until("/health", 503, deadline_s=30)

        assert "made no progress" in server.log_text()
        end_s = time.monotonic() + 5
        while is_alive(first) and time.monotonic() < end_s:
            time.sleep(0.02)
        assert not is_alive(first)


def test_prompt_that_hangs_while_others_are_served(tmp_path: Path) -> None:
    """Its client leaves and comes again; the engine is found out in its time all the same."""
    stall_s = 3
    with faulty(tmp_path, "hung-prompt", STALL_TIMEOUT=str(stall_s)) as server:
        server.wait_until("/readyz", 200)
        first = server.engine_pid()
        began_s = time.monotonic()
        seen_not_ready = False
        while is_alive(first):
            with pytest.raises(httpx.HTTPError):
                httpx.post(
                    server.url + CHAT, json=chat(MARK), timeout=0.3, verify=PLAIN
                ).raise_for_status()
            seen_not_ready |= httpx.get(server.url + "/readyz", verify=PLAIN).status_code == 503
            assert time.monotonic() - began_s < stall_s + 15
        dead_s = time.monotonic() - began_s
        server.wait_until("/readyz", 200)

        assert seen_not_ready
        assert stall_s - 0.5 <= dead_s <= stall_s + 4  # on an idle machine a second
        assert (
            200 == httpx.post(server.url + CHAT, json=chat(), timeout=20, verify=PLAIN).status_code
        )


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that can keep nothing, and breaks at the third token of whom it happens to."""
    folder = tmp_path_factory.mktemp("unlucky")
    fault, prefixes = "full-disk,raise-at-token:3", str(folder / "prefixes")
    with faulty(folder, fault, PREFIX_CACHE_PATH=prefixes) as server:
        server.wait_until("/readyz", 200)
        yield server


def test_disk_that_is_full(unlucky: LiveServer) -> None:
    """Who asks has the answer all the same; a metric tells of it."""
    with unlucky.client() as http:
        answers = [http.post(CHAT, json=chat("long " * 300)) for _ in range(2)]
        end_s = time.monotonic() + 5
        none = re.compile(r"^tier3a_prefix_cache_faults_total{.*} 0", re.MULTILINE)
        while none.search(http.get("/metrics").text):
            assert time.monotonic() < end_s

        assert [200, 200] == [answer.status_code for answer in answers]
        assert "No space left on device" in unlucky.log_text()
        assert [] == list((unlucky.log.parent / "prefixes").rglob("*.safetensors"))


def test_step_that_breaks_in_the_middle(unlucky: LiveServer) -> None:
    """A whole answer fails with 500, a stream ends with an error event; the engine lives on."""
    with unlucky.client() as http:
        engine = unlucky.engine_pid()
        whole = http.post(CHAT, json=chat(MARK, max_tokens=40))
        stream = http.post(CHAT, json=chat(MARK, max_tokens=40, stream=True)).text
        after = http.post(CHAT, json=chat())

        assert (500, "internal_error") == (whole.status_code, whole.json()["error"]["code"])
        assert '"internal_error"' in stream.split("\n\n")[-3]
        assert '"finish_reason":"' not in stream
        assert stream.endswith("data: [DONE]\n\n")
        assert (200, engine) == (after.status_code, unlucky.engine_pid())


def test_clock_that_jumps(tmp_path: Path) -> None:
    """Nothing here goes by the time of day: an hour back and forth ends nothing."""
    with faulty(tmp_path, "clock", STALL_TIMEOUT="5", QUEUE_TIMEOUT="20") as server:
        server.wait_until("/readyz", 200)
        engine = server.engine_pid()
        with ThreadPoolExecutor(12) as pool:
            asked = [
                pool.submit(httpx.post, server.url + CHAT, json=chat(), timeout=20)
                for _ in range(36)
            ]

        assert {200} == {each.result().status_code for each in asked}
        assert engine == server.engine_pid()
        assert "made no progress" not in server.log_text()


def test_engine_that_is_stopped_while_idle(tmp_path: Path) -> None:
    """Not ready first, then not healthy, then killed and replaced."""
    with running(tmp_path / "log", STALL_TIMEOUT="3") as server:
        server.wait_until("/readyz", 200)
        first = server.engine_pid()
        began_s = time.monotonic()
        os.kill(first, signal.SIGSTOP)
        doubted = server.wait_until("/readyz", 503).json()["models"][0]
        healthy = httpx.get(server.url + "/health", verify=PLAIN).status_code
        server.wait_until("/health", 503)
        dead_s = time.monotonic() - began_s
        server.wait_until("/readyz", 200)

        assert "made no progress" in doubted["reason"]
        assert 200 == healthy
        assert 2.5 <= dead_s <= 7  # on an idle machine within a second of the three
        assert first != server.engine_pid()


def test_worker_whose_parent_was_killed(tmp_path: Path) -> None:
    """The worker ends by itself, and its engine with it, though a stream is open."""
    with running(tmp_path / "log", GUNICORN) as server:
        server.wait_until("/readyz", 200)
        engine = server.engine_pid()
        long = chat(stream=True, ignore_eos=True, max_tokens=8000)
        with httpx.stream(
            "POST", server.url + CHAT, json=long, timeout=20, verify=PLAIN
        ) as response:
            lines = response.iter_lines()
            next(lines)
            server.end(signal.SIGKILL)
            events = [line for line in lines if line.startswith("data: ")]
        end_s = time.monotonic() + 4
        while is_alive(engine) and time.monotonic() < end_s:
            time.sleep(0.02)

        assert '"shutting_down"' in events[-2]
        assert not is_alive(engine)


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Twice means now, however long running answers would have had."""
    with running(tmp_path / "log", UVICORN, DRAIN_TIMEOUT="60") as server:
        server.wait_until("/readyz", 200)
        long = chat(stream=True, ignore_eos=True, max_tokens=8000)
        with httpx.stream(
            "POST", server.url + CHAT, json=long, timeout=20, verify=PLAIN
        ) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.terminate()
            time.sleep(0.5)
            assert server.process.poll() is None
            began_s = time.monotonic()
            server.process.terminate()
            for _ in lines:
                pass
        server.process.wait(10)

        assert time.monotonic() - began_s < 3
