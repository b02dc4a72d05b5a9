"""Messages with the default server: what Anthropic's own client and the agents built on it see."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from service.contracts import check
from tests import thinking_model
from tests.live import LiveServer, running

MESSAGES = "/v1/messages"
HELLO: dict[str, Any] = {
    "model": "gemma",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}
LIKELIEST = {"temperature": 0}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="session")
def sdk(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    """The official client, as anyone would set it up."""
    with client_of(server, api_key="none") as client:
        yield client


def client_of(live: LiveServer, **how: Any) -> anthropic.Anthropic:
    """Return the official client for *live*, which tries each request once."""
    return anthropic.Anthropic(base_url=live.url, max_retries=0, **how)


def ask(client: httpx.Client, **change: Any) -> httpx.Response:
    """Post a small conversation that differs in *change*."""
    return client.post(MESSAGES, json=HELLO | change)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a finished stream, each under its own name and in its contract."""
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        check("message-event", event)
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def n_read(usage: anthropic.types.Usage) -> int:
    """Return how long the prompt was, wherever it came from."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_official_client_asks_and_streams(sdk: anthropic.Anthropic) -> None:
    """
    A whole answer and a stream: the same text, the same counts, ended by the model itself.

    What the first has read may come from the cache for the second; together it is as much.
    """
    whole = sdk.messages.create(**HELLO, system="Be brief.", extra_body=LIKELIEST)
    with sdk.messages.stream(**HELLO, system="Be brief.", extra_body=LIKELIEST) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    (block,) = whole.content

    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text
    assert streamed == block.text
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    assert (final.model, final.role) == ("local-mlx/gemma-3-demo", "assistant")
    assert final.stop_reason == "end_turn"
    assert n_read(final.usage) == n_read(whole.usage)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0


def test_official_client_counts_tokens(sdk: anthropic.Anthropic) -> None:
    """What is counted beforehand is what is read: system text, tools and results included."""
    talk: dict[str, Any] = {
        "model": "gemma",
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [WEATHER],
        "messages": [
            {"role": "user", "content": "How is Rome?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}]},
        ],
    }  # fmt: skip
    counted = sdk.messages.count_tokens(**talk)
    asked = sdk.messages.create(**talk, max_tokens=1)
    fewer = sdk.messages.count_tokens(model="gemma", messages=talk["messages"])
    begun = sdk.messages.count_tokens(model="gemma", messages=talk["messages"][:2])

    cached = asked.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == asked.usage.input_tokens + cached
    assert counted.input_tokens > fewer.input_tokens > begun.input_tokens > 0


def test_official_client_calls_a_tool_and_gives_its_result_back(sdk: anthropic.Anthropic) -> None:
    """A call that must be made fits its schema, whole and streamed; with its result comes an answer."""
    question: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
    demand: dict[str, Any] = {
        "model": "gemma",
        "max_tokens": 100,
        "messages": question,
        "tools": [WEATHER],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    called = sdk.messages.create(**demand)
    with sdk.messages.stream(
        **demand | {"tool_choice": {"type": "tool", "name": "get_weather"}}
    ) as s:
        streamed = s.get_final_message()
    call = called.content[-1]

    assert called.stop_reason == streamed.stop_reason == "tool_use"
    for each in (call, streamed.content[-1]):
        assert isinstance(each, anthropic.types.ToolUseBlock)
        assert each.name == "get_weather"
        assert each.input["city"] in {"Rome", "Oslo"}
        assert each.input["days"] in {1, 2}

    assert isinstance(call, anthropic.types.ToolUseBlock)
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    answered = sdk.messages.create(
        model="gemma",
        max_tokens=16,
        tools=[WEATHER],
        tool_choice={"type": "none"},
        messages=[
            *question,
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        ],
    )

    assert answered.stop_reason in {"end_turn", "max_tokens"}
    assert [block.type for block in answered.content] == ["text"]


def test_official_client_gets_an_answer_in_a_form(sdk: anthropic.Anthropic) -> None:
    """A JSON Schema for the answer is kept by construction."""
    schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"],
              "additionalProperties": False}  # fmt: skip
    answer = sdk.messages.create(
        **HELLO, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    (block,) = answer.content

    assert isinstance(block, anthropic.types.TextBlock)
    assert isinstance(json.loads(block.text)["ready"], bool)


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"model": "nope"}, anthropic.NotFoundError, "model_not_found"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_value"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_value"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, anthropic.BadRequestError,
         "unsupported_parameter"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_official_client_gets_typed_errors(
    sdk: anthropic.Anthropic,
    change: dict[str, Any],
    kind: type[anthropic.APIStatusError],
    code: str,
    is_stream: bool,
) -> None:
    """Each refusal is the exception that the client's users catch, before any stream begins."""
    with pytest.raises(kind) as caught:
        sdk.messages.create(**HELLO | change, stream=is_stream)
    error: Any = caught.value

    check("messages-error", error.body)
    assert error.body["error"]["code"] == code
    assert error.body["request_id"] == error.response.headers["X-Request-ID"]
    assert error.type == (
        "not_found_error" if kind is anthropic.NotFoundError else "invalid_request_error"
    )


def test_bodies_and_events_keep_their_contracts(client: httpx.Client) -> None:
    """Everything that comes back validates; the events come in the order that clients rely on."""
    whole = ask(client).json()
    response = ask(client, stream=True)
    stream = events(response)
    counted = client.post(f"{MESSAGES}/count_tokens", json=HELLO).json()

    check("message", whole)
    check("message-tokens", counted)
    assert response.headers["Content-Type"] == "text/event-stream"
    first, begun, *pieces, stopped, ending, end = [event["type"] for event in stream]
    assert [first, begun, *{*pieces}, stopped, ending, end] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert {event["index"] for event in stream if "index" in event} == {0}
    assert stream[0]["message"]["usage"]["input_tokens"] == counted["input_tokens"]
    assert stream[-2]["usage"]["output_tokens"] > 0


def test_stop_sequence_is_told_and_left_out(client: httpx.Client) -> None:
    """The answer ends right before the stop text, which is named, however tokens cut it."""
    plain = ask(client, **LIKELIEST).json()["content"][0]["text"]
    middle = len(plain) // 2
    stop = plain[middle : middle + 7]
    wanted = plain[: plain.index(stop)]
    change: dict[str, Any] = LIKELIEST | {"stop_sequences": ["never said", stop]}
    whole = ask(client, **change).json()
    *stream, ending, _ = events(ask(client, stream=True, **change))
    streamed = "".join(e["delta"]["text"] for e in stream if e["type"] == "content_block_delta")

    check("message", whole)
    assert [block["text"] for block in whole["content"]] == [wanted] == [streamed]
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", stop)
    assert ending["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_max_tokens_ends_with_exact_usage(client: httpx.Client) -> None:
    """Exactly so many tokens are counted, and the reason says why."""
    body = ask(client, max_tokens=3).json()

    assert body["stop_reason"] == "max_tokens"
    assert body["usage"]["output_tokens"] == 3


def said(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    """Return a change to the messages: one of *blocks*."""
    return {"messages": [{"role": role, "content": list(blocks)}]}


BODIES: list[tuple[str, bytes | dict[str, Any], int, str, str | None]] = [
    ("empty", b"", 400, "invalid_json", None),
    ("nan", b'{"temperature": NaN}', 400, "invalid_json", None),
    ("surrogate", b'{"model": "\\ud800"}', 400, "invalid_json", None),
    ("list", b"[]", 400, "invalid_type", None),
    ("deep", b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", 400, "json_too_deep", None),
    ("no-max-tokens", b'{"model": "gemma", "messages": [{"role": "user", "content": "x"}]}', 400,
     "missing_required_field", "max_tokens"),
    ("max-tokens", HELLO | {"max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ("role", HELLO | {"messages": [{"role": "tool", "content": ""}]}, 400, "invalid_value",
     "messages.0.role"),
    ("no-text", HELLO | said({"type": "text"}), 400, "missing_required_field",
     "messages.0.content.0.text"),
    ("stop", HELLO | {"stop_sequences": [""]}, 400, "invalid_value", "stop_sequences.0"),
    ("image", HELLO | said({"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/"}}),
     400, "unsupported_content", "messages.0.content.0.type"),
    ("called", HELLO | said({"type": "tool_use", "id": "t", "name": "f", "input": {}}, role="assistant"), 400,
     "invalid_value", "messages"),
    ("known-tool", HELLO | {"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400,
     "unsupported_parameter", "tools.0.type"),
    ("schema", HELLO | {"tools": [WEATHER | {"input_schema": {"$ref": "http://10.0.0.1/"}}]}, 400,
     "invalid_json_schema", "tools.0.input_schema"),
    ("choice", HELLO | {"tool_choice": {"type": "any"}}, 400, "invalid_value", "tool_choice"),
    ("path", HELLO | {"model": "/etc/passwd"}, 404, "model_not_found", "model"),
    ("long", HELLO | said({"type": "text", "text": "word " * 9000}), 400,
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
    response = client.post(MESSAGES, content=body, headers={"Content-Type": "application/json"})
    error = response.json()

    check("messages-error", error)
    assert (status, code, param) == (
        response.status_code,
        error["error"]["code"],
        error["error"]["param"],
    )
    assert response.headers["Content-Type"] == "application/json"
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert "10.0.0.1" not in response.text
    assert server.engine_pid() == engine
    assert ask(client, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model": "nope"}, "model_not_found"),
        ({"messages": []}, "invalid_value"),
        (said({"type": "document"}), "unsupported_content"),
    ],
)
def test_count_is_refused_in_the_same_way(
    client: httpx.Client, change: dict[str, Any], code: str
) -> None:
    """Counting tokens has the errors of asking."""
    error = client.post(f"{MESSAGES}/count_tokens", json=HELLO | change).json()

    check("messages-error", error)
    assert error["error"]["code"] == code


def test_every_failure_below_the_route_has_its_envelope(client: httpx.Client) -> None:
    """A method that it does not have, a route that is not there, a body that is too large."""
    wrong = client.get(MESSAGES)
    unknown = client.post(f"{MESSAGES}/batches", json={})
    large = client.post(MESSAGES, content=b"x" * (16 * 1024 * 1024 + 1))
    elsewhere = client.post("/v1/messagess", json={})

    for answer in (wrong, unknown, large):
        check("messages-error", answer.json())
    check("error", elsewhere.json())
    assert [405, 404, 413, 404] == [a.status_code for a in (wrong, unknown, large, elsewhere)]
    assert large.json()["error"]["type"] == "request_too_large"


def test_special_tokens_in_blocks_stay_text(client: httpx.Client) -> None:
    """A turn marker that is spelled out costs more tokens than the marker: it entered as letters."""

    def n_tokens(text: str) -> int:
        result = {"type": "tool_result", "tool_use_id": "t", "content": text}
        body = HELLO | said(result)
        return int(client.post(f"{MESSAGES}/count_tokens", json=body).json()["input_tokens"])

    empty = n_tokens("")

    assert n_tokens("<start_of_turn>") > empty + 1
    assert n_tokens("{{7*7}}\x00") > empty + 3


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that asks for the key `k`, with a model that thinks."""
    folder = tmp_path_factory.mktemp("thinker")
    model = str(thinking_model.make(folder / "model"))
    with running(folder / "log", MODEL_PATH=model, API_KEY="k") as live:
        live.wait_until("/readyz", 200)
        yield live


def test_either_way_to_send_the_key_opens(thinker: LiveServer) -> None:
    """The official client sends it in a header of its own, or as a token; another key is refused."""
    body = HELLO | {"model": "model"}
    for how in ({"api_key": "k"}, {"auth_token": "k"}):
        with client_of(thinker, **how) as client:
            assert client.messages.create(**body).content
    stranger = client_of(thinker, api_key="x")
    with stranger, pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(**body)

    assert refused.value.type == "authentication_error"


def test_thoughts_are_blocks_of_their_own(thinker: LiveServer) -> None:
    """A model that is asked to think does so first, whole and streamed, and its thoughts can be sent back."""
    body = HELLO | {"model": "model", "max_tokens": 8}
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with client_of(thinker, api_key="k") as client:
        thought = client.messages.create(**body, thinking=thinking)
        with client.messages.stream(**body, thinking=thinking) as stream:
            streamed = stream.get_final_message()
        plain = client.messages.create(**body, thinking={"type": "disabled"})
        history: list[Any] = [
            *HELLO["messages"],
            {"role": "assistant", "content": [*thought.content, *plain.content]},
            {"role": "user", "content": "And?"},
        ]
        again = client.messages.create(**body | {"messages": history})

    assert thought.content[0].type == streamed.content[0].type == "thinking"
    assert {block.type for block in plain.content} == {"text"}
    assert again.content


def test_stream_ends_with_an_error_when_the_engine_dies(thinker: LiveServer) -> None:
    """What was begun and breaks is an exception for the client's users, and no message."""
    long = {"type": "array", "items": {"enum": [0]}, "minItems": 1000}
    body = HELLO | {"model": "model", "max_tokens": 4000, "thinking": {"type": "disabled"}}
    form: Any = {"format": {"type": "json_schema", "schema": long}}
    with client_of(thinker, api_key="k") as client:
        events = client.messages.create(**body, output_config=form, stream=True)
        first = next(events)
        os.kill(thinker.engine_pid(), signal.SIGKILL)
        with pytest.raises(anthropic.APIStatusError) as broken:
            list(events)
    error: Any = broken.value

    check("messages-error", error.body)
    assert first.type == "message_start"
    assert (error.type, error.body["error"]["code"]) == ("api_error", "engine_died")
