"""OpenAI's Agents SDK, over chats and over responses."""

from __future__ import annotations

import openai
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    ToolCallOutputItem,
    function_tool,
    set_tracing_disabled,
)
from forecast import Forecast, weather
from openai.types.responses import ResponseTextDeltaEvent
from steps import API, KEY, MODEL, QUESTION, Steps

set_tracing_disabled(True)
step = Steps("openai-agents")


def chats() -> Model:
    """Return the model over `/v1/chat/completions`, with a client for this event loop."""
    return OpenAIChatCompletionsModel(MODEL, openai.AsyncOpenAI(base_url=API, api_key=KEY))


def responds() -> Model:
    """Return the model over `/v1/responses`, with a client for this event loop."""
    return OpenAIResponsesModel(MODEL, openai.AsyncOpenAI(base_url=API, api_key=KEY))


async def plain(model: Model) -> str:
    """Return an agent's answer."""
    run = await Runner.run(Agent("plain", instructions="Be brief.", model=model), QUESTION)
    assert run.final_output
    return str(run.final_output)


async def streamed(model: Model) -> str:
    """Return an agent's answer, put together from a stream."""
    run = Runner.run_streamed(Agent("plain", model=model), QUESTION)
    events = [event async for event in run.stream_events() if event.type == "raw_response_event"]
    text = "".join(e.data.delta for e in events if isinstance(e.data, ResponseTextDeltaEvent))
    assert text == run.final_output
    return text


async def with_a_tool(model: Model) -> str:
    """Return an agent's answer after its tool was called once, as was demanded."""
    agent = Agent(
        "with a tool",
        model=model,
        tools=[function_tool(weather)],
        model_settings=ModelSettings(tool_choice="required"),
    )
    run = await Runner.run(agent, QUESTION, max_turns=2)
    (item,) = [item for item in run.new_items if isinstance(item, ToolCallOutputItem)]
    assert "It is clear in" in item.output
    assert run.final_output
    return f"{item.output} {run.final_output}"


async def typed(model: Model) -> Forecast:
    """Return an agent's typed output."""
    run = await Runner.run(Agent("typed", model=model, output_type=Forecast), QUESTION)
    assert isinstance(run.final_output, Forecast)
    return run.final_output


@step
async def chats_agent() -> str:
    return await plain(chats())


@step
async def chats_stream() -> str:
    return await streamed(chats())


@step
async def chats_agent_with_a_tool() -> str:
    return await with_a_tool(chats())


@step
async def chats_typed_output() -> Forecast:
    return await typed(chats())


@step
async def responses_agent() -> str:
    return await plain(responds())


@step
async def responses_stream() -> str:
    return await streamed(responds())


@step
async def responses_agent_with_a_tool() -> str:
    return await with_a_tool(responds())


@step
async def responses_typed_output() -> Forecast:
    return await typed(responds())
