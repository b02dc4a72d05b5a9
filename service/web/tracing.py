"""
A trace of each request for a collector, if OTEL_EXPORTER_OTLP_ENDPOINT names one.

Here is what the rest of the server knows of it. OpenTelemetry itself is imported by `otel` alone, and that
only where it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import click

from service.settings import BOOT_FAILURE_STATUS
from service.web.journal import Visit

Header = tuple[bytes, bytes]


class NoTracing(click.ClickException):
    """Traces are wanted, and what makes them is not installed."""

    exit_code = BOOT_FAILURE_STATUS


class Trace(Protocol):
    """
    The trace of one request.

    Attributes:
        headers: what its response carries, so that the client knows the trace.
    """

    headers: tuple[Header, ...]

    def end(self, visit: Visit, request_id: str, status: int) -> None:
        """Tell all that is known of a request that has ended."""


class Tracing(Protocol):
    """Makes traces, and sends them on."""

    def begin(self, visit: Visit, headers: Iterable[Header]) -> Trace:
        """Begin the trace of a request, as part of the one that its *headers* name, if they do."""

    def close(self) -> None:
        """Send what is left, for a second at most; blocks for as long."""


class _Untraced:
    headers: tuple[Header, ...] = ()

    def end(self, visit: Visit, request_id: str, status: int) -> None:
        """Tell nothing."""


class Off:
    """No traces."""

    _none = _Untraced()

    def begin(self, visit: Visit, headers: Iterable[Header]) -> Trace:  # noqa: ARG002
        """Return what does nothing."""
        return self._none

    def close(self) -> None:
        """Do nothing."""


def tracing(endpoint: str | None) -> Tracing:
    """
    Return what traces requests for the collector at *endpoint*; None: nobody wants traces.

    Raises:
        NoTracing: what it takes is not installed.
    """
    if endpoint is None:
        return Off()
    try:
        from service.web import otel
    except ImportError as error:
        raise NoTracing(
            f"OTEL_EXPORTER_OTLP_ENDPOINT needs the extra tracing, and {error.name} is not installed: "
            "pip install 'mlx-tier3a[tracing]'."
        ) from None
    return otel.to_collector(endpoint)
