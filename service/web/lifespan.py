"""
From the first event loop turn to the last: the engine started, the end made orderly.

Servers run an app's shutdown only after its open streams have ended, and some wait for them without
limit. So the signal that asks for the end is heard here as well: running answers get `DRAIN_TIMEOUT` seconds,
then an error event, and the server finds nothing left to wait for. A second signal ends them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from service.errors import ServiceError
from service.fleet.fleet import Changes, Fleet
from service.telemetry import Metrics
from service.web import descriptors
from service.web.edge import Edge
from service.web.loop_lag import LoopLag
from service.web.tracing import Tracing

_log = logging.getLogger(__name__)

ABORT_S = 0.5
PARENT_S = 1.0  # taste: between two looks for the process that started a worker
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Lifespan:
    """
    Falcon middleware for the two lifespan events; `edge` is set once it wraps the app.

    Args:
        fleet: its models are started and stopped here.
        metrics: where the lag of the event loop is noted.
        drain_s: seconds that running answers get when the end is asked for.
        tracing: closed in the end.
        reload: reads again which models there are, at SIGHUP; None: there is nothing to read.
    """

    def __init__(
        self,
        fleet: Fleet,
        metrics: Metrics,
        drain_s: float,
        tracing: Tracing,
        reload: Callable[[], Coroutine[Any, Any, Changes]] | None = None,
    ) -> None:
        self.edge: Edge | None = None
        self._lag = LoopLag(metrics)
        self._next_look: asyncio.TimerHandle | None = None
        self._drain_s = drain_s
        self._fleet = fleet
        self._tracing = tracing
        self._reload = reload
        self._reloading: set[asyncio.Task[None]] = set()
        self._draining: list[asyncio.Task[None]] = []
        self._servers_own: dict[signal.Signals, Any] = {}

    async def process_startup(self, scope: object, event: object) -> None:  # noqa: ARG002
        """Start the engines and return at once: servers open their socket only after this."""
        descriptors.raise_limit()  # here, since every way of running comes by
        self._fleet.start()
        self._lag.start()
        if threading.current_thread() is threading.main_thread():
            self._listen_for_signals(asyncio.get_running_loop())
        if "gunicorn.arbiter" in sys.modules or multiprocessing.parent_process() is not None:
            self._look_for_parent(os.getppid())

    async def process_shutdown(self, scope: object, event: object) -> None:  # noqa: ARG002
        """End the engine processes."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._lag.stop()
        self._fleet.close()
        for task in self._draining:
            task.cancel()
        await self._fleet.stop()
        await asyncio.to_thread(self._tracing.close)

    def _listen_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put our ear before the server's own handlers, which still run."""

        def hear(number: int, stack: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._begin_to_drain)
            servers_own = self._servers_own[signal.Signals(number)]
            if callable(servers_own):
                servers_own(number, stack)

        for number in _SIGNALS:
            self._servers_own[number] = signal.signal(number, hear)

        # At a terminal the signal says that the terminal is gone, and ends the server as it always did.
        if self._reload is not None and not os.isatty(0):
            signal.signal(
                signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._begin_to_reload)
            )

    def _begin_to_reload(self) -> None:
        self._reloading.add(
            task := asyncio.create_task(self._read_again(), context=contextvars.Context())
        )
        task.add_done_callback(self._reloading.discard)

    async def _read_again(self) -> None:
        assert self._reload is not None
        with contextlib.suppress(ServiceError):  # it is logged with its line
            await self._reload()

    def _begin_to_drain(self) -> None:
        patience_s = 0.0 if self._draining else self._drain_s
        # A context of its own: the signal is nobody's request.
        ending = asyncio.create_task(self._drain(patience_s), context=contextvars.Context())
        self._draining.append(ending)

    def _look_for_parent(self, parent: int) -> None:
        """End if the process that started this worker is gone: nobody is left to end it."""
        if os.getppid() != parent:
            _log.error("The process that started this worker is gone.")
            self._begin_to_drain()
            return
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(PARENT_S, self._look_for_parent, parent)

    async def _drain(self, patience_s: float) -> None:
        """End what runs; if the server then still waits for idle connections, tell it not to."""
        _log.info("Ending; running requests have %.1f s.", patience_s)
        self._fleet.close()
        await self._fleet.drain(patience_s)
        await asyncio.sleep(ABORT_S)
        if self.edge is not None:
            self.edge.abort()
        await self._fleet.stop()
        await asyncio.sleep(ABORT_S)
        # Only reached if the server's own shutdown, which cancels this, has not begun: both uvicorn and
        # gunicorn's worker take SIGINT for "now".
        for number, servers_own in self._servers_own.items():
            signal.signal(number, servers_own)
        signal.raise_signal(signal.SIGINT)
