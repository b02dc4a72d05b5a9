"""
A chat through the model's chat template, so that what a message spells stays text.

A message may spell out a special token, such as `<start_of_turn>`. Each such spelling is escaped before the
template sees it: a placeholder that nobody outside can guess stands for it. All special tokens in the
rendered text are therefore the template's own; what a placeholder stands for is encoded as plain letters.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.model.vocabulary import special_tokens
from service.protocol import Chat, Tool, ToolCall, Turn

Escape = Callable[[str], str]


@dataclass(frozen=True)
class RenderedChat:
    """
    What the template made of a chat.

    Attributes:
        text: with placeholders.
        literals: the texts that the placeholders stand for, by their number.
        placeholder: finds a placeholder; its group is the number.
    """

    text: str
    literals: list[str]
    placeholder: re.Pattern[str]

    def pieces(self, begin: int = 0) -> Iterator[tuple[str, bool]]:
        """Yield the text from *begin* on in pieces, and whether special tokens in each are plain letters."""
        for i, piece in enumerate(self.placeholder.split(self.text[begin:])):
            is_literal = i % 2 == 1
            yield self.literals[int(piece)] if is_literal else piece, is_literal


class ChatTemplate:
    """
    Renders chats.

    Args:
        tokenizer: the model's own, with its chat template.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        self._prefix = secrets.token_hex(8)
        self._placeholder = re.compile(rf"{self._prefix}(\d+)\.")
        longest_first = sorted(special_tokens(tokenizer).values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def render(self, chat: Chat) -> RenderedChat:
        """
        Return what the template makes of *chat*, up to where the model's answer begins.

        Raises:
            TemplateError: the template refuses it in its own words.
            TypeError, KeyError, ValueError: the template doesn't know what to make of it.
        """
        numbers: dict[str, int] = {}

        def placeholder(match: re.Match[str]) -> str:
            return f"{self._prefix}{numbers.setdefault(match.group(), len(numbers))}."

        def escape(text: str) -> str:
            return self._special.sub(placeholder, text)

        options = _each_text(json.loads(chat.template_options), escape)
        if chat.thinking is not None:
            options["enable_thinking"] = chat.thinking
        if chat.tools:
            options["tools"] = [_tool_as_dict(tool, escape) for tool in chat.tools]
        text = self._tokenizer.apply_chat_template(
            [_turn_as_dict(turn, escape) for turn in chat.turns],
            **options,
            tokenize=False,
            add_generation_prompt=True,
        )
        return RenderedChat(str(text), list(numbers), self._placeholder)


def _turn_as_dict(turn: Turn, escape: Escape) -> dict[str, Any]:
    """Return *turn* as chat templates want it: plain dictionaries, keys left out where nothing is."""
    found: dict[str, Any] = {
        "role": turn.role,
        "content": None if turn.content is None else escape(turn.content),
    }
    if turn.name is not None:
        found["name"] = escape(turn.name)
    if turn.tool_call_id is not None:
        found["tool_call_id"] = escape(turn.tool_call_id)
    if turn.tool_calls:
        found["tool_calls"] = [_call_as_dict(call, escape) for call in turn.tool_calls]
    return found


def _call_as_dict(call: ToolCall, escape: Escape) -> dict[str, Any]:
    arguments = _each_text(json.loads(call.arguments), escape)
    function = {"name": escape(call.name), "arguments": arguments}
    return {"id": escape(call.id), "type": "function", "function": function}


def _tool_as_dict(tool: Tool, escape: Escape) -> dict[str, Any]:
    """Return *tool* as chat templates want it, which is as OpenAI's chats have it."""
    function: dict[str, Any] = {
        "name": escape(tool.name),
        "description": escape(tool.description or ""),
        "parameters": _each_text(json.loads(tool.parameters), escape),
    }
    return {"type": "function", "function": function}


def _each_text(value: Any, escape: Escape) -> Any:
    """Return *value*, decoded JSON, with every text in it escaped, keys included."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_each_text(item, escape) for item in value]
    if isinstance(value, dict):
        return {escape(key): _each_text(item, escape) for key, item in value.items()}
    return value
