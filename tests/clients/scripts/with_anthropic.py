"""Anthropic's own client, for `/v1/messages`."""

from __future__ import annotations

from typing import Literal

import anthropic
from forecast import WEATHER
from pydantic import BaseModel
from steps import KEY, MODEL, QUESTION, SERVER, Steps, refusal

step = Steps("anthropic")
client = anthropic.Anthropic(base_url=SERVER, api_key=KEY, max_retries=0, timeout=60)
ASK = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": QUESTION}]}
TOOL = {"name": "weather", "description": "Tell the weather of a city.", "input_schema": WEATHER}


class Sky(BaseModel):
    """How the sky looks; the client drops the limits of texts and numbers from what it asks for."""

    look: Literal["clear", "cloudy", "rain"]
    windy: bool


@step
def message() -> str:
    answer = client.messages.create(**ASK, system="Be brief.")
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    return answer.content[0].text


@step
def stream() -> str:
    with client.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert final.usage.output_tokens > 0
    return text


@step
def end_of_tokens() -> str:
    answer = client.messages.create(**ASK | {"max_tokens": 3})
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 3
    return answer.content[0].text


@step
def stop_sequence() -> str:
    answer = client.messages.create(**ASK, stop_sequences=["health"])
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == "health"
    return answer.content[0].text


@step
def tools_and_back() -> str:
    asked = client.messages.create(**ASK, tools=[TOOL], tool_choice={"type": "any"})
    assert asked.stop_reason == "tool_use"
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    assert set(call.input) == {"city", "unit"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "clear"}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": asked.content},
        {"role": "user", "content": [result]},
    ]
    told = client.messages.create(**ASK | {"messages": history}, tools=[TOOL])
    assert told.content[0].text
    return str(call.input)


@step
def tools_streamed() -> str:
    choice = {"type": "tool", "name": "weather"}
    with client.messages.stream(**ASK, tools=[TOOL], tool_choice=choice) as stream:
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert set(call.input) == {"city", "unit"}
    return str(call.input)


@step
def structured_answer() -> Sky:
    answer = client.messages.parse(**ASK, output_format=Sky)
    assert isinstance(answer.parsed_output, Sky)
    return answer.parsed_output


@step
def system_in_blocks() -> str:
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    history = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    answer = client.messages.create(
        **ASK | {"messages": history}, system=system, metadata={"user_id": "me"}
    )
    return answer.content[0].text


@step
def count_tokens() -> str:
    counted = client.messages.count_tokens(model=MODEL, messages=ASK["messages"])
    answer = client.messages.create(**ASK)
    cached = answer.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == answer.usage.input_tokens + cached
    return f"{counted.input_tokens} tokens"


@step
async def async_client() -> str:
    async with anthropic.AsyncAnthropic(base_url=SERVER, api_key=KEY, max_retries=0) as other:
        answer = await other.messages.create(**ASK)
    return answer.content[0].text


@step
def typed_errors() -> str:
    unknown = refusal(
        anthropic.NotFoundError, lambda: client.messages.create(**ASK | {"model": "nope"})
    )
    few = refusal(
        anthropic.BadRequestError, lambda: client.messages.create(**ASK | {"max_tokens": 0})
    )
    assert unknown.body["type"] == few.body["type"] == "error"
    return f"{unknown.body['error']['type']}, {few.body['error']['type']}"
