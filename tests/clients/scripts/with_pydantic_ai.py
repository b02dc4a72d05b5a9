"""Pydantic AI: agents with typed outputs and tools."""

from __future__ import annotations

from collections.abc import Callable

from forecast import Forecast, weather
from pydantic_ai import Agent, NativeOutput, RunContext, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("pydantic-ai-slim")
provider = OpenAIProvider(base_url=API, api_key=KEY)
chats = OpenAIChatModel(MODEL, provider=provider)
responds = OpenAIResponsesModel(MODEL, provider=provider)


class ToolFirst(AbstractCapability[None]):
    """Demand the tool in the first step of a run, and leave the model free after it."""

    def get_model_settings(self) -> Callable[[RunContext[None]], ModelSettings]:
        """Return the settings of each step."""
        return lambda run: ModelSettings(tool_choice=["weather"]) if run.run_step == 1 else {}


async def with_a_tool(model: OpenAIChatModel | OpenAIResponsesModel) -> str:
    """Return what an agent says after its tool was called once."""
    agent = Agent(model, tools=[weather], capabilities=[ToolFirst()], retries=0)
    run = await agent.run(QUESTION)
    parts = [part for message in run.all_messages() for part in message.parts]
    (returned,) = [part for part in parts if isinstance(part, ToolReturnPart)]
    assert run.output
    return f"{returned.content} {run.output}"


@step
async def agent() -> str:
    run = await Agent(chats, instructions="Be brief.").run(QUESTION)
    assert run.usage.output_tokens > 0
    return run.output


@step
async def agent_stream() -> str:
    async with Agent(chats).run_stream(QUESTION) as run:
        parts = [part async for part in run.stream_text(delta=True, debounce_by=None)]
    assert "".join(parts)
    return f"{len(parts)} parts"


@step
async def output_by_tool() -> Forecast:
    run = await Agent(chats, output_type=ToolOutput(Forecast), retries=0).run(QUESTION)
    assert isinstance(run.output, Forecast)
    return run.output


@step
async def output_by_json_schema() -> Forecast:
    run = await Agent(chats, output_type=NativeOutput(Forecast), retries=0).run(QUESTION)
    assert isinstance(run.output, Forecast)
    return run.output


@step
async def agent_with_a_tool() -> str:
    return await with_a_tool(chats)


@step
async def responses() -> str:
    return (await Agent(responds).run(QUESTION)).output


@step
async def responses_stream() -> str:
    async with Agent(responds).run_stream(QUESTION) as run:
        return "".join([part async for part in run.stream_text(delta=True, debounce_by=None)])


@step
async def responses_output_by_tool() -> Forecast:
    run = await Agent(responds, output_type=ToolOutput(Forecast), retries=0).run(QUESTION)
    assert isinstance(run.output, Forecast)
    return run.output


@step
async def responses_output_by_json_schema() -> Forecast:
    run = await Agent(responds, output_type=NativeOutput(Forecast), retries=0).run(QUESTION)
    assert isinstance(run.output, Forecast)
    return run.output


@step
async def responses_agent_with_a_tool() -> str:
    return await with_a_tool(responds)
