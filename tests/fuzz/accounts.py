"""Whether all that a server began has ended: asked after every long run, and by the flows' tests."""

from __future__ import annotations

import time

import httpx

from tests.live import LiveServer

SETTLE_S = 30.0  # of a machine that does much besides; mostly it is over at once


def total(page: str, name: str) -> float:
    """Return the sum of all values of a metric on a *page*."""
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def metrics(server: LiveServer) -> str:
    """Return the page of metrics."""
    return httpx.get(server.url + "/metrics", timeout=20).text


def accounts(page: str) -> dict[str, int]:
    """Return what a *page* says of requests: started, ended (whatever way) and in flight; permits, queue."""
    return {
        "started": round(total(page, "tier3a_requests_started_total")),
        "ended": round(total(page, "tier3a_requests_total")),
        "in_flight": round(total(page, "tier3a_requests_in_flight")),
        "permits": round(total(page, "tier3a_permits_in_use")),
        "queue": round(total(page, "tier3a_queue_length")),
    }


def left_over(server: LiveServer) -> str | None:
    """
    Return what has not ended although nobody asks any more; None: nothing.

    Started is completed, failed and cancelled together, exactly; no permit is out and nobody waits. The
    question itself is the one request in flight.
    """
    end_s = time.monotonic() + SETTLE_S
    while True:
        seen = accounts(metrics(server))
        expected = {"ended": seen["started"] - 1, "in_flight": 1, "permits": 0, "queue": 0}
        if seen == {"started": seen["started"]} | expected:
            return None
        if time.monotonic() > end_s:
            return f"not all that was begun has ended: {seen}"
        time.sleep(0.02)
