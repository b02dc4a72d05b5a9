"""Semantic Kernel: chats, functions that the kernel calls by itself, typed answers."""

from __future__ import annotations

from forecast import Forecast, sky
from openai import AsyncOpenAI
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.functions import kernel_function
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("semantic-kernel")


class Sky:
    """A plugin."""

    @kernel_function(name="weather", description="Tell the weather.")
    def weather(self, windy: bool) -> str:
        """Tell it."""
        return sky(windy)


def service() -> OpenAIChatCompletion:
    """Return what asks the server; a client lives as long as its loop."""
    return OpenAIChatCompletion(
        MODEL, async_client=AsyncOpenAI(base_url=API, api_key=KEY, max_retries=0)
    )


def history() -> ChatHistory:
    """Return a chat that asks the question."""
    chat = ChatHistory(system_message="Be brief.")
    chat.add_user_message(QUESTION)
    return chat


@step
async def chat() -> str:
    answer = await service().get_chat_message_content(
        history(), OpenAIChatPromptExecutionSettings()
    )
    assert answer.content
    return answer.content


@step
async def stream() -> str:
    pieces = service().get_streaming_chat_message_content(
        history(), OpenAIChatPromptExecutionSettings()
    )
    text = "".join([str(piece) async for piece in pieces])
    assert text
    return text


@step
async def function_required() -> str:
    kernel = Kernel()
    kernel.add_plugin(Sky(), "sky")
    settings = OpenAIChatPromptExecutionSettings(
        function_choice_behavior=FunctionChoiceBehavior.Required(auto_invoke=False)
    )
    answer = await service().get_chat_message_content(history(), settings, kernel=kernel)
    (call,) = [item for item in answer.items if isinstance(item, FunctionCallContent)]
    assert call.name == "sky-weather"
    return call.arguments


@step
async def function_called_and_told() -> str:
    kernel = Kernel()
    kernel.add_plugin(Sky(), "sky")
    settings = OpenAIChatPromptExecutionSettings(
        function_choice_behavior=FunctionChoiceBehavior.Required()
    )
    chat = history()
    answer = await service().get_chat_message_content(chat, settings, kernel=kernel)
    assert any(message.role == "tool" for message in chat.messages)
    return answer.content


@step
async def structured_by_pydantic() -> Forecast:
    settings = OpenAIChatPromptExecutionSettings(response_format=Forecast)
    answer = await service().get_chat_message_content(history(), settings)
    return Forecast.model_validate_json(answer.content)
