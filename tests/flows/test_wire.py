"""HTTP to the letter, and the names and spellings under which clients find their way."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from service.contracts import check
from service.web.keys import hashed
from tests.live import LiveServer, running

KEY = "sesame"
PAGE = "https://chat.example"
MODEL = "local-mlx/gemma-3-demo"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
MESSAGE = {"model": "gpt-4", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
LETTERS = {"type": "grammar", "syntax": "regex", "definition": "[a-z]{1,8}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a key, three more by file, aliases, and a web page that may read its answers."""
    folder = tmp_path_factory.mktemp("guarded")
    tables = [
        f'[[key]]\nname = "{name}"\nsha256 = "{hashed(name.encode())}"\n{limit}_per_minute = 2\n'
        for name, limit in (("anna", "requests"), ("ben", "tokens"), ("cat", "requests"))
    ]
    (folder / "keys.toml").write_text("".join(tables))
    with running(
        folder / "log",
        API_KEY=KEY,
        API_KEYS_FILE=str(folder / "keys.toml"),
        MODEL_ALIASES="gpt-4=gemma,small=gemma-3-demo,dead=gone",
        ALLOWED_ORIGINS=PAGE,
    ) as live:
        live.wait_until("/readyz", 200)
        yield live


@pytest.fixture
def http(guarded: LiveServer) -> Iterator[httpx.Client]:
    """A client that has the key."""
    with guarded.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def said(live: LiveServer, request: bytes) -> bytes:
    """Send raw bytes; return all that comes back until the server closes the connection."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(request)
        found = b""
        while piece := raw.recv(65536):
            found += piece
    return found


def post(version: str, path: str, body: dict[str, Any], *headers: str) -> bytes:
    """Return a request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/{version}",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["gpt-4", "small", MODEL, None])
def test_model_answers_to_its_aliases_and_to_no_name(http: httpx.Client, name: str | None) -> None:
    """Every interface takes them; the answer names the model itself."""
    named = {} if name is None else {"model": name}
    answers = [
        http.post("/v1/chat/completions", json=HELLO | named),
        http.post("/v1/messages", json=HELLO | named),
        http.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2} | named),
        http.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 2} | named),
        http.post("/v1/tokenize", json={"prompt": "Hi"} | named),
    ]

    assert [200] * 5 == [answer.status_code for answer in answers]
    assert {MODEL} == {answer.json()["model"] for answer in answers}


def test_aliases_are_told(http: httpx.Client) -> None:
    """The list has each model once, with its aliases; each name leads to the same entry."""
    listed = http.get("/v1/models").json()
    check("model-list", listed)
    (entry,) = listed["data"]

    assert (MODEL, ["gpt-4", "small"]) == (entry["id"], entry["aliases"])
    for name in (MODEL, "gpt-4", "small", "gemma"):
        assert entry == http.get(f"/v1/models/{name}").json()


@pytest.mark.parametrize("name", ["gpt-5", "dead"])
def test_unknown_name_tells_what_is_served(http: httpx.Client, name: str) -> None:
    """Whoever configured a wrong name finds the right ones in the refusal."""
    asked = http.post("/v1/chat/completions", json=HELLO | {"model": name})
    read = http.get(f"/v1/models/{name}")

    assert (404, 404) == (asked.status_code, read.status_code)
    assert f"Served: {MODEL}, gpt-4, small." in asked.json()["error"]["message"]
    assert asked.json() == read.json()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1//chat/completions",
        "/chat/completions",
        "/v1/v1/chat/completions",
    ],
)
def test_route_in_other_spellings(http: httpx.Client, path: str) -> None:
    """Slashes too many and a version left out or doubled are no 404."""
    assert http.post(path, json=HELLO).status_code == 200


def test_anthropic_envelope_in_other_spellings(http: httpx.Client) -> None:
    """What is wrong is told in the words of the route that is meant."""
    check("messages-error", http.post("/messages/", json={}).json())


# ---------------------------------------------------------------- HTTP


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_no_chunks(guarded: LiveServer, stream: bool) -> None:
    """The end of the connection is the end of a stream; a whole answer tells its length."""
    answer = said(guarded, post("1.0", "/v1/chat/completions", HELLO | {"stream": stream}))
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"200 OK" in head
    assert b"transfer-encoding" not in head.lower()
    if stream:
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
    else:
        check("chat-completion", json.loads(body))
        assert f"content-length: {len(body)}".encode() in head


@pytest.mark.parametrize("hosts", [[], ["Host: a", "Host: b"]])
def test_http_1_1_wants_one_host(guarded: LiveServer, hosts: list[str]) -> None:
    """RFC 9112 has it so; the refusal is like any other."""
    answer = said(guarded, post("1.1", "/v1/messages", MESSAGE, "Connection: close", *hosts))
    head, _, body = answer.partition(b"\r\n\r\n")

    check("messages-error", json.loads(body))
    assert b" 400 " in head.splitlines()[0]
    assert b"x-request-id: " in head
    assert json.loads(body)["error"]["code"] == "invalid_host"


def test_stream_is_not_held_back(http: httpx.Client) -> None:
    """Proxies are told to pass the events on as they come, and to keep none."""
    answer = http.post("/v1/chat/completions", json=HELLO | {"stream": True})

    assert ("no", "no-cache") == (
        answer.headers["X-Accel-Buffering"], answer.headers["Cache-Control"],
    )  # fmt: skip


def test_key_is_an_authentication_error(guarded: LiveServer) -> None:
    """Its type says so in both envelopes."""
    with guarded.client() as bare:
        openais = bare.post("/v1/chat/completions", json=HELLO).json()["error"]
        anthropics = bare.post("/v1/messages", json=MESSAGE).json()["error"]

    assert ["authentication_error"] * 2 == [openais["type"], anthropics["type"]]


@pytest.mark.parametrize(
    ("name", "path", "body", "contract"),
    [
        ("anna", "/v1/chat/completions", HELLO, "error"),
        ("cat", "/v1/messages", MESSAGE | {"stream": True}, "messages-error"),
    ],
)
def test_named_key_has_its_limit(
    guarded: LiveServer, name: str, path: str, body: dict[str, Any], contract: str
) -> None:
    """Two requests a minute: the third is refused, with when to come again, and each tells what is left."""
    with guarded.client(headers={"x-api-key": name}) as client:
        listed = client.get("/v1/models")
        answers = [client.post(path, json=body) for _ in range(3)]

    assert [200, 200, 429] == [answer.status_code for answer in answers]
    left = [each.headers["x-ratelimit-remaining-requests"] for each in (listed, *answers)]
    assert ["2", "1", "0", "0"] == left
    refused = answers[2]
    check(contract, refused.json())
    assert "rate_limit_error" == refused.json()["error"]["type"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    guarded.lines_of(refused.headers["X-Request-ID"])  # what follows is told with the last of them
    assert 1 == usage(guarded, name, "requests", 'status="429"')


def test_tokens_of_a_named_key_are_counted(guarded: LiveServer) -> None:
    """One request is let in, however long it is; the next waits. Log and metrics tell who used how much."""
    with guarded.client(headers={"Authorization": "Bearer ben"}) as ben:
        first = ben.post("/v1/chat/completions", json=HELLO)
        second = ben.post("/v1/chat/completions", json=HELLO)

    said = first.json()["usage"]
    guarded.lines_of(second.headers["X-Request-ID"])
    assert (200, 429) == (first.status_code, second.status_code)
    assert "2 tokens a minute" in second.json()["error"]["message"]
    assert said["prompt_tokens"] == usage(guarded, "ben", "prompt_tokens")
    assert said["completion_tokens"] == usage(guarded, "ben", "completion_tokens")
    (line,) = (one for one in guarded.lines_of(first.headers["X-Request-ID"]) if "Usage" in one)
    told = f"key=ben prompt_tokens={said['prompt_tokens']} completion_tokens={said['completion_tokens']}"
    assert told in line


def usage(live: LiveServer, key: str, what: str, label: str = "") -> float:
    """Return what a metric counts for the bearer of a key, of samples that have *label*."""
    with live.client(headers={"Authorization": f"Bearer {KEY}"}) as http:
        page = http.get("/metrics").text
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith(f'tier3a_key_{what}_total{{key="{key}"') and label in line
    )


# ---------------------------------------------------------------- web pages


def test_page_asks_beforehand_without_a_key(guarded: LiveServer) -> None:
    """A browser's question carries no key; the page's request does, and its refusal can be read as well."""
    asking = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    with guarded.client(headers={"Origin": PAGE}) as page:
        asked = page.options("/v1/chat/completions", headers=asking)
        refused = page.post("/v1/chat/completions", json=HELLO)
        answered = page.post(
            "/v1/chat/completions", json=HELLO, headers={"Authorization": f"Bearer {KEY}"}
        )
    with guarded.client() as other:
        stranger = other.options(
            "/v1/chat/completions", headers=asking | {"Origin": "https://evil.example"}
        )

    assert (204, 401, 200) == (asked.status_code, refused.status_code, answered.status_code)
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert [PAGE] * 3 == [
        each.headers["Access-Control-Allow-Origin"] for each in (asked, refused, answered)
    ]
    assert "X-Request-ID" in asked.headers
    assert stranger.status_code == 403
    assert "Access-Control-Allow-Origin" not in stranger.headers


# ---------------------------------------------------------------- the document


def test_document_is_kept_by_its_tag_and_packed(http: httpx.Client) -> None:
    """Who has it already gets nothing, who takes gzip gets a tenth; each form has a tag of its own."""
    plain = http.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    packed = http.get("/openapi.json", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    tag = packed.headers["ETag"]
    known = http.get(
        "/openapi.json", headers={"Accept-Encoding": "gzip", "If-None-Match": f'"x", W/{tag}'}
    )
    raw = http.build_request("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"})
    sent = b"".join(http.send(raw, stream=True).iter_raw())

    assert plain.json() == packed.json() == json.loads(gzip.decompress(sent))
    assert "gzip" == packed.headers["Content-Encoding"]
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert plain.headers["ETag"] != tag
    assert (304, b"", tag) == (known.status_code, known.content, known.headers["ETag"])
    assert len(sent) * 3 < len(plain.content)


# ---------------------------------------------------------------- hints, tools, what was kept


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", HELLO | {"reasoning_effort": "high"}, "reasoning_effort"),
        ("/v1/messages", MESSAGE | {"output_config": {"effort": "high"}}, "output_config.effort"),
        (
            "/v1/responses",
            {"input": "Hi", "max_output_tokens": 2, "reasoning": {"effort": "high"},
             "tools": [{"type": "web_search"}]},
            "reasoning.effort, tools.0",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_changes_nothing_is_told(
    http: httpx.Client, path: str, body: dict[str, Any], field: str, stream: bool
) -> None:
    """Coding agents send these by default; they are answered, and the header names what was ignored."""
    answer = http.post(path, json=body | {"stream": stream})

    assert (200, field) == (answer.status_code, answer.headers.get("X-Ignored-Fields"))
    assert "X-Ignored-Fields" not in http.post(path, json=MESSAGE | {"input": "Hi"}).headers


@pytest.fixture
def sdk(guarded: LiveServer) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_custom_tool_of_a_namespace_is_called(sdk: openai.OpenAI) -> None:
    """The call has the client's names and keeps to the expression; its output is taken back."""
    tool: Any = {"type": "custom", "name": "spell", "description": "Spells.", "format": LETTERS}
    group: Any = {"type": "namespace", "name": "words", "description": "Words.", "tools": [tool]}
    asked: Any = [{"role": "user", "content": "Hello"}]
    made = sdk.responses.create(
        model="gemma", input=asked, tools=[group, {"type": "web_search"}],
        tool_choice="required", parallel_tool_calls=False,
    )  # fmt: skip
    (call,) = (item for item in made.output if item.type == "custom_tool_call")
    output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "x"}
    again = sdk.responses.create(
        model="gemma", input=[output], previous_response_id=made.id, max_output_tokens=4
    )

    assert ("words", "spell") == (call.namespace, call.name)
    assert 1 <= len(call.input) <= 8
    assert call.input.isalpha()
    assert ["namespace"] == [tool.type for tool in made.tools]
    assert again.status in {"completed", "incomplete"}


def test_custom_tool_is_called_in_a_chat(sdk: openai.OpenAI) -> None:
    """The same in a chat, whole and streamed, demanded by name."""
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]{1,8}"}}
    tool: Any = {"type": "custom", "custom": {"name": "spell", "format": form}}
    asked: Any = {
        "model": "gemma",
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [tool],
        "tool_choice": {"type": "custom", "custom": {"name": "spell"}},
        "parallel_tool_calls": False,
        "temperature": 0,
    }
    message = sdk.chat.completions.create(**asked).choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "x"}
    again = sdk.chat.completions.create(
        model="gemma", messages=[*asked["messages"], message, result], tools=[tool], max_tokens=4
    )

    assert call.type == "custom"
    assert call.custom.input.isalpha()
    assert again.choices[0].message.role == "assistant"


@pytest.mark.parametrize("stream", [False, True])
def test_kept_response_is_streamed_once_more(
    sdk: openai.OpenAI, http: httpx.Client, stream: bool
) -> None:
    """Its events come as they came; from one on, only those behind it."""
    body = {"model": "gemma", "input": "Hello", "stream": stream}
    first = http.post("/v1/responses", json=body)
    last = json.loads(first.text.split("data: ")[-1])
    its_id = last["response"]["id"] if stream else last["id"]
    told = http.get(f"/v1/responses/{its_id}", params={"stream": "true"})
    rest = list(sdk.responses.retrieve(its_id, stream=True, starting_after=2, include=[]))

    assert told.headers["Content-Type"] == "text/event-stream"
    if stream:
        assert first.text == told.text
    assert [event.sequence_number for event in rest] == list(range(3, told.text.count("data: ")))
    assert rest[-1].type == "response.completed"
