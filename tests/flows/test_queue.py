"""Permits and the queue, on a server small enough to fill."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.live import POLL_S, LiveServer, running

CHAT = "/v1/chat/completions"
SHORT = {"model": "gemma", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
ENDLESS = SHORT | {"max_tokens": 8000, "ignore_eos": True, "stream": True}

# Requests in the order in which they come, each named by its turn.
QUEUED: dict[str, tuple[str, dict[str, object]]] = {
    "last": (CHAT, SHORT | {"priority": 1000}),
    "fourth": ("/v1/completions", {"model": "gemma", "prompt": "Hi", "max_tokens": 2, "priority": 1}),
    "third": (CHAT, SHORT),
    "second": ("/v1/messages", SHORT | {"priority": -1}),
    "first": ("/v1/responses", {"model": "gemma", "input": "Hi", "max_output_tokens": 2, "priority": -9}),
    "fifth": ("/v1/completions", {"model": "gemma", "prompt": "Hi", "max_tokens": 2, "priority": 1}),
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One permit, one place, half a second of patience."""
    with running(
        tmp_path_factory.mktemp("small") / "log",
        MAX_CONCURRENCY="1",
        QUEUE_SIZE="1",
        QUEUE_TIMEOUT="0.5",
    ) as live:
        live.wait_until("/readyz", 200)
        yield live


def gauge(http: httpx.Client, name: str) -> float:
    """Return the value of one metric."""
    found = re.search(rf"^tier3a_{name}{{.*}} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def wait_for_gauge(http: httpx.Client, name: str, value: float, deadline_s: float = 5) -> None:
    """Poll one metric until it has *value*."""
    end_s = time.monotonic() + deadline_s
    while gauge(http, name) != value:
        assert time.monotonic() < end_s, f"{name} is {gauge(http, name)}, never {value}"
        time.sleep(POLL_S)


def test_full_queue_refuses_at_once_and_waiting_ends_in_time(small: LiveServer) -> None:
    """The second waits and times out with 503, the third is refused with 429 within 50 ms or so."""
    with small.client() as http, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        running_one = stack.enter_context(http.stream("POST", CHAT, json=ENDLESS))
        lines = running_one.iter_lines()
        next(lines)
        waiting_one = pool.submit(http.post, CHAT, json=SHORT)
        wait_for_gauge(http, "queue_length", 1)
        began_s = time.monotonic()
        refused = http.post(CHAT, json=SHORT)
        refused_after_s = time.monotonic() - began_s
        probe = http.get("/health")
        timed_out = waiting_one.result()

        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused_after_s < 0.2
        assert probe.status_code == 200
        assert timed_out.status_code == 503
        assert timed_out.json()["error"]["code"] == "queue_timeout"
        assert int(timed_out.headers["Retry-After"]) >= 1


def test_vanished_clients_give_their_permit_back(small: LiveServer) -> None:
    """Streaming, waiting or not streaming: who goes is cancelled, and the next one is served."""
    with small.client() as http:
        for stream in (True, False):
            with small.client(0.3) as impatient:
                if stream:
                    with impatient.stream("POST", CHAT, json=ENDLESS) as response:
                        lines = response.iter_lines()
                        next(lines)
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        impatient.post(CHAT, json=ENDLESS | {"stream": False})
            wait_for_gauge(http, "permits_in_use", 0)
            answer = http.post(CHAT, json=SHORT)

            assert answer.status_code == 200
        assert gauge(http, "queue_length") == 0


def test_waiting_client_that_vanishes_leaves_the_queue(small: LiveServer) -> None:
    """Its place is free at once, although the one before it still runs."""
    with small.client() as http, http.stream("POST", CHAT, json=ENDLESS) as running_one:
        lines = running_one.iter_lines()  # kept: httpx closes the stream with its iterator
        next(lines)
        with (
            small.client(0.1) as impatient,
            pytest.raises(httpx.ReadTimeout),
        ):
            impatient.post(CHAT, json=SHORT)
        wait_for_gauge(http, "queue_length", 0, deadline_s=0.3)

        assert gauge(http, "permits_in_use") == 1


def test_smallest_priority_is_served_first(tmp_path: Path) -> None:
    """On each route the number is read; it orders those who wait, and takes no place from them."""
    with running(tmp_path / "log", MAX_CONCURRENCY="1", QUEUE_SIZE=str(len(QUEUED))) as live:
        live.wait_until("/readyz", 200)
        with live.client() as http, ThreadPoolExecutor(len(QUEUED)) as pool:
            with http.stream("POST", CHAT, json=ENDLESS) as running_one:
                lines = running_one.iter_lines()
                next(lines)
                answers = []
                for n_waiting, (name, (path, body)) in enumerate(QUEUED.items(), 1):
                    marked = {"X-Request-ID": name}
                    answers.append(pool.submit(http.post, path, json=body, headers=marked))
                    wait_for_gauge(http, "queue_length", n_waiting)
                refused = http.post(CHAT, json=SHORT | {"priority": -1000})
            statuses = [answer.result().status_code for answer in answers]
        live.lines_of("last")
        ends = re.findall(
            r"Request completed.*\[request_id=(\w+)\]$", live.log_text(), re.MULTILINE
        )

    assert refused.status_code == 429
    assert statuses == [200] * len(QUEUED)
    served = [each for each in ends if each in QUEUED]
    assert served == ["first", "second", "third", "fourth", "fifth", "last"]


def unpaired(log: str) -> tuple[int, dict[str, list[str]]]:
    """Return how many requests *log* tells of, and those that have not one start and then one end."""
    pattern = r"Request (started|completed): .*\[request_id=(\S+)\]$"
    seen: dict[str, list[str]] = {}
    for what, request_id in re.findall(pattern, log, re.MULTILINE):
        seen.setdefault(request_id, []).append(what)
    return len(seen), {k: v for k, v in seen.items() if v != ["started", "completed"]}


def test_every_request_ends_in_the_log_exactly_once(small: LiveServer) -> None:
    """Started and completed lines pair up by id, also for clients that vanished and were refused."""
    end_s = time.monotonic() + 5
    n_requests, open_ones = unpaired(small.log_text())
    while open_ones and time.monotonic() < end_s:
        time.sleep(POLL_S)
        n_requests, open_ones = unpaired(small.log_text())

    assert open_ones == {}
    assert n_requests > 10
