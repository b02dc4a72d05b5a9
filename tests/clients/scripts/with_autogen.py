"""AutoGen: its client for OpenAI's chats, and an agent with a tool."""

from __future__ import annotations

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import CreateResult, ModelFamily, UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from forecast import Forecast, sky
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("autogen-ext")
ABLE = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": ModelFamily.UNKNOWN,
}
MESSAGES = [UserMessage(content=QUESTION, source="user")]
TOOL = FunctionTool(sky, description="Tell the weather.")


def client() -> OpenAIChatCompletionClient:
    """Return what asks the server; it lives as long as its loop."""
    return OpenAIChatCompletionClient(
        model=MODEL, base_url=API, api_key=KEY, model_info=ABLE, max_retries=0
    )


@step
async def create() -> str:
    answer = await client().create(MESSAGES)
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    return answer.content


@step
async def create_stream() -> str:
    pieces = [piece async for piece in client().create_stream(MESSAGES)]
    assert isinstance(pieces[-1], CreateResult)
    assert "".join(pieces[:-1]) == pieces[-1].content
    return pieces[-1].content


@step
async def tool_required() -> str:
    answer = await client().create(MESSAGES, tools=[TOOL], tool_choice="required")
    (call,) = answer.content
    assert call.name == "sky"
    return call.arguments


@step
async def structured_by_pydantic() -> Forecast:
    answer = await client().create(MESSAGES, json_output=Forecast)
    return Forecast.model_validate_json(answer.content)


@step
async def agent_with_a_tool() -> str:
    agent = AssistantAgent("teller", client(), tools=[TOOL], max_tool_iterations=2)
    result = await agent.run(task=QUESTION)
    return f"{len(result.messages)} messages, the last: {result.messages[-1].to_text()}"
