"""Instructor: pydantic models out of chats."""

from __future__ import annotations

import instructor
import openai
from forecast import Forecast
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("instructor")
base = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0)
MESSAGES = [{"role": "user", "content": QUESTION}]


def ask(mode: instructor.Mode, **options: object) -> Forecast:
    """Return a forecast by *mode*, got at the first attempt."""
    client = instructor.from_openai(base, mode=mode)
    found = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_model=Forecast, max_retries=0, **options
    )
    assert isinstance(found, Forecast)
    return found


@step
def tools() -> Forecast:
    return ask(instructor.Mode.TOOLS)


@step
def tools_strict() -> Forecast:
    return ask(instructor.Mode.TOOLS_STRICT)


@step
def json_schema() -> Forecast:
    return ask(instructor.Mode.JSON_SCHEMA)


@step
def partial_stream() -> str:
    client = instructor.from_openai(base, mode=instructor.Mode.TOOLS)
    parts = list(
        client.chat.completions.create_partial(
            model=MODEL, messages=MESSAGES, response_model=Forecast, max_retries=0
        )
    )
    Forecast.model_validate(parts[-1].model_dump())
    return f"{len(parts)} parts, {parts[-1]}"


@step
def responses_tools() -> Forecast:
    client = instructor.from_openai(base, mode=instructor.Mode.RESPONSES_TOOLS)
    found = client.responses.create(
        model=MODEL, input=QUESTION, response_model=Forecast, max_retries=0
    )
    assert isinstance(found, Forecast)
    return found
