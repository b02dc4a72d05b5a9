"""A chat template that makes demands, given by its file, with a real server over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.engine.demanding_templates import NINE
from tests.live import LiveServer, running

QUESTION = {"role": "user", "content": "What's the weather?"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
}
WEATHER = {"name": "weather", "parameters": SCHEMA}
LIMITS = {"model": "gemma", "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The built-in model with a template that wants ids of nine letters, and roles in turns."""
    folder = tmp_path_factory.mktemp("template")
    template = folder / "nine.jinja"
    template.write_text(NINE, "utf-8")
    with running(folder / "log", CHAT_TEMPLATE=str(template)) as found:
        found.wait_until("/readyz", 200)
        yield found


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as found:
        yield found


def answer(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """Return what *path* answers; it must."""
    response = client.post(path, json=LIMITS | body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_round_with_a_tool_in_chats(client: httpx.Client) -> None:
    """The message comes back as it was, its null beside its calls, and the result in the client's id."""
    tools = [{"type": "function", "function": WEATHER}]
    asked: dict[str, Any] = {"messages": [QUESTION], "tools": tools, "max_tokens": 60}
    called = answer(client, "/v1/chat/completions", **asked, tool_choice="required")
    message = called["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
        for call in message["tool_calls"]
    ]
    asked["messages"] = [QUESTION, message, *results, {"role": "user", "content": "And now?"}]

    assert message["content"] is None
    assert answer(client, "/v1/chat/completions", **asked)["choices"]


def test_round_with_a_tool_in_messages(client: httpx.Client) -> None:
    """The blocks come back as they were, and the result beside what the user says."""
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    asked: dict[str, Any] = {"messages": [QUESTION], "tools": tools, "max_tokens": 60}
    called = answer(client, "/v1/messages", **asked, tool_choice={"type": "any"})
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"}
        for block in called["content"]
        if block["type"] == "tool_use"
    ]
    said = {"role": "user", "content": [*results, {"type": "text", "text": "And now?"}]}
    asked["messages"] = [QUESTION, {"role": "assistant", "content": called["content"]}, said]

    assert results
    assert answer(client, "/v1/messages", **asked)["stop_reason"]


def test_round_with_a_tool_in_responses(client: httpx.Client) -> None:
    """The items come back as they were."""
    tools = [{"type": "function"} | WEATHER]
    asked: dict[str, Any] = {"input": [QUESTION], "tools": tools, "max_output_tokens": 60}
    called = answer(client, "/v1/responses", **asked, tool_choice="required")
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
        for item in called["output"]
        if item["type"] == "function_call"
    ]
    asked["input"] = [QUESTION, *called["output"], *results]

    assert results
    assert answer(client, "/v1/responses", **asked)["status"]


def test_dumps_of_official_clients(server: LiveServer) -> None:
    """What their objects make of themselves, nulls included, is taken back as it stands."""
    said: dict[str, Any] = {"messages": [QUESTION], "model": "gemma", "max_tokens": 60}
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k") as sdk:
        tools: Any = [{"type": "function", "function": WEATHER}]
        chat = sdk.chat.completions.create(**said, tools=tools, tool_choice="required")
        message = chat.choices[0].message.model_dump()
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
            for call in message["tool_calls"]
        ]
        sdk.chat.completions.create(**said | {"messages": [QUESTION, message, *results]})
        items: Any = [QUESTION]
        response = sdk.responses.create(model="gemma", input=items, max_output_tokens=60)
        items += [item.model_dump() for item in response.output]
        items += [QUESTION]
        sdk.responses.create(model="gemma", input=items, max_output_tokens=4)
    with anthropic.Anthropic(base_url=server.url, api_key="k") as other:
        called = other.messages.create(**said, tools=[tool], tool_choice={"type": "any"})
        blocks = [block.model_dump() for block in called.content]
        outcomes = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"}
            for block in blocks
            if block["type"] == "tool_use"
        ]
        history: Any = [QUESTION, {"role": "assistant", "content": blocks}]
        said["messages"] = [*history, {"role": "user", "content": outcomes}]
        last = other.messages.create(**said)

    assert outcomes
    assert last.stop_reason


def test_system_messages_anywhere(client: httpx.Client) -> None:
    """None of them is refused, and each has its tokens."""

    def n_tokens(*messages: dict[str, str]) -> int:
        counted = answer(client, "/v1/tokenize", messages=list(messages))["count"]
        assert isinstance(counted, int)
        return counted

    rule = {"role": "system", "content": "Speak of Antarctica alone."}
    said = {"role": "assistant", "content": "Sunny."}
    without = n_tokens(QUESTION, said, QUESTION)

    assert n_tokens(rule)
    assert n_tokens(rule, QUESTION, said, QUESTION) > without + 5
    assert n_tokens(QUESTION, said, rule, QUESTION) > without + 5
    assert n_tokens(QUESTION, said, QUESTION, rule) > without + 5
    assert n_tokens(rule, rule, QUESTION, said, QUESTION) > without + 10
