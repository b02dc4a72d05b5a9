"""Without a collector there are no traces, and what makes them is not even imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.app import create_app
from service.settings import BOOT_FAILURE_STATUS, Settings
from service.web.journal import Visit
from service.web.tracing import NoTracing, Off, tracing
from tests.live import ROOT


def test_nothing_is_imported_without_a_collector() -> None:
    """The API process has no part of OpenTelemetry in it."""
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings\n"
        "create_app(Settings())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "[]" == ended.stdout.strip()


def test_untraced_request_carries_nothing() -> None:
    """Its response has no header more."""
    visit = Visit("GET", "/v1/models", 0.0)
    trace = Off().begin(visit, [(b"traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")])
    trace.end(visit, "req-1", 200)

    assert () == trace.headers
    assert isinstance(tracing(None), Off)


def test_collector_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install."""
    monkeypatch.delitem(sys.modules, "service.web.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(NoTracing, match=r"pip install 'mlx-tier3a\[tracing\]'") as refused:
        create_app(Settings(otlp_endpoint="http://127.0.0.1:4318"))

    assert BOOT_FAILURE_STATUS == refused.value.exit_code
