"""Hugging Face's smolagents."""

from __future__ import annotations

from typing import ClassVar

from smolagents import (
    ChatMessage,
    FinalAnswerTool,
    LogLevel,
    MessageRole,
    OpenAIModel,
    Tool,
    ToolCallingAgent,
)
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("smolagents")
model = OpenAIModel(MODEL, api_base=API, api_key=KEY, max_tokens=200)
MESSAGES = [ChatMessage(MessageRole.USER, [{"type": "text", "text": QUESTION}])]


class Weather(Tool):
    """The weather, with or without the wind."""

    name = "weather"
    description = "Tell the weather."
    inputs: ClassVar = {"windy": {"type": "boolean", "description": "Whether to tell the wind."}}
    output_type = "string"

    def forward(self, windy: bool) -> str:
        """Tell it."""
        return f"It is clear; asked for the wind: {windy}."


class YesOrNo(FinalAnswerTool):
    """The final answer as one of two: a tiny model never ends a free one."""

    inputs: ClassVar = {"answer": {"type": "boolean", "description": "The answer."}}


@step
def generate() -> str:
    answer = model.generate(MESSAGES)
    assert answer.token_usage.output_tokens > 0
    return answer.content


@step
def generate_stream() -> str:
    text = "".join(delta.content or "" for delta in model.generate_stream(MESSAGES))
    assert text
    return text


@step
def tool_call() -> str:
    answer = model.generate(MESSAGES, tools_to_call_from=[Weather()])
    (call,) = answer.tool_calls
    assert call.function.name == "weather"
    return str(call.function.arguments)


@step
def tool_calling_agent() -> str:
    """One step of an agent, with a tool or the final answer as the model likes."""
    agent = ToolCallingAgent(
        [Weather(), YesOrNo()], model, max_steps=1, verbosity_level=LogLevel.OFF
    )
    answer = agent.run(QUESTION)
    (taken,) = [step for step in agent.memory.steps if getattr(step, "step_number", 0) == 1]
    assert taken.error is None, taken.error
    assert taken.tool_calls
    return f"{taken.tool_calls[0].name} {taken.tool_calls[0].arguments}, then {answer}"
