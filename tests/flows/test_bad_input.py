"""Bad input gets a clear error before anything begins, and nothing of it reaches the engine."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.contracts import check
from tests.live import LiveServer

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "gemma", "messages": [{"role": "user", "content": "Hello"}]}
SCHEMA = "response_format.json_schema.schema"


def held(schema: object) -> dict[str, Any]:
    """Return a chat whose answer must fit *schema*."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return HELLO | {"response_format": form}


def nested(depth: int) -> dict[str, Any]:
    """Return a schema of so many levels."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


BODIES: list[tuple[str, bytes | dict[str, Any], int, str, str | None]] = [
    ("empty", b"", 400, "invalid_json", None),
    ("truncated", b'{"model": "gemma"', 400, "invalid_json", None),
    ("trailing", json.dumps(HELLO).encode() + b" x", 400, "invalid_json", None),
    ("bom", b"\xef\xbb\xbf{}", 400, "invalid_json", None),
    ("nan", b'{"model": "gemma", "temperature": NaN}', 400, "invalid_json", None),
    ("infinity", b'{"model": "gemma", "temperature": -Infinity}', 400, "invalid_json", None),
    ("1e999", b'{"model": "gemma", "temperature": 1e999}', 400, "invalid_json", None),
    ("20-digits", HELLO | {"seed": 10**20}, 400, "invalid_value", "seed"),
    ("4301-digits", b'{"seed": 1%s}' % (b"0" * 4300), 400, "invalid_json", None),
    ("utf8", b'{"model": "\xff"}', 400, "invalid_json", None),
    ("surrogate", b'{"model": "\\ud800"}', 400, "invalid_json", None),
    ("list", b"[]", 400, "invalid_type", None),
    ("string", b'"x"', 400, "invalid_type", None),
    ("null", b"null", 400, "invalid_type", None),
    ("million-keys", b"{%s}" % b",".join(b'"%d":1' % i for i in range(1_000_000)), 400,
     "json_too_large", None),
    ("deep", b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", 400, "json_too_deep", None),
    ("very-deep", b"[" * 100_000, 400, "json_too_deep", None),
    ("no-messages", {"model": "gemma"}, 400, "missing_required_field", "messages"),
    ("empty-messages", HELLO | {"messages": []}, 400, "invalid_value", "messages"),
    ("role", HELLO | {"messages": [{"role": "x", "content": ""}]}, 400, "invalid_value", "messages.0.role"),
    ("type", HELLO | {"temperature": "hot"}, 400, "invalid_type", "temperature"),
    ("range", HELLO | {"temperature": 3}, 400, "invalid_value", "temperature"),
    ("max-tokens-0", HELLO | {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ("max-tokens-negative", HELLO | {"max_tokens": -2}, 400, "invalid_value", "max_tokens"),
    ("max-tokens-big", HELLO | {"max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ("top-k", HELLO | {"top_k": 1e30}, 400, "invalid_value", "top_k"),
    ("many", HELLO | {"messages": HELLO["messages"] * 5000}, 400, "invalid_value", "messages"),
    ("seed-small", HELLO | {"seed": -(2**63) - 1}, 400, "invalid_value", "seed"),
    ("seed-huge", HELLO | {"seed": 2**64}, 400, "invalid_value", "seed"),
    ("stop-empty", HELLO | {"stop": [""]}, 400, "invalid_value", "stop.0"),
    ("stop-many", HELLO | {"stop": ["a"] * 65}, 400, "invalid_value", "stop"),
    ("stop-long", HELLO | {"stop": "x" * 257}, 400, "invalid_value", "stop"),
    ("n", HELLO | {"n": 9}, 400, "invalid_value", "n"),
    ("priority", HELLO | {"priority": 1001}, 400, "invalid_value", "priority"),
    ("priority-text", HELLO | {"priority": "high"}, 400, "invalid_type", "priority"),
    ("top-logprobs", HELLO | {"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs"),
    ("top-logprobs-alone", HELLO | {"top_logprobs": 1}, 400, "invalid_value", "top_logprobs"),
    ("bias-negative-id", HELLO | {"logit_bias": {"-1": 1}}, 400, "invalid_value", "logit_bias"),
    ("bias-no-id", HELLO | {"logit_bias": {"a": 1}}, 400, "invalid_value", "logit_bias"),
    ("bias-beyond", HELLO | {"logit_bias": {"1": 1, "999999": 1}}, 400, "invalid_token", "logit_bias"),
    ("bias-far-beyond", HELLO | {"logit_bias": {"9999999999": 1}}, 400, "invalid_token", "logit_bias"),
    ("bias-many", HELLO | {"logit_bias": {str(i): 1 for i in range(301)}}, 400, "invalid_value",
     "logit_bias"),
    ("bias-large", HELLO | {"logit_bias": {"1": 101}}, 400, "invalid_value", "logit_bias.1"),
    ("bias-nan", b'{"logit_bias": {"1": NaN}}', 400, "invalid_json", None),
    ("bias-text", HELLO | {"logit_bias": {"1": "x"}}, 400, "invalid_type", "logit_bias.1"),
    ("penalty", HELLO | {"repetition_penalty": 0}, 400, "invalid_value", "repetition_penalty"),
    ("schema-type", held({"type": "banana"}), 400, "invalid_json_schema", SCHEMA),
    ("schema-deep", held(nested(33)), 400, "invalid_json_schema", SCHEMA),
    ("schema-deeper", held(nested(70)), 400, "json_too_deep", None),
    ("schema-large", held({"description": "x" * 65536}), 400, "invalid_json_schema", SCHEMA),
    ("schema-http", held({"$ref": "http://127.0.0.1:9/x.json"}), 400, "invalid_json_schema", SCHEMA),
    ("schema-file", held({"items": {"$ref": "file:///etc/passwd"}}), 400, "invalid_json_schema", SCHEMA),
    ("schema-lookaround", held({"type": "string", "pattern": "(?=a)"}), 400, "invalid_json_schema", SCHEMA),
    ("schema-text", HELLO | {"guided_json": "{"}, 400, "invalid_json_schema", "guided_json"),
    ("schema-deep-text", HELLO | {"guided_json": '{"a":' * 9999}, 400, "invalid_json_schema", "guided_json"),
    ("regex-lookaround", HELLO | {"guided_regex": "a(?!b)"}, 400, "invalid_grammar", "guided_regex"),
    ("regex-large", HELLO | {"guided_regex": "x" * 65537}, 400, "invalid_grammar", "guided_regex"),
    ("grammar", HELLO | {"guided_grammar": "?"}, 400, "invalid_grammar", "guided_grammar"),
    ("form-of-its-own", HELLO | {"structured_outputs": {"xml": "x"}}, 400, "invalid_value",
     "structured_outputs"),
    ("two-forms", HELLO | {"guided_regex": "a", "guided_choice": ["a"]}, 400, "invalid_value",
     "guided_choice"),
    ("template", HELLO | {"chat_template": "{{7*7}}"}, 400, "template_not_allowed", "chat_template"),
    ("template-option", HELLO | {"chat_template_kwargs": {"chat_template": "{{7*7}}"}}, 400,
     "template_not_allowed", "chat_template_kwargs.chat_template"),
    ("template-messages", HELLO | {"chat_template_kwargs": {"messages": []}}, 400,
     "template_not_allowed", "chat_template_kwargs.messages"),
    ("audio", HELLO | {"audio": {}}, 400, "unsupported_parameter", "audio"),
    ("grammar-of-llama", HELLO | {"grammar": "root ::= x"}, 400, "unsupported_parameter", "grammar"),
    ("custom-tool", HELLO | {"tools": [{"type": "custom", "custom": {"name": "f", "format": {
        "type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}}}}]}, 400,
     "unsupported_parameter", "tools.0.custom.format"),
    ("tool-choice", HELLO | {"tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
    ("arguments", HELLO | {"messages": [{"role": "assistant", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[]"}}]}]}, 400,
     "invalid_value", "messages.0.tool_calls.0.function.arguments"),
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
    assert "Traceback" not in response.text
    assert server.engine_pid() == engine
    assert client.post(CHAT, json=HELLO | {"max_tokens": 1}).status_code == 200


GOOD: dict[str, dict[str, Any]] = {
    "nul": {"messages": [{"role": "user", "content": "a\x00b"}]},
    "top-k": {"top_k": 2**31 - 1},
    "limits": {
        "n": 8,
        "seed": 2**64 - 1,
        "stop": ["x" * 256] * 64,
        "logprobs": True,
        "top_logprobs": 20,
    },
    "bias": {"logit_bias": {str(i): -100 for i in range(300)}},
    "schema": held(nested(32)) | {"max_tokens": 8},
    "schema-large": held({"enum": ["x" * 65000]}) | {"max_tokens": 2},
    "integer": held({"enum": [10**40]}) | {"max_tokens": 60},
    "regex": {"guided_regex": "(a{1,1000}){1,1000}"},
    "repetition": {"repetition_penalty": 1e300},
}


@pytest.mark.parametrize("name", GOOD)
def test_input_at_the_limits_is_answered(client: httpx.Client, name: str) -> None:
    """What is as large or as strange as may be is no mistake."""
    response = client.post(CHAT, json=HELLO | {"max_tokens": 4} | GOOD[name])

    assert response.status_code == 200, response.text
    check("chat-completion", response.json())


def test_schema_is_never_fetched(client: httpx.Client) -> None:
    """A reference to an address doesn't make the server go there, wherever a schema can stand."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        schema = {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"}
        tool = {"type": "function", "function": {"name": "f", "parameters": {"items": schema}}}
        for fields in (
            held({"properties": {"a": schema}}),
            {"guided_json": schema},
            {"guided_json": json.dumps(schema)},
            {"tools": [tool], "tool_choice": "required"},
            {"guided_grammar": f"start: %json {json.dumps(schema)}"},
            held({"$id": schema["$ref"], "$ref": "other.json"}),
        ):
            assert client.post(CHAT, json=HELLO | fields).status_code == 400
        with pytest.raises(TimeoutError):
            listener.accept()


def test_others_are_served_while_a_million_keys_arrive(client: httpx.Client) -> None:
    """They are counted before they are read, so that nobody waits for them."""
    body = b"{%s}" % b",".join(b'"%d":1' % i for i in range(1_000_000))
    waits_s = []
    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(client.post, CHAT, content=body)
        while not posted.done():
            began_s = time.perf_counter()
            assert client.get("/livez").status_code == 200
            waits_s.append(time.perf_counter() - began_s)

    assert posted.result().status_code == 400
    assert max(waits_s) < 0.25  # a shared machine; by itself it is a fifth of that


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
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {10**9}\r\n\r\n".encode()
        )
        head = raw.recv(4096).decode()

    assert head.startswith("HTTP/1.1 413")
    assert "x-request-id" in head


def test_web_page_cannot_post_a_form_blindly(client: httpx.Client) -> None:
    """With an Origin, its own as well, only JSON is read; without one, curl's default type is."""
    body = json.dumps(HELLO | {"max_tokens": 1})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    page = client.post(
        CHAT, content=body, headers=form | {"Origin": str(client.base_url).rstrip("/")}
    )
    curl = client.post(CHAT, content=body, headers=form)

    assert page.status_code == 415
    assert curl.status_code == 200
