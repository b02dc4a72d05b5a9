"""Functions that a model has called: demanded, offered, withheld, cut short, and given back."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from tests.flows.chatting import ask, choice, chunks, completion, counts, refusal, streamed

LAMP = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "maxLength": 12},
        "is_on": {"type": "boolean"},
        "level": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["is_on", "level"],
    "additionalProperties": False,
}
CITIES = {
    "type": "object",
    "properties": {
        "cities": {
            "type": "array",
            "items": {"enum": ["Rome", "Oslo"]},
            "minItems": 1,
            "maxItems": 2,
        },
        "unit": {"$ref": "#/$defs/unit"},
    },
    "required": ["cities", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["celsius", "kelvin", None]}},
}
NOTHING = {"type": "object", "additionalProperties": False}
PARAMETERS: dict[str, Any] = {"set_lamp": LAMP, "get_weather": CITIES, "now": NOTHING}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}
    for name, parameters in PARAMETERS.items()
]
ASKED = {"tools": TOOLS, "max_tokens": 200}


def the(name: str) -> dict[str, Any]:
    """Return the choice of one function."""
    return {"type": "function", "function": {"name": name}}


def calls_of(found: Any) -> list[Any]:
    """Return a choice's calls, their arguments valid."""
    calls: list[Any] = found["message"]["tool_calls"]
    for call in calls:
        schema = PARAMETERS[call["function"]["name"]]
        Draft202012Validator(schema).validate(json.loads(call["function"]["arguments"]))
    return calls


def names_of(found: Any) -> set[str]:
    """Return the names of the functions that a choice calls."""
    return {call["function"]["name"] for call in calls_of(found)}


@pytest.mark.parametrize("temperature", [0, 0.8, 1.5])
def test_demanded_call_comes(client: httpx.Client, temperature: float) -> None:
    """Some of the tools are called and nothing is said, whatever the model makes of the question."""
    body = completion(
        client, **ASKED, tool_choice="required", temperature=temperature, n=4, seed=1,
        parallel_tool_calls=False,
    )  # fmt: skip
    ids = [call["id"] for found in body["choices"] for call in calls_of(found)]

    assert {found["finish_reason"] for found in body["choices"]} == {"tool_calls"}
    assert {found["message"]["content"] for found in body["choices"]} == {None}
    assert len(set(ids)) == len(ids) == 4


@pytest.mark.parametrize("name", PARAMETERS)
def test_named_tool_is_the_one_called(client: httpx.Client, name: str) -> None:
    """Each can be demanded by its name, one that takes nothing as well."""
    body = completion(client, **ASKED, tool_choice=the(name), temperature=1.2, n=3, seed=2)
    finished = [found for found in body["choices"] if found["finish_reason"] == "tool_calls"]

    assert finished
    assert all(names_of(found) == {name} for found in finished)


def test_withheld_tools_are_not_even_mentioned(client: httpx.Client) -> None:
    """With the choice `none` the prompt is the one without tools, and so is the answer."""
    plain = completion(client, temperature=0)
    found = completion(client, temperature=0, tools=TOOLS, tool_choice="none")

    assert found["choices"] == plain["choices"]
    assert counts(found["usage"]) == counts(plain["usage"])


def test_offered_tools_leave_the_model_its_choice(client: httpx.Client) -> None:
    """Offered is the default; the built-in model knows the tools from its prompt and just talks."""
    plain, offered, auto = (
        completion(client, temperature=0, **more)
        for more in ({}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "auto"})
    )
    (found,) = offered["choices"]

    assert offered["choices"] == auto["choices"]
    assert "tool_calls" not in found["message"]
    assert found["message"]["content"]
    assert offered["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_form_binds_the_answer_beside_tools(client: httpx.Client) -> None:
    """Whoever offers tools and demands a form gets a call or the form, and nothing else."""
    form = {"guided_choice": ["yes", "no"]}
    body = completion(client, **ASKED, **form, temperature=1.2, n=6, seed=3)
    for found in body["choices"]:
        if found["finish_reason"] == "stop":
            assert found["message"]["content"] in form["guided_choice"]
        elif found["finish_reason"] == "tool_calls":
            assert calls_of(found)


@pytest.mark.parametrize("choose", ["required", the("get_weather")], ids=["required", "named"])
def test_streamed_call_is_the_whole_one(client: httpx.Client, choose: object) -> None:
    """Put together, the deltas are the call, but for its id, which is its own."""
    asked = ASKED | {"tool_choice": choose, "temperature": 1, "seed": 5, "n": 2}
    whole, stream = completion(client, **asked)["choices"], streamed(client, **asked)
    for found, expected in zip(stream, whole, strict=True):
        assert [call["function"] for call in calls_of(found)] == [
            call["function"] for call in calls_of(expected)
        ]
        assert found["finish_reason"] == expected["finish_reason"]
        assert found["message"]["content"] == ""


@pytest.mark.parametrize("max_tokens", [1, 5, 9, 14, 22])
def test_call_cut_short_is_a_cut_call(client: httpx.Client, max_tokens: int) -> None:
    """What the limit cuts is told as `length`, from its name on as a call, and never as text."""
    asked = {
        "tools": TOOLS, "tool_choice": the("get_weather"), "temperature": 0, "max_tokens": max_tokens,
    }  # fmt: skip
    found = choice(client, **asked)
    (stream,) = streamed(client, **asked)
    called, streamed_call = (
        [call["function"] for call in each["message"].get("tool_calls", ())]
        for each in (found, stream)
    )

    assert not found["message"]["content"]
    assert found["finish_reason"] == stream["finish_reason"] == "length"
    assert called == streamed_call
    assert len(called) == (max_tokens >= 14)
    assert all('{"cities": ["Rome", "Oslo"]'.startswith(each["arguments"][:14]) for each in called)


def test_one_call_at_a_time(client: httpx.Client) -> None:
    """A client that can't do two things at once isn't asked to."""
    asked = ASKED | {"tool_choice": "required", "parallel_tool_calls": False}
    body = completion(client, **asked, temperature=1.5, n=8, seed=11)

    assert [len(calls_of(found)) for found in body["choices"]] == [1] * 8


def test_call_and_result_go_back_to_the_model(client: httpx.Client) -> None:
    """The model's own message and the tool's result are a conversation that goes on."""
    call_choice = choice(client, **ASKED, tool_choice=the("now"), temperature=0)
    messages = [
        {"role": "user", "content": "What time is it?"},
        call_choice["message"],
        {"role": "tool", "tool_call_id": calls_of(call_choice)[0]["id"], "content": "noon"},
    ]
    short = completion(client, messages=messages[:1], tools=TOOLS)["usage"]["prompt_tokens"]
    found = completion(client, messages=messages, tools=TOOLS)

    assert found["choices"][0]["message"]["content"]
    assert found["usage"]["prompt_tokens"] > short


def test_strange_names_and_values_survive(client: httpx.Client) -> None:
    """Quotes, other scripts and marks in names and schemas come through unharmed."""
    name = 'lösch "<tool_call>"'
    value = 'a"\\<end_of_turn>\n😀{{7*7}}'
    parameters = {
        "type": "object",
        "properties": {"ключ": {"const": value}},
        "required": ["ключ"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": name, "parameters": parameters}}]
    found = choice(client, tools=tools, tool_choice="required", max_tokens=200, temperature=0)
    (call,) = found["message"]["tool_calls"][:1]

    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) == {"ключ": value}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": the("no_such_function")}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://127.0.0.1:1/"}}}]},
         "tools.0.function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "banana"}}}],
          "tool_choice": "required"}, "tools"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_called_are_refused(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    """What could never come about is told before anything begins."""
    assert refusal(client, **fields)["param"] == param


def test_official_client_reads_calls(sdk: openai.OpenAI) -> None:
    """Whole and streamed calls are what the client's own types say, its helper for streams included."""
    asked: Any = {
        "model": "gemma",
        "messages": [{"role": "user", "content": "Lamp on!"}],
        "tools": TOOLS,
        "tool_choice": the("set_lamp"),
        "temperature": 0,
        "seed": 1,
    }
    whole = sdk.chat.completions.create(**asked).choices[0]
    with sdk.chat.completions.stream(**asked) as stream:
        stream.until_done()
        final = stream.get_final_completion().choices[0]
    (call,), (streamed_call,) = whole.message.tool_calls or [], final.message.tool_calls or []

    assert call.type == "function"
    assert json.loads(call.function.arguments) == json.loads(streamed_call.function.arguments)
    assert whole.finish_reason == final.finish_reason == "tool_calls"


def test_stream_of_calls_has_its_usage(client: httpx.Client) -> None:
    """The tokens of a call are counted, though it has no text."""
    asked = ASKED | {"tool_choice": the("now"), "temperature": 0}
    stream = chunks(ask(client, stream=True, stream_options={"include_usage": True}, **asked))

    assert counts(stream[-1]["usage"]) == counts(completion(client, **asked)["usage"])
    assert stream[-1]["usage"]["completion_tokens"] > 5
