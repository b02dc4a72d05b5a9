"""
Traces by OpenTelemetry: a span for each request, and within it how long it waited, was read and was written.

    chat local-mlx/gemma-3-demo    from the first byte read to the last one sent
    ├── queue                      until the engine began with the prompt
    ├── prefill                    until the first token
    └── decode                     until the last one

The three come from what the engine says with the last delta of an answer, so that an answer that was cut has
none. A request for several answers has the three for each. Names are those of OpenTelemetry's conventions for
generative AI and for HTTP, where they have one. What was asked and answered is in no trace.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.fleet.ticket import Ticket
from service.web.journal import WATCHED, Visit
from service.web.tracing import Header, Off, Trace

CLOSE_S = 1.0  # a server that ends has five seconds for all
NS = 1_000_000_000
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_propagator = TraceContextTextMapPropagator()


class OpenTelemetry:
    """
    Makes spans.

    Args:
        provider: what they are handed to.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mlx-tier3a")

    def begin(self, visit: Visit, headers: Iterable[Header]) -> Trace:
        """Begin a span; requests that only watch the server have none."""
        if visit.path in WATCHED:
            return Off().begin(visit, headers)
        return _Request(self._tracer, visit, headers)

    def close(self) -> None:
        """Send what is left; whoever takes longer for it is left behind."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_S)


class _Request:
    """The span of one request, and its parts."""

    def __init__(self, tracer: Tracer, visit: Visit, headers: Iterable[Header]) -> None:
        carrier = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in headers}
        self._tracer = tracer
        self._began_ns = time.time_ns()
        self._span: Span = tracer.start_span(
            visit.method,
            context=_propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=self._began_ns,
        )
        carried: dict[str, str] = {}
        _propagator.inject(carried, set_span_in_context(self._span))
        self.headers = tuple((name.encode(), text.encode()) for name, text in carried.items())

    def end(self, visit: Visit, request_id: str, status: int) -> None:
        """Say what there is to say, and hand all of it on."""
        span = self._span
        if span.is_recording():
            operation = OPERATIONS.get(visit.route)
            names = (operation, visit.model) if operation else (visit.method, visit.route)
            span.update_name(" ".join(filter(None, names)))
            span.set_attributes(_attributes(visit, request_id, status))
            if operation:
                span.set_attributes(_generated(visit, operation))
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
            if visit.ticket is not None:
                self._tell_parts(visit.ticket, visit.came_s)
        span.end()

    def _tell_parts(self, ticket: Ticket, came_s: float) -> None:
        """Tell where the time of each answer went, one part after the other."""
        within = set_span_in_context(self._span)
        sent_s = ticket.sent_s - came_s
        for last in ticket.ended:
            if last.spent is None:
                continue
            index = {"tier3a.choice.index": ticket.index_of(last)}
            begun_s = sent_s + last.spent.queue_s
            first_s = begun_s + last.spent.prefill_s
            for name, from_s, to_s in (
                ("queue", sent_s - ticket.waited_s, begun_s),
                ("prefill", begun_s, first_s),
                ("decode", first_s, first_s + last.spent.decode_s),
            ):
                part = self._tracer.start_span(
                    name, within, attributes=index, start_time=self._at(from_s)
                )
                part.end(self._at(to_s))

    def _at(self, seconds: float) -> int:
        """Return the moment so many seconds after the request came."""
        return self._began_ns + round(seconds * NS)


def _attributes(visit: Visit, request_id: str, status: int) -> dict[str, str | int]:
    """Return what there is to say of any request."""
    found: dict[str, str | int] = {
        "http.request.method": visit.method,
        "http.response.status_code": status,
        "http.route": visit.route,
        "url.path": visit.path,
        "tier3a.request_id": request_id,
        "tier3a.key": visit.key.name,
    }
    return {name: value for name, value in found.items() if value != ""}


def _generated(visit: Visit, operation: str) -> dict[str, str | int | list[str]]:
    """Return what there is to say of what a model did."""
    found: dict[str, str | int | list[str]] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "tier3a",
    }
    if visit.model:
        found |= {"gen_ai.request.model": visit.model, "gen_ai.response.model": visit.model}
    if visit.n_prompt_tokens:
        found["gen_ai.usage.input_tokens"] = visit.n_prompt_tokens
    if visit.ticket is not None:
        ended = visit.ticket.ended
        found |= {
            "gen_ai.usage.output_tokens": visit.n_completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": sum(
                last.spent.n_cached_tokens for last in ended if last.spent is not None
            ),
            "gen_ai.response.finish_reasons": [
                last.finish_reason for last in ended if last.finish_reason is not None
            ],
        }
    return found


def to_collector(endpoint: str) -> OpenTelemetry:
    """Return what sends spans to the collector at *endpoint*, by OTLP over HTTP; a thread does that."""
    name = os.environ.get("OTEL_SERVICE_NAME", "tier3a")
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OpenTelemetry(provider)
