"""Agno: agents with a tool and with typed answers, over chats and responses."""

from __future__ import annotations

import os

os.environ["AGNO_TELEMETRY"] = "false"

from agno.agent import Agent
from agno.models.openai import OpenAIResponses
from agno.models.openai.like import OpenAILike
from agno.tools import tool
from forecast import Forecast, sky
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("agno")
chats = OpenAILike(id=MODEL, base_url=API, api_key=KEY, max_retries=0)
responds = OpenAIResponses(id=MODEL, base_url=API, api_key=KEY, max_retries=0)


def agent(model: object, **options: object) -> Agent:
    """Return an agent that tells nobody of it."""
    return Agent(model=model, telemetry=False, **options)


# The demand for a tool stands in each request, so the first call has to be the last.
once = tool(name="sky", stop_after_tool_call=True)(sky)


@step
def run() -> str:
    answer = agent(chats).run(QUESTION)
    assert answer.metrics.output_tokens > 0
    assert answer.content
    return answer.content


@step
def run_stream() -> str:
    text = "".join(event.content or "" for event in agent(chats).run(QUESTION, stream=True))
    assert text
    return text


@step
def agent_with_a_tool() -> str:
    answer = agent(chats, tools=[once], tool_choice="required").run(QUESTION)
    assert answer.tools
    return f"{answer.tools[0].tool_args}: {answer.content}"


@step
def structured_by_pydantic() -> Forecast:
    answer = agent(
        OpenAILike(
            id=MODEL, base_url=API, api_key=KEY, supports_native_structured_outputs=True
        ),
        output_schema=Forecast,
    ).run(QUESTION)  # fmt: skip
    assert isinstance(answer.content, Forecast), answer.content
    return answer.content


@step
def responses() -> str:
    answer = agent(responds).run(QUESTION)
    assert answer.content
    return answer.content
