"""Traces of a real server, sent over the network to a collector that writes them down."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.chatting import CHAT, HELLO
from tests.live import LiveServer, running

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra tracing is not installed")

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MODEL = "local-mlx/gemma-3-demo"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "other=1"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-00"}
SAMPLED = r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]"  # 2: its id is random, as Level 2 has it
PARTS = ("queue", "prefill", "decode")

Span = dict[str, Any]


class Collector(ThreadingHTTPServer):
    """
    Takes traces by OTLP over HTTP.

    Attributes:
        spans: all that came, as in OTLP's JSON form, ids in hexadecimal, attributes by name.
        resources: the attributes of what sent them.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def take(self, body: bytes) -> None:
        """Take one request's spans in."""
        request = ExportTraceServiceRequest.FromString(body)
        for sent in request.resource_spans:
            self.resources.append(_plain(MessageToDict(sent.resource)["attributes"]))
            for scope in sent.scope_spans:
                for one in scope.spans:
                    span = MessageToDict(one) | {
                        "trace": one.trace_id.hex(),
                        "id": one.span_id.hex(),
                        "parent": one.parent_span_id.hex(),
                        "from_ns": one.start_time_unix_nano,
                        "to_ns": one.end_time_unix_nano,
                    }
                    self.spans.append(span | {"attributes": _plain(span.get("attributes", []))})

    def trace(self, request_id: str) -> tuple[Span, list[Span]]:
        """Wait for the span of a request; return it with its parts, in the order of their beginnings."""
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            for span in self.spans.copy():
                if span["attributes"].get("tier3a.request_id") == request_id:
                    parts = [each for each in self.spans if each["parent"] == span["id"]]
                    return span, sorted(parts, key=lambda each: (each["from_ns"], each["to_ns"]))
            time.sleep(0.05)
        raise AssertionError(f"no span of {request_id} among {len(self.spans)}")


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """Take what comes at the one path that OTLP has for traces."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        is_right = self.path == "/v1/traces"
        if is_right:
            self.server.take(body)
        self.send_response(200 if is_right else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in attributes}


def _value(value: dict[str, Any]) -> Any:
    ((kind, found),) = value.items()
    if kind == "arrayValue":
        return [_value(one) for one in found["values"]]
    return int(found) if kind == "intValue" else found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Return a collector."""
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def live(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server that sends it traces, ten times a second."""
    with running(
        tmp_path_factory.mktemp("traced") / "log",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        server.wait_until("/readyz", 200)
        yield server


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx.Client]:
    """Return a client of the server."""
    with live.client() as client:
        yield client


def test_chat_is_a_span_with_its_parts(http: httpx.Client, collector: Collector) -> None:
    """It is part of the trace that came, and tells of model, tokens and time, and nothing that was said."""
    body = {"messages": HELLO, "max_tokens": 8}
    answer = http.post(CHAT, json=body, headers=GIVEN | {"X-Request-ID": "chat-1"})
    span, parts = collector.trace("chat-1")
    usage, timings = answer.json()["usage"], answer.json()["timings"]

    assert (TRACE, PARENT, "SPAN_KIND_SERVER") == (span["trace"], span["parent"], span["kind"])
    assert "other=1" == span["traceState"]
    assert f"chat {MODEL}" == span["name"]
    assert {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": CHAT,
        "url.path": CHAT,
        "tier3a.request_id": "chat-1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tier3a",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": [answer.json()["choices"][0]["finish_reason"]],
    } == span["attributes"]
    assert [*PARTS] == [part["name"] for part in parts]
    assert [TRACE] * 3 == [part["trace"] for part in parts]
    queue, prefill, decode = parts
    assert (queue["to_ns"], prefill["to_ns"]) == (prefill["from_ns"], decode["from_ns"])
    assert span["from_ns"] <= queue["from_ns"]
    assert decode["to_ns"] <= span["to_ns"]
    took_s = [(part["to_ns"] - part["from_ns"]) / 1e9 for part in parts]
    told_s = [timings[f"{name}_s"] for name in PARTS]
    assert told_s == pytest.approx(took_s, abs=1e-4)
    assert "Hello" not in json.dumps([span, parts])


def test_response_names_its_trace(http: httpx.Client, collector: Collector) -> None:
    """The header has the id of the server's own span, in the trace that came or in a new one."""
    joined = http.get("/v1/models", headers=GIVEN | {"X-Request-ID": "list-1"})
    alone = http.get("/v1/models", headers={"X-Request-ID": "list-2"})

    for name, answer in (("list-1", joined), ("list-2", alone)):
        span, parts = collector.trace(name)
        named = re.fullmatch(SAMPLED, answer.headers["traceparent"])
        assert named is not None
        assert (span["trace"], span["id"]) == named.groups()
        assert ("GET /v1/models", []) == (span["name"], parts)
    assert TRACE in joined.headers["traceparent"]
    assert TRACE not in alone.headers["traceparent"]


@pytest.mark.parametrize(
    ("path", "more", "operation"),
    [
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}, "text_completion"),
        ("/v1/messages", {"model": "gemma", "messages": HELLO, "max_tokens": 4}, "chat"),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 16}, "chat"),
    ],
)
def test_other_endpoints(
    http: httpx.Client, collector: Collector, path: str, more: dict[str, Any], operation: str
) -> None:
    """Streams, too, and each by its own kind of operation."""
    name = path.rpartition("/")[2]
    assert (
        200
        == http.post(path, json=more | {"stream": True}, headers={"X-Request-ID": name}).status_code
    )
    span, parts = collector.trace(name)

    assert operation == span["attributes"]["gen_ai.operation.name"]
    assert [*PARTS] == [part["name"] for part in parts]


def test_several_answers_have_their_own_parts(http: httpx.Client, collector: Collector) -> None:
    """Three for each, with the answer's place."""
    body = {"messages": HELLO, "max_tokens": 4, "n": 2}
    http.post(CHAT, json=body, headers={"X-Request-ID": "two"})
    _, parts = collector.trace("two")

    found = sorted(
        (part["attributes"].get("tier3a.choice.index", 0), part["name"]) for part in parts
    )
    assert sorted((i, name) for i in range(2) for name in PARTS) == found


def test_refusal_is_told_by_its_status(http: httpx.Client, collector: Collector) -> None:
    """A fault of the client's is no error of the server's."""
    http.post(CHAT, json={"messages": []}, headers={"X-Request-ID": "bad"})
    span, parts = collector.trace("bad")

    assert (400, []) == (span["attributes"]["http.response.status_code"], parts)
    assert {} == span.get("status", {})


def test_probes_and_what_is_not_sampled_are_not_sent(
    http: httpx.Client, collector: Collector
) -> None:
    """The client's word on that holds; it gets the trace's name all the same."""
    unsampled = http.get("/v1/models", headers=NOT_SAMPLED | {"X-Request-ID": "not-sampled"})
    probe = http.get("/health", headers=GIVEN | {"X-Request-ID": "probe"})
    http.get("/v1/models", headers={"X-Request-ID": "after"})
    collector.trace("after")
    sent = {span["attributes"].get("tier3a.request_id") for span in collector.spans}

    assert not {"not-sampled", "probe"} & sent
    assert unsampled.headers["traceparent"].endswith("-00")
    assert "traceparent" not in probe.headers
    assert {"tier3a"} == {each["service.name"] for each in collector.resources}


def test_last_traces_are_sent_at_the_end(tmp_path: Path) -> None:
    """What waits to be sent is sent before the server is gone."""
    with collecting() as collector:
        address = f"http://127.0.0.1:{collector.server_port}"
        with running(tmp_path / "log", OTEL_EXPORTER_OTLP_ENDPOINT=address) as server:
            server.wait_until("/livez", 200)
            with server.client() as http:
                http.get("/v1/models", headers={"X-Request-ID": "last"})
            assert 0 == server.end()
        span, _ = collector.trace("last")
        assert 503 == span["attributes"]["http.response.status_code"]
        assert "STATUS_CODE_ERROR" == span["status"]["code"]


def test_collector_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    """Requests are answered, the end comes in time, and the log says what is wrong."""
    with running(
        tmp_path / "log",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as server:
        server.wait_until("/readyz", 200)
        with server.client() as http:
            assert 200 == http.post(CHAT, json={"messages": HELLO, "max_tokens": 4}).status_code
        end_s = time.monotonic() + 10
        while "127.0.0.1" not in server.log_text().partition("Request completed")[2]:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        began_s = time.monotonic()
        assert 0 == server.end()
        assert time.monotonic() - began_s < 5
