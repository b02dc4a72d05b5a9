"""Haystack: its generator for OpenAI's chats, and an agent with a tool."""

from __future__ import annotations

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from forecast import WEATHER, Forecast, weather
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.generators.utils import print_streaming_chunk
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("haystack-ai")
MESSAGES = [ChatMessage.from_user(QUESTION)]
TOOL = Tool(name="weather", description="The weather.", parameters=WEATHER, function=weather)


def generator(**options: object) -> OpenAIChatGenerator:
    """Return a generator that asks the server."""
    return OpenAIChatGenerator(
        Secret.from_token(KEY), model=MODEL, api_base_url=API, max_retries=0, **options
    )


@step
def chat() -> str:
    (reply,) = generator().run(MESSAGES)["replies"]
    assert reply.meta["finish_reason"] == "stop"
    assert reply.meta["usage"]["total_tokens"] > 0
    return reply.text


@step
def stream() -> str:
    (reply,) = generator(streaming_callback=print_streaming_chunk).run(MESSAGES)["replies"]
    assert reply.text
    return reply.text


@step
def tools_and_back() -> str:
    demanding = generator(tools=[TOOL], generation_kwargs={"tool_choice": "required"})
    (asked,) = demanding.run(MESSAGES)["replies"]
    (call,) = asked.tool_calls
    result = ChatMessage.from_tool(TOOL.invoke(**call.arguments), origin=call)
    (told,) = generator(tools=[TOOL]).run([*MESSAGES, asked, result])["replies"]
    assert told.text or told.tool_calls
    return str(call.arguments)


@step
def structured_by_pydantic() -> Forecast:
    (reply,) = generator(generation_kwargs={"response_format": Forecast}).run(MESSAGES)["replies"]
    return Forecast.model_validate_json(reply.text)
