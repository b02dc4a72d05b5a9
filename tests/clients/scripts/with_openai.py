"""OpenAI's own client for Python."""

from __future__ import annotations

import json

import openai
from forecast import WEATHER, Forecast
from steps import API, KEY, MODEL, QUESTION, Steps, refusal

step = Steps("openai")
client = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0, timeout=60)
MESSAGES = [{"role": "user", "content": QUESTION}]


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": WEATHER,
    },
}


@step
def models() -> str:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model
    return model.id


@step
def chat() -> str | None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].message.content
    return answer.choices[0].message.content


@step
def content_in_parts() -> str | None:
    parts = [{"type": "text", "text": "What does "}, {"type": "text", "text": "/health mean?"}]
    history = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(
        model=MODEL, messages=history, max_completion_tokens=20, stop=["tells"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "tells" not in answer.choices[0].message.content
    return answer.choices[0].message.content


@step
def request_id() -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=1, extra_headers={"X-Request-ID": "mine-1"}
    )
    assert answer._request_id == "mine-1"
    return answer._request_id


@step
def stream_with_usage() -> str:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
    with client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    return f"{len(chunks)} chunks, {chunks[-1].usage.completion_tokens} tokens"


@step
def stream_helper() -> str:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    return final.choices[0].message.content


@step
async def async_client() -> str:
    async with openai.AsyncOpenAI(base_url=API, api_key=KEY, max_retries=0) as other:
        stream = await other.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    assert text
    return text


@step
def several_answers() -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=3, temperature=1.5, seed=7, max_tokens=12
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    return f"{len({choice.message.content for choice in answer.choices})} different of 3"


@step
def logprobs() -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, logprobs=True, top_logprobs=3, max_tokens=5
    )
    found = answer.choices[0].logprobs.content
    assert len(found) == answer.usage.completion_tokens == 5
    assert "".join(each.token for each in found) == answer.choices[0].message.content
    assert all(len(each.top_logprobs) == 3 for each in found)
    assert all(each.logprob == each.top_logprobs[0].logprob <= 0 for each in found)
    return " | ".join(f"{each.token} {each.logprob:.2f}" for each in found)


@step
def tools_and_back() -> str:
    asked = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required"
    )
    message = asked.choices[0].message
    (call,) = message.tool_calls
    assert asked.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
    told = client.chat.completions.create(
        model=MODEL, messages=[*MESSAGES, message, result], tools=[TOOL]
    )
    assert told.choices[0].message.content
    return call.function.arguments


@step
def tools_streamed() -> str:
    with client.chat.completions.stream(
        model=MODEL,
        messages=MESSAGES,
        tools=[TOOL | {"function": TOOL["function"] | {"strict": True}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert [each.arguments for each in done] == [call.function.arguments]
    assert call.function.parsed_arguments == json.loads(call.function.arguments)
    return call.function.arguments


@step
def parse_into_pydantic() -> Forecast:
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Forecast)
    assert answer.choices[0].message.refusal is None
    assert isinstance(answer.choices[0].message.parsed, Forecast)
    return answer.choices[0].message.parsed


@step
def tool_parsed_into_pydantic() -> Forecast:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=MESSAGES,
        tools=[openai.pydantic_function_tool(Forecast)],
        tool_choice="required",
    )
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Forecast)
    return call.function.parsed_arguments


@step
def json_object() -> str:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        response_format={"type": "json_object"},
        max_tokens=400,
        frequency_penalty=1,
    )
    content = answer.choices[0].message.content
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    return content


@step
def typed_errors() -> str:
    create = client.chat.completions.create
    unknown = refusal(openai.NotFoundError, lambda: create(model="nope", messages=MESSAGES))
    hot = refusal(
        openai.BadRequestError, lambda: create(model=MODEL, messages=MESSAGES, temperature=9)
    )
    assert unknown.code == "model_not_found"
    assert hot.param == "temperature"
    return f"{unknown.code}, {hot.code}"


@step
def images_not_offered() -> str:
    url = "data:image/png;base64,iVBORw0KGgo="
    history = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    error = refusal(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=MODEL, messages=history),
    )
    return f"{error.code}, {error.param}"


@step
def embeddings_not_offered() -> str:
    error = refusal(
        openai.APIStatusError, lambda: client.embeddings.create(model=MODEL, input="Hello")
    )
    assert error.status_code in {400, 404}
    assert error.code
    return f"{error.status_code} {error.code}"


@step
def completions() -> str:
    answer = client.completions.create(
        model=MODEL, prompt=["The model is", "GET /"], max_tokens=8, temperature=0, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text and choice.logprobs for choice in answer.choices)
    first = answer.choices[0]
    assert "".join(first.logprobs.tokens) == first.text
    with client.completions.create(
        model=MODEL, prompt="The model is", max_tokens=8, temperature=0, stream=True
    ) as stream:
        assert "".join(c.choices[0].text for c in stream if c.choices) == first.text
    return first.text


@step
def completions_echo_with_logprobs() -> str:
    prompt = "The server is ready."
    answer = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=1
    )
    found = answer.choices[0].logprobs
    assert answer.choices[0].text == prompt == "".join(found.tokens)
    assert found.token_logprobs[0] is None
    assert all(each <= 0 for each in found.token_logprobs[1:])
    assert found.text_offset[0] == 0
    return f"{len(found.tokens)} tokens"


@step
def responses() -> str:
    answer = client.responses.create(model=MODEL, input=QUESTION, instructions="Be brief.")
    assert answer.status == "completed"
    assert answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    return answer.output_text


@step
def responses_stream() -> str:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text
    return f"{len(events)} events: {text}"


@step
def responses_tools_and_back() -> str:
    tool = {"type": "function", "strict": True, **TOOL["function"]}
    asked = client.responses.create(
        model=MODEL, input=QUESTION, tools=[tool], tool_choice="required"
    )
    (call,) = [item for item in asked.output if item.type == "function_call"]
    assert call.name == "weather"
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "clear"}
    history = [{"role": "user", "content": QUESTION}, *asked.output, result]
    told = client.responses.create(model=MODEL, input=history, tools=[tool])
    assert told.output_text
    return call.arguments


@step
def responses_parse_into_pydantic() -> Forecast:
    answer = client.responses.parse(model=MODEL, input=QUESTION, text_format=Forecast)
    assert isinstance(answer.output_parsed, Forecast)
    return answer.output_parsed


@step
def responses_parse_streamed() -> Forecast:
    with client.responses.stream(model=MODEL, input=QUESTION, text_format=Forecast) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Forecast)
    return final.output_parsed


@step
def responses_tokens_counted() -> str:
    counted = client.responses.input_tokens.count(model=MODEL, input=QUESTION)
    answer = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    assert counted.input_tokens == answer.usage.input_tokens
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    return f"{counted.input_tokens} tokens"


@step
def responses_conversation() -> str:
    first = client.responses.create(model=MODEL, input="Hello", store=True)
    again = client.responses.create(
        model=MODEL, input=QUESTION, previous_response_id=first.id, store=True
    )
    assert again.previous_response_id == first.id
    assert again.output_text
    assert client.responses.retrieve(again.id).output_text == again.output_text
    (asked, *_) = client.responses.input_items.list(again.id).data
    assert asked.content[0].text == QUESTION
    client.responses.delete(again.id)
    refusal(openai.NotFoundError, lambda: client.responses.retrieve(again.id))
    return again.output_text
