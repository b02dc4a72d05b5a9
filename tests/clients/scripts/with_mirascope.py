"""Mirascope: calls with text, streams, tools and typed answers."""

from __future__ import annotations

import os

from steps import API, KEY, MODEL, QUESTION, Steps

os.environ |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": API}

from forecast import Forecast, sky
from mirascope import llm

step = Steps("mirascope")
llm.register_provider("openai:completions", scope="openai/", base_url=API, api_key=KEY)
NAME = f"openai/{MODEL.rpartition('/')[2]}:completions"  # it takes no name with a slash


@step
def call() -> str:
    answer = llm.Model(NAME).call(QUESTION)
    assert answer.text()
    return answer.text()


@step
def stream() -> str:
    text = "".join(llm.Model(NAME).stream(QUESTION).text_stream())
    assert text
    return text


@step
def tools_are_offered() -> str:
    answer = llm.Model(NAME).call(QUESTION, tools=[llm.tool(sky)])
    return f"{answer.tool_calls} {answer.text()}"


@step
def structured_by_pydantic() -> Forecast:
    answer = llm.Model(NAME).call(QUESTION, format=llm.format(Forecast, mode="strict"))
    return answer.parse()
