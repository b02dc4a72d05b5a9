"""What `/metrics` of a real server tells of its engine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx

from tests.flows.chatting import ask

MODEL = "local-mlx/gemma-3-demo"


def told(client: httpx.Client, name: str, **labels: str) -> float | None:
    """Return the value of a metric of the model; None: it has none."""
    wanted = {"model": MODEL} | labels
    for line in client.get("/metrics").text.splitlines():
        found = re.fullmatch(rf"tier3a_{name}{{(.*)}} (\S+)", line)
        if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1])) == wanted:
            return float(found[2])
    return None


def wait(is_so: Callable[[], bool]) -> None:
    """Wait until *is_so*, some seconds at most: figures come with the next heartbeat."""
    end_s = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_engine_is_told_of(client: httpx.Client) -> None:
    """A prompt that comes again is a hit, steps are counted, and nothing is held when all is over."""
    hits = "prefix_cache_hit_tokens_total"
    wait(lambda: told(client, hits) is not None)
    before = told(client, hits)
    for _ in range(2):
        asked = [{"role": "user", "content": "Is this told of? " * 20}]
        assert 200 == ask(client, messages=asked).status_code
    wait(lambda: told(client, hits) != before and told(client, "kv_cache_bytes") == 0)

    positive = (
        "kv_cache_budget_bytes", "prefix_cache_bytes", "prefix_cache_entries", "engine_step_seconds_count",
        "engine_active_memory_bytes", "engine_peak_memory_bytes", "engine_memory_bytes",
        "engine_starts_total", "prompt_tokens_total", "completion_tokens_total",
    )  # fmt: skip
    assert [] == [name for name in positive if not told(client, name)]
    assert 1 == told(client, "engine_state", state="ready")
    assert re.search(
        r'^tier3a_build_info{mlx="\d[^"]*",', client.get("/metrics").text, re.MULTILINE
    )
