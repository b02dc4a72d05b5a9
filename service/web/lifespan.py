"""
From the first event loop turn to the last: the engine started, the end made orderly.

Servers run an app's shutdown only after its open streams have ended, and some wait for them without
limit. So the signal that asks for the end is heard here as well: running answers get `DRAIN_S` seconds,
then an error event, and the server finds nothing left to wait for. A second signal ends them at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
from types import FrameType
from typing import Any

from service.fleet.admission import Admission
from service.fleet.supervisor import Supervisor
from service.web import below, descriptors
from service.web.edge import Edge

_log = logging.getLogger(__name__)

DRAIN_S = 2.0
ABORT_S = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Lifespan:
    """Falcon middleware for the two lifespan events; `edge` is set once it wraps the app."""

    def __init__(self, supervisor: Supervisor, admission: Admission) -> None:
        self.edge: Edge | None = None
        self._supervisor = supervisor
        self._admission = admission
        self._draining: list[asyncio.Task[None]] = []
        self._servers_own: dict[signal.Signals, Any] = {}

    async def process_startup(self, scope: object, event: object) -> None:  # noqa: ARG002
        """Start the engine and return at once: servers open their socket only after this."""
        descriptors.raise_limit()  # here, since every way of running comes by
        below.mend()
        self._supervisor.start()
        if threading.current_thread() is threading.main_thread():
            self._listen_for_signals(asyncio.get_running_loop())

    async def process_shutdown(self, scope: object, event: object) -> None:  # noqa: ARG002
        """End the engine process."""
        self._admission.close()
        for task in self._draining:
            task.cancel()
        await self._supervisor.stop()

    def _listen_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put our ear before the server's own handlers, which still run."""

        def hear(number: int, stack: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._begin_to_drain)
            servers_own = self._servers_own[signal.Signals(number)]
            if callable(servers_own):
                servers_own(number, stack)

        for number in _SIGNALS:
            self._servers_own[number] = signal.signal(number, hear)

    def _begin_to_drain(self) -> None:
        patience_s = 0.0 if self._draining else DRAIN_S
        # A context of its own: the signal is nobody's request.
        ending = asyncio.create_task(self._drain(patience_s), context=contextvars.Context())
        self._draining.append(ending)

    async def _drain(self, patience_s: float) -> None:
        """End what runs; if the server then still waits for idle connections, tell it not to."""
        _log.info("Ending; running requests have %.1f s.", patience_s)
        self._admission.close()
        await self._supervisor.drain(patience_s)
        await asyncio.sleep(ABORT_S)
        if self.edge is not None:
            self.edge.abort()
        await self._supervisor.stop()
        await asyncio.sleep(ABORT_S)
        # Only reached if the server's own shutdown, which cancels this, has not begun: both uvicorn and
        # gunicorn's worker take SIGINT for "now".
        for number, servers_own in self._servers_own.items():
            signal.signal(number, servers_own)
        signal.raise_signal(signal.SIGINT)
