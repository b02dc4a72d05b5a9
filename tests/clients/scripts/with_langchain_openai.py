"""LangChain's chat model for OpenAI's interface."""

from __future__ import annotations

from forecast import Forecast, weather
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("langchain-openai")
model = ChatOpenAI(model=MODEL, base_url=API, api_key=KEY, temperature=0, max_retries=0)
by_responses = ChatOpenAI(
    model=MODEL, base_url=API, api_key=KEY, max_retries=0, use_responses_api=True
)
WEATHER = tool(weather)


@step
def invoke() -> str:
    answer = model.invoke(QUESTION)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] > 0
    return answer.text


@step
def stream() -> str:
    chunks = list(model.stream(QUESTION, stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == model.invoke(QUESTION).text
    assert whole.usage_metadata["output_tokens"] > 0
    return f"{len(chunks)} chunks"


@step
async def async_batch() -> str:
    answers = await model.abatch([QUESTION, "Hello", "Which routes are there?"])
    assert all(answer.text for answer in answers)
    return f"{len(answers)} answers"


@step
def bind_tools_and_back() -> str:
    bound = model.bind_tools([WEATHER], tool_choice="required")
    asked = bound.invoke(QUESTION)
    (call,) = asked.tool_calls
    assert asked.invalid_tool_calls == []
    result = WEATHER.invoke(call)
    told = model.bind_tools([WEATHER]).invoke([HumanMessage(QUESTION), asked, result])
    assert told.text
    return str(call["args"])


@step
def tool_by_name_streamed() -> str:
    chunks = list(model.bind_tools([WEATHER], tool_choice="weather").stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    assert call["name"] == "weather"
    return str(call["args"])


@step
def structured_by_json_schema() -> object:
    found = model.with_structured_output(Forecast, method="json_schema").invoke(QUESTION)
    assert isinstance(found, Forecast)
    return found


@step
def structured_by_function_calling() -> object:
    found = model.with_structured_output(Forecast, method="function_calling").invoke(QUESTION)
    assert isinstance(found, Forecast)
    return found


@step
def logprobs() -> str:
    answer = model.bind(logprobs=True, top_logprobs=2, max_tokens=3).invoke(QUESTION)
    found = answer.response_metadata["logprobs"]["content"]
    assert len(found) == 3
    return str([each["token"] for each in found])


@step
def responses() -> str:
    answer = by_responses.invoke(QUESTION)
    assert answer.text
    assert answer.usage_metadata["total_tokens"] > 0
    return answer.text


@step
def responses_stream() -> str:
    text = "".join(chunk.text for chunk in by_responses.stream(QUESTION))
    assert text
    return text


@step
def responses_structured() -> object:
    found = by_responses.with_structured_output(Forecast, method="json_schema").invoke(QUESTION)
    assert isinstance(found, Forecast)
    return found


@step
def responses_tools() -> str:
    asked = by_responses.bind_tools([WEATHER], tool_choice="required").invoke(QUESTION)
    (call,) = asked.tool_calls
    result = WEATHER.invoke(call)
    told = by_responses.bind_tools([WEATHER]).invoke([HumanMessage(QUESTION), asked, result])
    assert told.text
    return str(call["args"])
