"""
What an operator sees: log lines, each with its request's id, and metrics for Prometheus.

A line reads `YYYY-MM-DD HH:MM:SS | LEVEL | message [request_id=ID]`; the id is there for every line
written while a request is being served, whoever writes it. `LOG_FORMAT=json` makes an object of each.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_SERVERS = ("uvicorn", "gunicorn.error", "opentelemetry")
_VERSIONS = {"version": "mlx-tier3a", "mlx": "mlx", "mlx_lm": "mlx-lm"}
_WAIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_LOOP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class LineFormatter(logging.Formatter):
    """The one log format, with the request's id at the end of the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s | %(levelname)s | %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        """Return the line, before any traceback is put below it."""
        line = super().formatMessage(record)
        current = request_id.get()
        return line if current is None else f"{line} [request_id={current}]"


class JsonFormatter(logging.Formatter):
    """A line as a JSON object, for what collects logs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; members that say nothing are left out."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None})


def configure_logging(level: str, form: str = "text") -> None:
    """
    Send the lines of `service`, and of the server and libraries around it, to standard error; idempotent.

    Args:
        level: the least severe level of ours; a server's own lines come from INFO up.
        form: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter() if form == "text" else JsonFormatter())
    for name in ("service", *_SERVERS):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("service").setLevel(level)
    # Our own start and completion lines say more, and always come in pairs.
    logging.getLogger("uvicorn.access").disabled = True


class BuildInfo(Collector):
    """Which versions run, as labels of a metric that is always 1."""

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        versions = {label: _version(name) for label, name in _VERSIONS.items()}
        labels = {"python": platform.python_version()} | versions
        family = GaugeMetricFamily(
            "tier3a_build_info", "Which versions run; always 1.", labels=tuple(labels)
        )
        family.add_metric(tuple(labels.values()), 1)
        yield family


@functools.cache
def _version(distribution: str) -> str:
    """Return the version of what is installed under that name; empty: nothing is."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


class Metrics:
    """The counters of one app; names carry their units. Engines have theirs in `web/engine_metrics`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it is the library's own way
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tier3a_requests", "Requests by how they ended.",
            ["method", "route", "model", "status"], registry=self.registry,
        )  # fmt: skip
        self.requests_started = Counter(
            "tier3a_requests_started", "Requests begun, however they end.", registry=self.registry
        )
        self.in_flight = Gauge(
            "tier3a_requests_in_flight", "Requests begun and not yet ended.", registry=self.registry
        )
        self.duration_s = Histogram(
            "tier3a_request_duration_seconds", "From the first byte read to the last one sent.",
            ["method", "route"], registry=self.registry,
            buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "tier3a_prompt_tokens", "Tokens of accepted prompts.", ["model"], registry=self.registry
        )
        self.completion_tokens = Counter(
            "tier3a_completion_tokens", "Tokens of answers that were finished.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self.cached_tokens = Counter(
            "tier3a_cached_prompt_tokens",
            "Tokens of prompts that the prefix cache had.",
            ["model"],
            registry=self.registry,
        )
        self.key_requests = Counter(
            "tier3a_key_requests", "Requests that bore a key with a name.",
            ["key", "model", "status"], registry=self.registry,
        )  # fmt: skip
        self.key_prompt_tokens = Counter(
            "tier3a_key_prompt_tokens", "Tokens that were read for the bearer of a key.",
            ["key", "model"], registry=self.registry,
        )  # fmt: skip
        self.key_completion_tokens = Counter(
            "tier3a_key_completion_tokens", "Tokens that were generated for the bearer of a key.",
            ["key", "model"], registry=self.registry,
        )  # fmt: skip
        self.queue_s = self._seconds("queue", "From a request's arrival until the engine began it.")
        self.ttft_s = self._seconds(
            "time_to_first_token", "From a request's arrival to its first token."
        )
        self.prefill_s = self._seconds("prefill", "Prefill of a request's slowest prompt.")
        self.decode_s = self._seconds("decode", "Decoding of a request's slowest answer.")
        self.inter_token_s = self._seconds(
            "inter_token",
            "Between two tokens of a request's slowest answer, in the mean.",
            _TOKEN_BUCKETS_S,
        )
        self.streams_broken = Counter(
            "tier3a_streams_broken", "Streams that had begun with 200 and ended with an error event.",
            ["code"], registry=self.registry,
        )  # fmt: skip
        self.loop_lag_s = Histogram(
            "tier3a_event_loop_lag_seconds", "How late the event loop turned, looked at regularly.",
            registry=self.registry,
            buckets=_LOOP_BUCKETS_S,
        )  # fmt: skip
        self.loop_busy_s = Histogram(
            "tier3a_event_loop_busy_seconds",
            "Processor time of the event loop between two looks, some 20 ms apart.",
            registry=self.registry, buckets=_LOOP_BUCKETS_S,
        )  # fmt: skip

        self.registry.register(BuildInfo())

    def _seconds(
        self, name: str, what: str, buckets: Sequence[float] = _WAIT_BUCKETS_S
    ) -> Histogram:
        """Return a histogram of seconds, by model."""
        return Histogram(
            f"tier3a_{name}_seconds", what, ["model"], registry=self.registry, buckets=buckets
        )

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
