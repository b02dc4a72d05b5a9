"""How late the event loop turns: what one request does in it, all others wait for."""

from __future__ import annotations

import asyncio
import time

from service.telemetry import Metrics

LOOK_S = 0.02  # taste: costs a thousandth of a core, and nothing that lasts longer goes unseen


class LoopLag:
    """
    Looks at the event loop at regular times, and notes in *metrics* how late each look was.

    Where other processes keep the machine busy it is late as well; so it also notes how much processor time
    the loop took since the last look, which is this process's own doing.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._next: asyncio.TimerHandle | None = None
        self._cpu_s = 0.0

    def start(self) -> None:
        """Begin to look; needs a running event loop."""
        due_s = time.perf_counter() + LOOK_S
        self._cpu_s = time.thread_time()
        self._next = asyncio.get_running_loop().call_later(LOOK_S, self._look, due_s)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        if self._next is not None:
            self._next.cancel()

    def _look(self, due_s: float) -> None:
        self._metrics.loop_lag_s.observe(max(time.perf_counter() - due_s, 0.0))
        self._metrics.loop_busy_s.observe(time.thread_time() - self._cpu_s)
        self.start()
