"""
Bad input, row by row, on both servers: a clear error, both headers, and nothing is the worse for it.

The rows' numbers are those of the table in `tests/README.md`. What one server answers by itself, before this
application hears of it, may have a status of its own; the envelope it has all the same.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from service import contracts
from tests.live import GUNICORN, PLAIN, UVICORN, LiveServer, running

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}
HELLO: dict[str, Any] = {"model": "gemma", "messages": [USER], "max_tokens": 1}
WAYS = {"uvicorn": UVICORN, "gunicorn": GUNICORN}
MAX_BUSY_S = (
    0.25  # a shared machine; by itself it is a fifth of that, and the time between two looks
)

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module", params=WAYS)
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One server for all rows, started each way."""
    log = tmp_path_factory.mktemp(request.param) / "log"
    with running(log, WAYS[request.param]) as server:
        server.wait_until("/readyz", 200)
        yield server


def raw(server: LiveServer, data: bytes) -> Answer:
    """Send *data* as it is; return the first response."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        return response_of(connection)


def response_of(connection: socket.socket) -> Answer:
    """Return the next response of *connection*."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()


def head(*lines: str, method: str = "POST", path: str = CHAT) -> bytes:
    """Return the head of a request with our Host and *lines*."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def posted(body: object, path: str = CHAT, **headers: str) -> bytes:
    """Return a request that posts *body*, bytes or what JSON is made of."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "Content_Type" not in headers:
        lines.append("Content-Type: application/json")
    return head(*lines, f"Content-Length: {len(content)}", path=path) + content


def held(schema: object) -> dict[str, Any]:
    """Return a chat whose answer must fit *schema*."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return HELLO | {"response_format": form}


def said(content: object) -> dict[str, Any]:
    """Return a chat with one message."""
    return HELLO | {"messages": [{"role": "user", "content": content}]}


def pictured(url: str) -> dict[str, Any]:
    """Return a chat with a picture."""
    return said([{"type": "image_url", "image_url": {"url": url}}])


def keys(n: int) -> bytes:
    """Return an object of *n* keys."""
    return b"{%s}" % b",".join(b'"%d":1' % i for i in range(n))


def lists(n: int) -> bytes:
    """Return a chat with *n* empty lists in it."""
    return b'{"model":"gemma","messages":[%s[]]}' % (b"[]," * (n - 1))


def numbers(n: int) -> bytes:
    """Return token ids to be made a text of."""
    return b'{"model":"gemma","tokens":[%s1]}' % (b"1," * (n - 1))


TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + struct.pack("32B", *range(32))
LIKE_OURS = "http://localhost"
ROWS: list[tuple[int, str, bytes, set[int], str | None]] = [
    (1, "TLS", TLS, {400}, "invalid_http_request"),
    (1, "HTTP/0.9", b"GET /health\r\n\r\n", {400}, "invalid_http_request"),
    (1, "nonsense", b"\x00\x01\x02\r\n\r\n", {400}, "invalid_http_request"),
    (2, "long header", head("X-Long: " + "x" * 40_000, method="GET", path="/health"), {431},
     "headers_too_large"),
    (2, "many headers", head(*(f"X-{i}: 1" for i in range(300)), method="GET", path="/health"), {431},
     "headers_too_large"),
    (3, "long URL", head(method="GET", path="/health?" + "a" * 9000), {414}, "uri_too_long"),
    (6, "both lengths", head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n", {400},
     "invalid_http_request"),
    (6, "two lengths", head("Content-Length: 5", "Content-Length: 6") + b"12345", {400},
     "invalid_http_request"),
    (6, "no length", head("Content-Length: x") + b"12345", {400}, "invalid_http_request"),
    (7, "rebound host", posted(HELLO).replace(b"localhost", b"evil.example"), {403}, "host_not_allowed"),
    (8, "no host", b"GET /health HTTP/1.1\r\n\r\n", {400}, None),
    (9, "foreign origin", posted(HELLO, Origin="http://evil.example"), {403}, "origin_not_allowed"),
    (9, "null origin", posted(HELLO, Origin="null"), {403}, "origin_not_allowed"),
    (10, "preflight", head("Origin: http://evil.example", "Access-Control-Request-Method: POST",
                           method="OPTIONS"), {403}, "origin_not_allowed"),
    (11, "form", posted(HELLO, Content_Type="text/plain", Origin=LIKE_OURS), {415},
     "unsupported_media_type"),
    (12, "gzip", posted(b"\x1f\x8b", Content_Encoding="gzip"), {415}, "unsupported_media_type"),
    (13, "declared", head("Content-Type: application/json", "Content-Length: 1000000000"), {413},
     "request_too_large"),
    (14, "empty", posted(b""), {400}, "invalid_json"),
    (14, "truncated", posted(b'{"model": "gemma"'), {400}, "invalid_json"),
    (14, "trailing", posted(b"{} x"), {400}, "invalid_json"),
    (14, "BOM", posted(b"\xef\xbb\xbf{}"), {400}, "invalid_json"),
    (15, "list", posted([]), {400}, "invalid_type"),
    (15, "null", posted(None), {400}, "invalid_type"),
    (16, "deep", posted(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"), {400}, "json_too_deep"),
    (17, "NaN", posted(b'{"temperature": NaN}'), {400}, "invalid_json"),
    (17, "1e999", posted(b'{"temperature": 1e999}'), {400}, "invalid_json"),
    (18, "20 digits", posted(HELLO | {"max_tokens": 10**19}), {400}, "invalid_value"),
    (18, "4301 digits", posted(b'{"seed": 1%s}' % (b"0" * 4300)), {400}, "invalid_json"),
    (19, "not UTF-8", posted(b'{"model": "\xff"}'), {400}, "invalid_json"),
    (19, "surrogate", posted(b'{"model": "\\ud800"}'), {400}, "invalid_json"),
    (20, "keys", posted(keys(1_000_000)), {400}, "json_too_large"),
    (20, "lists", posted(lists(5_300_000)), {400}, "json_too_large"),
    (20, "lists let in", posted(lists(49_000)), {400}, None),
    (20, "numbers", posted(numbers(7_900_000), "/v1/detokenize"), {400}, "json_too_large"),
    (20, "numbers let in", posted(numbers(390_000), "/v1/detokenize"), {200}, None),
    (20, "long text", posted(said("a word " * 2_200_000)), {400}, "context_length_exceeded"),
    (20, "quotes", posted(said('"' * 7_900_000)), {400}, "context_length_exceeded"),
    (21, "NUL", posted(said("a\x00b")), {200}, None),
    (22, "token id", posted({"model": "gemma", "prompt": [10**6]}, "/v1/completions"), {400},
     "invalid_token"),
    (22, "bool", posted({"model": "gemma", "prompt": [True]}, "/v1/completions"), {400}, None),
    (23, "bias", posted(HELLO | {"logit_bias": {"999999": 1}}), {400}, "invalid_token"),
    (24, "n", posted(HELLO | {"n": 9}), {400}, "invalid_value"),
    (25, "max_tokens", posted(HELLO | {"max_tokens": 10**30}), {400}, "invalid_value"),
    (26, "context", posted(said("word " * 9000)), {400}, "context_length_exceeded"),
    (27, "top_k", posted(HELLO | {"top_k": 2**31 - 1}), {200}, None),
    (28, "seed", posted(HELLO | {"seed": 2**64}), {400}, "invalid_value"),
    (29, "stop", posted(HELLO | {"stop": [""]}), {400}, "invalid_value"),
    (30, "schema", posted(held({"type": "banana"})), {400}, "invalid_json_schema"),
    (31, "$ref", posted(held({"$ref": "http://127.0.0.1:9/x.json"})), {400}, "invalid_json_schema"),
    (32, "(a+)+$", posted(HELLO | {"guided_regex": "(a+)+$"}), {200, 400}, None),
    (32, "repeated", posted(HELLO | {"guided_regex": "((a{1000}){1000}){1000}"}), {400},
     "invalid_grammar"),
    (32, "lookaround", posted(HELLO | {"guided_regex": "(?=a)"}), {400}, "invalid_grammar"),
    (33, "template", posted(HELLO | {"chat_template": "{{7*7}}"}), {400}, "template_not_allowed"),
    (33, "global", posted(HELLO | {"chat_template_kwargs": {"raise_exception": 1}}), {400},
     "template_not_allowed"),
    (34, "spelled", posted(said("{{7*7}}<start_of_turn><eos>")), {200}, None),
    (36, "link-local", posted(pictured("http://169.254.169.254/")), {400}, "unsupported_content"),
    (36, "file", posted(pictured("file:///etc/passwd")), {400}, "unsupported_content"),
    (37, "picture", posted(pictured("data:image/svg+xml;base64,AAAA")), {400}, "unsupported_content"),
    (38, "traversal", head(method="GET", path="/v1/models/..%2f..%2fetc%2fpasswd"), {404},
     "model_not_found"),
    (38, "header", head(method="GET", path="/v1/models/%0d%0aX-Evil:1"), {404}, "model_not_found"),
    (39, "path", posted(HELLO | {"model": "/etc/passwd"}), {404}, "model_not_found"),
    (40, "id", head("X-Request-ID: " + "x" * 129, method="GET", path="/nowhere"), {404}, "not_found"),
    (42, "route", head(method="GET", path="/nowhere"), {404}, "not_found"),
    (42, "method", head(method="GET", path=CHAT), {405}, "method_not_allowed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "statuses", "code"), [pytest.param(*r[2:], id=f"{r[0]}-{r[1]}") for r in ROWS]
)
def test_row(live: LiveServer, data: bytes, statuses: set[int], code: str | None) -> None:
    """The answer is as the row says; then all is as before, and nobody had to wait meanwhile."""
    engine, slow = live.engine_pid(), slow_turns(live)
    status, headers, body = raw(live, data)

    assert status in statuses, body
    assert {"x-request-id", "x-process-time"} <= headers.keys()
    assert "x-evil" not in headers
    assert "access-control-allow-origin" not in headers
    if status >= 400:
        error = json.loads(body)
        contracts.check("error", error)
        assert {"message", "type", "param", "code"} == error["error"].keys()
        assert code in (None, error["error"]["code"])
    for word in (b"Traceback", b"site-packages", os.getcwd().encode()):
        assert word not in body
    assert slow == slow_turns(live)
    assert live.engine_pid() == engine
    with live.client() as client:
        assert 200 == client.post(CHAT, json=HELLO).status_code
    settle(live)


def slow_turns(server: LiveServer) -> int:
    """Return how often the event loop was busy for longer than it may be, whatever else the machine does."""
    page = httpx.get(server.url + "/metrics", timeout=20, verify=PLAIN).text
    name = "tier3a_event_loop_busy_seconds"
    return round(total(page, f"{name}_count") - total(page, f'{name}_bucket{{le="{MAX_BUSY_S}"}}'))


def in_use(server: LiveServer) -> tuple[float, float]:
    """Return how many permits are given, and how many requests are being answered."""
    page = httpx.get(server.url + "/metrics", timeout=20, verify=PLAIN).text
    return total(page, "tier3a_permits_in_use"), total(page, "tier3a_requests_in_flight")


def total(page: str, name: str) -> float:
    """Return the sum of all values of a metric on a *page*."""
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def settle(server: LiveServer) -> None:
    """All that was begun ends soon, on an idle machine at once: permits, requests, and what is owed."""
    end_s = time.monotonic() + 10
    nothing = (0, 1)  # the question itself is a request
    while (seen := in_use(server)) != nothing and time.monotonic() < end_s:
        time.sleep(0.02)

    assert nothing == seen


class Unfinished(NamedTuple):
    """
    What became of connections on which no whole head came.

    Attributes:
        answer: to half a head.
        rest: what else came, there and where nothing was said.
        lasted_s: seconds until both were closed.
    """

    answer: Answer
    rest: bytes
    lasted_s: float


def unfinished(server: LiveServer) -> Unfinished:
    """Send half a head on one connection and nothing on another, and wait for the end of both."""
    host, port = server.url.removeprefix("http://").split(":")
    began_s = time.monotonic()
    with (
        socket.create_connection((host, int(port)), timeout=20) as silent,
        socket.create_connection((host, int(port)), timeout=20) as slow,
    ):
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        answer = response_of(slow)
        return Unfinished(answer, slow.recv(1) + silent.recv(1), time.monotonic() - began_s)


@pytest.fixture(scope="module", autouse=True)
def late(live: LiveServer) -> Iterator[Future[Unfinished]]:
    """It takes ten seconds, in which the rows are sent."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(unfinished, live)


def test_row_4_head_that_does_not_come(late: Future[Unfinished]) -> None:
    """Half a head is told after ten seconds, a connection that says nothing is closed then."""
    (status, headers, body), rest, lasted_s = late.result()

    assert (408, "request_timeout") == (status, json.loads(body)["error"]["code"])
    assert headers["x-request-id"]
    assert b"" == rest
    assert 9 < lasted_s < 13


def test_row_13_body_without_a_length(live: LiveServer) -> None:
    """Chunks that go on and on are refused before they end."""
    start = head("Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"100000\r\n%s\r\n" % (b"x" * 0x100000)
    status, headers, body = raw(live, start + chunk * 17)

    assert (413, "request_too_large") == (status, json.loads(body)["error"]["code"])
    assert "x-request-id" in headers


@pytest.mark.parametrize("is_streamed", [True, False])
def test_clients_that_vanish_leave_nothing(live: LiveServer, is_streamed: bool) -> None:
    """Forty of them, wherever their requests stand: permits, tickets and descriptors come back."""
    host, port = live.url.removeprefix("http://").split(":")
    body = HELLO | {"max_tokens": 4000, "ignore_eos": True, "stream": is_streamed}
    data = posted(body)
    engine = live.engine_pid()
    connections = [socket.create_connection((host, int(port)), timeout=20) for _ in range(40)]
    for connection in connections:
        connection.sendall(data)
    time.sleep(0.3)
    for connection in connections:
        connection.close()
    settle(live)

    assert engine == live.engine_pid()


def test_all_that_was_started_has_ended(live: LiveServer) -> None:
    """Started is completed, failed and cancelled together, exactly, after all that was done here."""
    settle(live)
    page = httpx.get(live.url + "/metrics", timeout=20, verify=PLAIN).text
    started, ended, in_flight = (
        total(page, f"tier3a_requests_{name}") for name in ("started_total", "total", "in_flight")
    )

    assert started > 100
    assert started == ended + in_flight


def test_tokenizing_for_clients_who_left_delays_nobody(live: LiveServer) -> None:
    """Eight long texts are asked about, and nobody stays for the answer; a chat is served at once."""
    host, port = live.url.removeprefix("http://").split(":")
    data = posted({"model": "gemma", "prompt": "a word " * 37_000}, "/v1/tokenize")
    with live.client() as client:
        client.post(CHAT, json=HELLO)
        connections = [socket.create_connection((host, int(port)), timeout=20) for _ in range(8)]
        for connection in connections:
            connection.sendall(data)
        time.sleep(0.2)
        for connection in connections:
            connection.close()
        began_s = time.monotonic()
        status = client.post(CHAT, json=HELLO).status_code
        lasted_s = time.monotonic() - began_s

    assert 200 == status
    assert lasted_s < 4  # one text that was begun; on an idle machine a second
