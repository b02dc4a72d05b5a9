"""LiteLLM, with the prefix for servers of OpenAI's interface."""

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks for prices when imported

import json

import litellm
from forecast import WEATHER, Forecast
from steps import API, KEY, MODEL, QUESTION, Steps, refusal

litellm.telemetry = False
step = Steps("litellm")
SERVER = {"model": f"openai/{MODEL}", "api_base": API, "api_key": KEY, "num_retries": 0}
MESSAGES = [{"role": "user", "content": QUESTION}]


@step
def completion() -> str:
    answer = litellm.completion(**SERVER, messages=MESSAGES, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens > 0
    assert answer.choices[0].message.content
    return answer.choices[0].message.content


@step
def stream() -> str:
    chunks = list(
        litellm.completion(
            **SERVER, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens > 0
    return text


@step
async def async_completion() -> str:
    answer = await litellm.acompletion(**SERVER, messages=MESSAGES)
    return answer.choices[0].message.content


@step
def tools_and_back() -> str:
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    asked = litellm.completion(**SERVER, messages=MESSAGES, tools=[tool], tool_choice="required")
    message = asked.choices[0].message
    (call,) = message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "clear"}
    told = litellm.completion(**SERVER, messages=[*MESSAGES, message, result], tools=[tool])
    assert told.choices[0].message.content
    return call.function.arguments


@step
def structured_by_pydantic() -> Forecast:
    answer = litellm.completion(**SERVER, messages=MESSAGES, response_format=Forecast)
    return Forecast.model_validate_json(answer.choices[0].message.content)


@step
def typed_errors() -> str:
    unknown = SERVER | {"model": "openai/nope"}
    return str(
        refusal(litellm.NotFoundError, lambda: litellm.completion(**unknown, messages=MESSAGES))
    )


@step
def text_completion() -> str:
    of_text = SERVER | {"model": f"text-completion-openai/{MODEL}"}
    answer = litellm.text_completion(**of_text, prompt="The server", max_tokens=8)
    assert answer.choices[0].text
    return answer.choices[0].text


@step
def responses() -> str:
    answer = litellm.responses(**SERVER, input=QUESTION)
    assert answer.status == "completed"
    return answer.output[-1].content[0].text


@step
def anthropic_messages() -> str:
    of_anthropic = {"model": f"anthropic/{MODEL}", "api_base": API.removesuffix("/v1")}
    answer = litellm.completion(**SERVER | of_anthropic, messages=MESSAGES, max_tokens=64)
    assert answer.choices[0].message.content
    return answer.choices[0].message.content
