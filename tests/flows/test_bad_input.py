"""Bad input gets a clear error before anything begins, and nothing of it reaches the engine."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from service.contracts import check
from tests.live import LiveServer

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "gemma", "messages": [{"role": "user", "content": "Hello"}]}

BODIES: list[tuple[str, bytes | dict[str, Any], int, str, str | None]] = [
    ("empty", b"", 400, "invalid_json", None),
    ("truncated", b'{"model": "gemma"', 400, "invalid_json", None),
    ("trailing", json.dumps(HELLO).encode() + b" x", 400, "invalid_json", None),
    ("nan", b'{"model": "gemma", "temperature": NaN}', 400, "invalid_json", None),
    ("utf8", b'{"model": "\xff"}', 400, "invalid_json", None),
    ("surrogate", b'{"model": "\\ud800"}', 400, "invalid_json", None),
    ("list", b"[]", 400, "invalid_type", None),
    ("deep", b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", 400, "json_too_deep", None),
    ("very-deep", b"[" * 100_000, 400, "json_too_deep", None),
    ("no-model", {"messages": HELLO["messages"]}, 400, "missing_required_field", "model"),
    ("no-messages", {"model": "gemma"}, 400, "missing_required_field", "messages"),
    ("empty-messages", HELLO | {"messages": []}, 400, "invalid_value", "messages"),
    ("role", HELLO | {"messages": [{"role": "x", "content": ""}]}, 400, "invalid_value", "messages.0.role"),
    ("type", HELLO | {"temperature": "hot"}, 400, "invalid_type", "temperature"),
    ("range", HELLO | {"temperature": 3}, 400, "invalid_value", "temperature"),
    ("max-tokens-0", HELLO | {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ("max-tokens-big", HELLO | {"max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ("top-k", HELLO | {"top_k": 1e30}, 400, "invalid_value", "top_k"),
    ("many", HELLO | {"messages": HELLO["messages"] * 5000}, 400, "invalid_value", "messages"),
    ("seed", HELLO | {"seed": -1}, 400, "invalid_value", "seed"),
    ("stop", HELLO | {"stop": [""]}, 400, "invalid_value", "stop.0"),
    ("n", HELLO | {"n": 2}, 400, "unsupported_parameter", "n"),
    ("tools", HELLO | {"tools": [{"type": "function", "function": {"name": "f"}}]}, 400,
     "unsupported_parameter", "tools"),
    ("image", HELLO | {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]}, 400,
     "unsupported_content", "messages.0.content.0.type"),
    ("model", HELLO | {"model": "/etc/passwd"}, 404, "model_not_found", "model"),
    ("long", HELLO | {"messages": [{"role": "user", "content": "word " * 9000}]}, 400,
     "context_length_exceeded", "messages"),
]  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("body", "status", "code", "param"), [pytest.param(*b[1:], id=b[0]) for b in BODIES]
)
def test_bad_body_is_refused_before_any_stream_begins(
    client: httpx.Client,
    server: LiveServer,
    body: bytes | dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    is_stream: bool,
) -> None:
    """Status, envelope, code and param are right, streaming or not; the engine is the same after."""
    engine = server.engine_pid()
    if isinstance(body, dict):
        body = json.dumps(body | {"stream": is_stream}).encode()
    response = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    error = response.json()

    check("error", error)
    assert (status, code, param) == (
        response.status_code,
        error["error"]["code"],
        error["error"]["param"],
    )
    assert response.headers["Content-Type"] == "application/json"
    assert "X-Request-ID" in response.headers
    assert "X-Process-Time" in response.headers
    assert server.engine_pid() == engine
    assert client.post(CHAT, json=HELLO | {"max_tokens": 1}).status_code == 200


def test_special_tokens_in_a_message_stay_text(client: httpx.Client) -> None:
    """A message that spells a turn marker costs more tokens than the marker: it entered as letters."""

    def n_prompt_tokens(text: str) -> int:
        body = HELLO | {"max_tokens": 1, "messages": [{"role": "user", "content": text}]}
        usage = client.post(CHAT, json=body).json()["usage"]
        return int(usage["prompt_tokens"])

    empty = n_prompt_tokens("")

    assert n_prompt_tokens("<start_of_turn>") > empty + 1
    assert n_prompt_tokens("{{7*7}}\x00") > empty + 3


@pytest.mark.parametrize("accept", ["application/json", "application/xml", "text/html", "*/*"])
def test_unknown_routes_and_methods_have_the_envelope(client: httpx.Client, accept: str) -> None:
    """404 and 405 are JSON whatever the client accepts; 405 names what is allowed."""
    unknown = client.get("/v1/nothing", headers={"Accept": accept})
    wrong = client.get(CHAT, headers={"Accept": accept})

    check("error", unknown.json())
    check("error", wrong.json())
    assert (404, 405) == (unknown.status_code, wrong.status_code)
    assert "POST" in wrong.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "%00", "%0d%0aX-Evil:1", "//etc/passwd", "a" * 300]
)
def test_strange_model_ids_are_not_found_and_logged_on_one_line(
    client: httpx.Client, server: LiveServer, path: str
) -> None:
    """No file is touched, no header is injected, and the log has one start and one end."""
    response = client.get(f"/v1/models/{path}", headers={"X-Request-ID": f"strange-{len(path)}"})
    started, completed = server.lines_of(f"strange-{len(path)}")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "X-Evil" not in response.headers
    assert "Request started: GET /v1/models/" in started
    assert "Request completed: GET /v1/models/" in completed


def test_body_over_the_limit_is_refused_before_it_is_read(server: LiveServer) -> None:
    """A declared length over the cap gets 413 although not one byte of the body was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {10**9}\r\n\r\n".encode()
        )
        head = raw.recv(4096).decode()

    assert head.startswith("HTTP/1.1 413")
    assert "x-request-id" in head


def test_web_page_cannot_post_a_form_blindly(client: httpx.Client) -> None:
    """With an Origin, only JSON is read; without one, curl's default type is."""
    body = json.dumps(HELLO | {"max_tokens": 1})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    page = client.post(CHAT, content=body, headers=form | {"Origin": "http://evil.example"})
    curl = client.post(CHAT, content=body, headers=form)

    assert page.status_code == 415
    assert curl.status_code == 200
