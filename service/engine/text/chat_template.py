"""
A chat through the model's chat template, so that what a message spells stays text and nothing said is lost.

A message may spell out a special token, such as `<start_of_turn>`, or the mark of a thought. Each such
spelling is escaped before the template sees it: a placeholder that nobody outside can guess stands for it.
All special tokens in the rendered text are therefore the template's own; what a placeholder stands for is
encoded as plain letters.

What the template can take is found out when the model is loaded (`abilities`), and a chat is fitted to that
(`fitting`). Whatever the template then does, a word of each message is looked for in the prompt.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec.structs import replace

from service.engine.model.vocabulary import special_tokens
from service.engine.text.abilities import BLOCKS, REFUSALS, TOOL_NAME, Abilities, probe
from service.engine.text.call_format import formats
from service.engine.text.fitting import fit
from service.engine.text.notations import CallFrame
from service.protocol import Chat, Tool, ToolCall, Turn

MAX_OPENINGS = 64  # beginnings of answers that are kept, one for each set of switches; taste
MAX_KEPT_OPTIONS = 1000  # characters of the switches that one is kept for; taste
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
# No word behind a slash, since templates take /no_think and the like out as switches.
_WORD = re.compile(r"(?<![/\w])\w+")
_N_LOOKED_AT = 200  # characters in which a word is chosen that must be in the prompt; taste
_TOOL = Tool(TOOL_NAME, TOOL_NAME, '{"type": "object", "properties": {"a": {"type": "integer"}}}')

Escape = Callable[[str], str]
Message = dict[str, Any]


class LostTurn(Exception):
    """
    The template leaves a turn out, or refuses to have it continued.

    Attributes:
        turn: as it was to be rendered.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self.turn = turn


@dataclass(frozen=True)
class RenderedChat:
    """
    What the template made of a chat.

    Attributes:
        text: with placeholders.
        literals: the texts that the placeholders stand for, by their number.
        placeholder: finds a placeholder; its group is the number.
        opening: what the template put behind the last turn, for the answer to begin with.
        image_block: what stands where an image is; empty: the model takes none.
    """

    text: str
    literals: list[str]
    placeholder: re.Pattern[str]
    opening: str
    image_block: str = ""

    def pieces(self, begin: int = 0) -> Iterator[tuple[str, bool]]:
        """Yield the text from *begin* on in pieces, and whether special tokens in each are plain letters."""
        for i, piece in enumerate(self.placeholder.split(self.text[begin:])):
            is_literal = i % 2 == 1
            yield self.literals[int(piece)] if is_literal else piece, is_literal

    def n_images(self, end: int) -> int:
        """Return how many images stand before the place *end*."""
        return self.text.count(self.image_block, 0, end) if self.image_block else 0


@dataclass(frozen=True)
class _Settings:
    """What a template is given beside the turns."""

    options: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    add_generation_prompt: bool = True
    image_mark: str = ""


class ChatTemplate:
    """
    Renders chats.

    Args:
        tokenizer: the model's own, with its chat template.
        image_block: what the template puts where an image stands; empty: the model takes none.
    """

    def __init__(self, tokenizer: TokenizerWrapper, image_block: str = "") -> None:
        self._image_block = image_block
        self._tokenizer = tokenizer
        known = formats(tokenizer)
        self._thoughts = known.thoughts
        self._frame = known.forced.frame or CallFrame((), (), ())
        self._prefix = secrets.token_hex(8)
        self._placeholder = re.compile(rf"{self._prefix}(\d+)\.")
        thoughts = self._thoughts.starts + self._thoughts.ends if self._thoughts else ()
        marks = {*special_tokens(tokenizer).values(), *thoughts, *filter(None, [image_block])}
        longest_first = sorted(marks, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._opening = functools.lru_cache(MAX_OPENINGS)(self._find_opening)
        self._abilities = {
            has_tools: self._probe(has_tools=has_tools) for has_tools in (False, True)
        }

    def abilities(self, *, has_tools: bool = False) -> Abilities:
        """Return what the template can take; where it is several, they may differ with tools."""
        return self._abilities[has_tools]

    def render(self, chat: Chat) -> RenderedChat:
        """
        Return what the template makes of *chat*, up to where the model's answer begins.

        Raises:
            LostTurn: it leaves a turn out.
            TemplateError: it refuses the chat in its own words.
            ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError: it doesn't
                know what to make of it.
        """
        numbers: dict[str, int] = {}

        def placeholder(match: re.Match[str]) -> str:
            return f"{self._prefix}{numbers.setdefault(match.group(), len(numbers))}."

        def escape(text: str) -> str:
            return self._marks.sub(placeholder, text)

        turns = [_escaped(self._without_marked_thoughts(turn), escape) for turn in chat.turns]
        settings = self._settings(chat, escape)
        text = self._text(turns, settings, chat)
        opening = ""
        if settings.add_generation_prompt:
            is_kept = len(chat.template_options) < MAX_KEPT_OPTIONS
            find = self._opening if is_kept else self._find_opening
            behind = find(chat.thinking, chat.template_options, bool(chat.tools))
            opening = _common_end(text, behind)
        return RenderedChat(text, list(numbers), self._placeholder, opening, self._image_block)

    def _settings(self, chat: Chat, escape: Escape) -> _Settings:
        options = _each_text(json.loads(chat.template_options), escape)
        if chat.thinking is not None:
            options["enable_thinking"] = chat.thinking
        return _Settings(
            options,
            [_tool_as_dict(tool, escape) for tool in chat.tools],
            chat.add_generation_prompt and not chat.continue_final_message,
            chat.image_mark,
        )

    def _text(self, turns: Sequence[Turn], settings: _Settings, chat: Chat) -> str:
        """Return the prompt of *turns*: as the template takes them, and where it doesn't, as any does."""
        refusals: list[Exception] = []
        own = self._abilities[bool(chat.tools)]
        for abilities in (own, own.plainest):
            try:
                fitted = fit(turns, abilities, self._frame)
                if chat.continue_final_message:
                    if fitted[-1].role != turns[-1].role:
                        raise LostTurn(turns[-1])
                    text = self._begun(fitted, abilities, settings)
                else:
                    text = self._apply(fitted, abilities, settings)
                _check([_without_mark(turn, settings.image_mark) for turn in turns], text)
                self._check_images(turns, text, chat)
            except (LostTurn, *REFUSALS) as refusal:
                refusals.append(refusal)
            else:
                return text
        raise refusals[0]

    def _check_images(self, turns: Sequence[Turn], text: str, chat: Chat) -> None:
        """
        See that as many images are in *text* as in *turns*.

        Raises:
            LostTurn: there are more or fewer.
        """
        mark = chat.image_mark
        seeing = [turn for turn in turns if mark and mark in (turn.content or "")]
        n_images = sum((turn.content or "").count(mark) for turn in seeing)
        if seeing and text.count(self._image_block) != n_images:
            raise LostTurn(seeing[0])

    def _begun(self, turns: Sequence[Turn], abilities: Abilities, settings: _Settings) -> str:
        """Return the prompt of *turns* up to the last one's last letter."""
        *earlier, last = turns
        end = f"{self._prefix}end"
        marked = replace(last, content=f"{last.content or ''}{end}")
        text, is_there, _ = self._apply([*earlier, marked], abilities, settings).rpartition(end)
        if not is_there:
            raise LostTurn(last)
        return text

    def _apply(self, turns: Sequence[Turn], abilities: Abilities, settings: _Settings) -> str:
        """Return what the template makes of *turns* as they are."""
        messages = [
            _with_images(_turn_as_dict(turn, abilities), settings.image_mark) for turn in turns
        ]
        options = dict(settings.options)
        tools = settings.tools
        if abilities.described_parameters:
            tools = [_with_descriptions(tool) for tool in tools]
        if tools or abilities.empty_tools:
            options["tools"] = tools
        if tools and abilities.tools_in_system:
            messages = _with_tools_in_system(messages, tools)
        text = self._tokenizer.apply_chat_template(
            messages,
            **options,
            tokenize=False,
            add_generation_prompt=settings.add_generation_prompt,
        )
        return str(text)

    def _probe(self, *, has_tools: bool) -> Abilities:
        if not self._tokenizer.has_chat_template:
            return Abilities()
        settings = _Settings(tools=[_tool_as_dict(_TOOL, str)] if has_tools else [])
        return probe(lambda turns, how: self._apply(turns, how, settings), with_tool=has_tools)

    def _find_opening(self, thinking: bool | None, template_options: str, has_tools: bool) -> str:
        """Return what the template puts behind a user's turn; empty where that can't be told."""
        said = f"{self._prefix}said"
        tools = (_TOOL,) if has_tools else ()
        chat = Chat((), tools, thinking, template_options)
        try:
            settings = self._settings(chat, str)
            text = self._apply([Turn("user", said)], self._abilities[has_tools], settings)
        except REFUSALS:
            return ""
        return text.rpartition(said)[2] if said in text else ""

    def _without_marked_thoughts(self, turn: Turn) -> Turn:
        """Return *turn* with the thoughts that its text begins with, between the model's own marks, apart."""
        if self._thoughts is None or turn.role != "assistant" or turn.reasoning:
            return turn
        text = (turn.content or "").lstrip()
        for start, end in itertools.product(self._thoughts.starts, self._thoughts.ends):
            if text.startswith(start) and end in text:
                reasoning, _, content = text.removeprefix(start).partition(end)
                return replace(turn, content=content.lstrip(), reasoning=reasoning.strip())
        return turn


def _without_mark(turn: Turn, mark: str) -> Turn:
    """Return *turn* with its longest text between images as the content, where there are any."""
    if not mark or mark not in (turn.content or ""):
        return turn
    return replace(turn, content=max((turn.content or "").split(mark), key=len))


def _with_images(message: Message, mark: str) -> Message:
    """Return *message* with its content in parts, where images stand in it."""
    content = message["content"]
    if not mark or not isinstance(content, str) or mark not in content:
        return message
    parts: list[dict[str, str]] = []
    for i, text in enumerate(content.split(mark)):
        if i:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return message | {"content": parts}


def _check(turns: Sequence[Turn], text: str) -> None:
    """
    See that each of *turns* is in *text*.

    Raises:
        LostTurn: not even a word of one is there.
    """
    end = 0
    for turn in turns:
        content = turn.content.strip() if turn.content else ""
        begin = text.find(content, end)
        if begin >= 0:
            end = begin + len(content)
        elif not _has_word(text, content):
            raise LostTurn(turn)
        if any(call.name not in text for call in turn.tool_calls):
            raise LostTurn(turn)


def _has_word(text: str, content: str) -> bool:
    """Whether the longest of the first words of *content* is in *text*, however the rest is written there."""
    words = _WORD.findall(content[:_N_LOOKED_AT])
    return not words or max(words, key=len) in text


def image_block(tokenizer: TokenizerWrapper) -> str:
    """Return what the chat template of *tokenizer* puts where an image stands; empty: it takes none."""
    said = {"type": "text", "text": "kuvoda"}
    try:
        seeing, blind = (
            str(tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
            for parts in ([{"type": "image"}, said], [said])
        )
    except REFUSALS:
        return ""
    n_before = len(_common_end(seeing[::-1], blind[::-1]))
    behind = seeing[n_before:]
    return behind.removesuffix(_common_end(behind, blind[n_before:]))


def _common_end(one: str, other: str) -> str:
    """Return the text that both end with."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    n = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return other[len(other) - n :]


def _escaped(turn: Turn, escape: Escape) -> Turn:
    """Return *turn* with every text in it escaped."""
    fields: dict[str, Any] = {}
    for name in ("content", "name", "tool_call_id", "reasoning"):
        text = getattr(turn, name)
        if text and (escaped := escape(text)) != text:
            fields[name] = escaped
    if turn.tool_calls:
        fields["tool_calls"] = tuple(_escaped_call(call, escape) for call in turn.tool_calls)
    return replace(turn, **fields) if fields else turn


def _escaped_call(call: ToolCall, escape: Escape) -> ToolCall:
    arguments = _each_text(json.loads(call.arguments), escape)
    return ToolCall(escape(call.id), escape(call.name), json.dumps(arguments, ensure_ascii=False))


def _turn_as_dict(turn: Turn, abilities: Abilities) -> Message:
    """Return *turn* as the template wants it: plain dictionaries, keys left out where nothing is."""
    is_null = not turn.content and turn.tool_calls and abilities.null_beside_calls
    found: Message = {"role": turn.role, "content": None if is_null else turn.content or ""}
    if turn.reasoning and abilities.thoughts == BLOCKS:
        text = [{"type": "text", "text": turn.content}] if turn.content else []
        found["content"] = [{"type": "thinking", "thinking": turn.reasoning}, *text]
    elif turn.reasoning and abilities.thoughts is not None:
        found[abilities.thoughts] = turn.reasoning
    if turn.name is not None:
        found["name"] = turn.name
    if turn.tool_call_id is not None:
        found["tool_call_id"] = _id(turn.tool_call_id, abilities)
    if turn.tool_calls:
        found["tool_calls"] = [_call_as_dict(call, abilities) for call in turn.tool_calls]
    return found


def _call_as_dict(call: ToolCall, abilities: Abilities) -> dict[str, Any]:
    arguments = call.arguments if abilities.arguments_as_text else json.loads(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": _id(call.id, abilities), "type": "function", "function": function}


def _id(call_id: str, abilities: Abilities) -> str:
    """Return *call_id* as the template wants it; nine letters or digits always stand for the same one."""
    if not abilities.short_ids or _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _tool_as_dict(tool: Tool, escape: Escape) -> dict[str, Any]:
    """Return *tool* as chat templates want it, which is as OpenAI's chats have it."""
    function: dict[str, Any] = {
        "name": escape(tool.name),
        "description": escape(tool.description or ""),
        "parameters": _each_text(json.loads(tool.parameters), escape),
    }
    return {"type": "function", "function": function}


def _with_descriptions(tool: dict[str, Any]) -> dict[str, Any]:
    """Return *tool* with an empty description of each parameter that has none."""
    function = tool["function"]
    properties = function["parameters"].get("properties")
    if not isinstance(properties, dict):
        return tool
    described = {
        name: {"description": ""} | schema if isinstance(schema, dict) else schema
        for name, schema in properties.items()
    }
    parameters = function["parameters"] | {"properties": described}
    return tool | {"function": function | {"parameters": parameters}}


def _with_tools_in_system(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """Return *messages* with *tools* as JSON text in the system message, which is made where none is."""
    text = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    if messages[0]["role"] == "system":
        return [messages[0] | {"tools": text}, *messages[1:]]
    return [{"role": "system", "content": "", "tools": text}, *messages]


def _each_text(value: Any, escape: Escape) -> Any:
    """Return *value*, decoded JSON, with every text in it escaped, keys included."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_each_text(item, escape) for item in value]
    if isinstance(value, dict):
        return {escape(key): _each_text(item, escape) for key, item in value.items()}
    return value
