"""
What becomes known of requests: two log lines each, metrics, and the last ones for who looks at the server.

What was asked and answered stands nowhere in it. What is kept is bounded, and gone with the process.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from falcon.asgi import Request

from service.fleet.ticket import Ticket
from service.telemetry import Metrics
from service.web.keys import NO_KEY, Key

_log = logging.getLogger(__name__)

WATCHED = frozenset({"/health", "/livez", "/readyz", "/metrics", "/status"})
N_KEPT = 50  # taste: what a person scrolls through


@dataclass(slots=True, eq=False)
class Visit:
    """
    What is known of one request while it is served.

    Attributes:
        method: as it was sent, if HTTP knows it.
        path: as it was sent, and short.
        came_s: when it came, by the monotonic clock.
        route: the template of the route that took it, such as `/v1/models/{model_id}`; empty: none has.
        model: id of the model that it means; empty: none is known yet.
        ticket: what the engine does for it; None: nothing.
        key: the one that it bears; one of no name if it bears none.
        n_read_tokens: tokens of what was read for it without a ticket.
    """

    method: str
    path: str
    came_s: float
    route: str = ""
    model: str = ""
    ticket: Ticket | None = None
    key: Key = NO_KEY
    n_read_tokens: int = 0

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of all that was read for it."""
        return self.n_read_tokens + (self.ticket.n_prompt_tokens if self.ticket else 0)

    @property
    def n_completion_tokens(self) -> int:
        """Tokens of all that was generated for it, until now."""
        return self.ticket.n_completion_tokens if self.ticket else 0


class RouteNote:
    """Falcon middleware that notes which route took a request."""

    async def process_resource(self, req: Request, *_: object) -> None:
        """Note it, before the resource sees the request."""
        req.scope["exchange"].visit.route = req.uri_template


class Journal:
    """
    Keeps the last requests, and tells metrics of each.

    Args:
        metrics: where its figures are added up.
        logs_probes: requests that only watch the server have log lines, too.
    """

    def __init__(self, metrics: Metrics, *, logs_probes: bool = True) -> None:
        self._metrics = metrics
        self._logs_probes = logs_probes
        self._kept: deque[dict[str, Any]] = deque(maxlen=N_KEPT)
        self._open: set[Visit] = set()
        self._n_completion_tokens = 0  # of requests that have ended

    @property
    def n_completion_tokens(self) -> int:
        """Tokens generated since the start, those of answers in progress included."""
        tickets = [visit.ticket for visit in self._open if visit.ticket is not None]
        return self._n_completion_tokens + sum(ticket.n_completion_tokens for ticket in tickets)

    def begin(self, visit: Visit) -> None:
        """Note that a request has come."""
        self._open.add(visit)
        self._metrics.requests_started.inc()
        self._metrics.in_flight.inc()
        if self._is_logged(visit):
            _log.info("Request started: %s %s", visit.method, visit.path)

    def note(self, visit: Visit, request_id: str, status: int, duration_s: float) -> None:
        """Note a request that has ended, *duration_s* seconds after it came."""
        self._open.discard(visit)
        self._metrics.in_flight.dec()
        if visit.key.name:
            self._note_usage(visit, status)
        if self._is_logged(visit):
            _log.info(
                "Request completed: %s %s status=%d duration=%.3fs",
                visit.method,
                visit.path,
                status,
                duration_s,
            )
        self._metrics.requests.labels(visit.method, visit.route, visit.model, status).inc()
        self._metrics.duration_s.labels(visit.method, visit.route).observe(duration_s)
        if visit.ticket is None:
            return
        self._n_completion_tokens += visit.ticket.n_completion_tokens
        figures = _figures(visit, visit.ticket)
        self._kept.appendleft(
            {
                "id": request_id,
                "at": round(time.time() - duration_s, 3),
                "path": visit.path,
                "model": visit.model,
                "status": status,
                "duration_s": round(duration_s, 6),
                **figures,
            }
        )
        self._observe(visit.model, figures)

    def _note_usage(self, visit: Visit, status: int) -> None:
        """Note who asked, and for how much."""
        by, metrics = (visit.key.name, visit.model), self._metrics
        n_read, n_said = visit.n_prompt_tokens, visit.n_completion_tokens
        metrics.key_requests.labels(*by, status).inc()
        metrics.key_prompt_tokens.labels(*by).inc(n_read)
        metrics.key_completion_tokens.labels(*by).inc(n_said)
        _log.info("Usage: key=%s prompt_tokens=%d completion_tokens=%d", by[0], n_read, n_said)

    def _is_logged(self, visit: Visit) -> bool:
        return self._logs_probes or visit.path not in WATCHED

    def last(self) -> list[dict[str, Any]]:
        """Return the last requests that an engine worked on, the newest first."""
        return list(self._kept)

    def _observe(self, model: str, figures: dict[str, Any]) -> None:
        metrics = self._metrics
        metrics.queue_s.labels(model).observe(figures["queue_s"])
        metrics.cached_tokens.labels(model).inc(figures["cached_tokens"])
        if figures["ttft_s"] is not None:
            metrics.ttft_s.labels(model).observe(figures["ttft_s"])
        if figures["decode_s"] is None:
            return
        metrics.prefill_s.labels(model).observe(figures["prefill_s"])
        metrics.decode_s.labels(model).observe(figures["decode_s"])
        if figures["completion_tokens"] > 1:
            per_token_s = figures["decode_s"] / (figures["completion_tokens"] - 1)
            metrics.inter_token_s.labels(model).observe(per_token_s)


def _figures(visit: Visit, ticket: Ticket) -> dict[str, Any]:
    """Return tokens and seconds of a request, of its slowest answer; None: no answer came that far."""
    spent = [last.spent for last in ticket.ended if last.spent is not None]
    first_s = ticket.first_s
    return {
        "queue_s": round(ticket.waited_s + max((one.queue_s for one in spent), default=0.0), 6),
        "ttft_s": None if first_s is None else round(first_s - visit.came_s, 6),
        "prefill_s": max((round(one.prefill_s, 6) for one in spent), default=None),
        "decode_s": max((round(one.decode_s, 6) for one in spent), default=None),
        "prompt_tokens": ticket.n_prompt_tokens,
        "cached_tokens": sum(one.n_cached_tokens for one in spent),
        "completion_tokens": ticket.n_completion_tokens,
    }
