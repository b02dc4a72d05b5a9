"""LlamaIndex, with its class for servers of OpenAI's interface."""

from __future__ import annotations

from forecast import Forecast, weather
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("llama-index-llms-openai-like")
SERVER = {"model": MODEL, "api_base": API, "api_key": KEY, "max_retries": 0, "temperature": 0}
chats = OpenAILike(
    **SERVER,
    context_window=8192,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)
completes = OpenAILike(**SERVER, is_chat_model=False, max_tokens=16)
MESSAGES = [ChatMessage(role="user", content=QUESTION)]


@step
def chat() -> str:
    answer = chats.chat([ChatMessage(role="system", content="Be brief."), *MESSAGES])
    assert answer.message.content
    return answer.message.content


@step
def stream_chat() -> str:
    answers = list(chats.stream_chat(MESSAGES))
    assert answers[-1].message.content == "".join(answer.delta or "" for answer in answers)
    return f"{len(answers)} parts"


@step
async def async_chat() -> str:
    answer = await chats.achat(MESSAGES)
    assert answer.message.content
    return answer.message.content


@step
def complete_by_chat() -> str:
    return chats.complete(QUESTION).text


@step
def tool_required() -> str:
    answer = chats.chat_with_tools(
        [FunctionTool.from_defaults(weather)], user_msg=QUESTION, tool_required=True
    )
    (call,) = chats.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather"
    return str(call.tool_kwargs)


@step
def structured_by_json_schema() -> object:
    found = chats.as_structured_llm(Forecast).chat(MESSAGES).raw
    assert isinstance(found, Forecast)
    return found


@step
def complete() -> str:
    text = completes.complete("The server").text
    assert text
    return text


@step
def stream_complete() -> str:
    text = "".join(part.delta for part in completes.stream_complete("The server"))
    assert text == completes.complete("The server").text
    return text
