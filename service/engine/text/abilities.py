"""
What a chat template can take, found out once by rendering small chats.

Templates differ in what they drop without a word and in what they refuse: a second system message, two
messages of one role in a row, several calls in one message, an id that is too long. None of them says so, but
each shows it: a word in a message is in the prompt, or it is not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jinja2 import TemplateError
from msgspec import structs

from service.protocol import ToolCall, Turn

# With these a template refuses a chat: in its own words, or since it doesn't know what to make of it.
REFUSALS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Abilities:
    """
    What a chat template takes and shows to the model; by default, all.

    Attributes:
        system: a system turn at the beginning.
        later_system: a system turn anywhere else, also right behind the first one.
        lone_system: a system turn without any user's.
        neighbours: two turns of one role in a row.
        answer_first: the assistant's turn before any user's.
        empty_answer: an assistant's turn that says nothing.
        calls: an assistant turn with a call.
        several_calls: an assistant turn with several.
        results: turns of the role tool.
        user_after_result: a user's turn right behind a tool's.
        text_beside_calls: an assistant turn's text may stand `together` with its calls; else in a turn of its
            own `before` them; else only in the answer `after` their results.
        null_beside_calls: beside calls no content must be null, and not an empty text.
        arguments_as_text: a call's arguments must be JSON text, and not an object.
        short_ids: ids of calls must be nine letters or digits.
        thoughts: the key under which it takes what an assistant turn thought, or BLOCKS; None: it takes no
            thoughts.
        tools_in_system: it takes tools not by themselves, but as the system turn's `tools`, in JSON text.
        described_parameters: it takes tools only with a description of each parameter.
        empty_tools: where there are no tools, it wants an empty list of them.
    """

    system: bool = True
    later_system: bool = True
    lone_system: bool = True
    neighbours: bool = True
    answer_first: bool = True
    empty_answer: bool = True
    calls: bool = True
    several_calls: bool = True
    results: bool = True
    user_after_result: bool = True
    text_beside_calls: Literal["together", "before", "after"] = "together"
    null_beside_calls: bool = False
    arguments_as_text: bool = False
    short_ids: bool = False
    thoughts: str | None = None
    tools_in_system: bool = False
    described_parameters: bool = False
    empty_tools: bool = False

    @property
    def any_order(self) -> bool:
        """Whether turns without calls may follow each other in any order."""
        return (
            self.system
            and self.later_system
            and self.lone_system
            and self.neighbours
            and self.answer_first
            and self.empty_answer
        )

    @property
    def plainest(self) -> Abilities:
        """What any template takes: users and assistants in turns, with text; tools as this one does."""
        return replace(
            self,
            system=False,
            later_system=False,
            lone_system=False,
            neighbours=False,
            answer_first=False,
            empty_answer=False,
            calls=False,
            results=False,
        )


BLOCKS = "content"  # thoughts are a block of the content, before the text: as Ministral's
THOUGHTS = ("reasoning_content", "reasoning", "thinking", BLOCKS)

PROBE_S = (
    2.0  # taste: of the processor, twenty times what real templates take; beyond, no more is asked
)

Render = Callable[[Sequence[Turn], Abilities], str]

# Words that no template has by itself, and none of which is in another.
_RULE, _OTHER_RULE = Turn("system", "kuvoba"), Turn("system", "kuvobe")
_ASK, _ASK_AGAIN = Turn("user", "kuvoda"), Turn("user", "kuvode")
_REPLY, _OTHER_REPLY = Turn("assistant", "kuvofa"), Turn("assistant", "kuvofe")
_KEY = "kuvoga"
_CALL = ToolCall("call_000000000000000000000001", "kuvogi", f'{{"{_KEY}": "kuvogo"}}')
_OTHER_CALL = ToolCall("call_000000000000000000000002", "kuvoka", '{"kuvoke": "kuvoki"}')
_RESULT = Turn("tool", "kuvola", name=_CALL.name, tool_call_id=_CALL.id)
_OTHER_RESULT = Turn("tool", "kuvole", name=_OTHER_CALL.name, tool_call_id=_OTHER_CALL.id)
_CALLING = Turn("assistant", tool_calls=(_CALL,))
_THOUGHT = "kuvoma"
TOOL_NAME = "kuvona"


def probe(render: Render, *, with_tool: bool = False) -> Abilities:
    """
    Return what a template can take.

    Args:
        render: makes a prompt of turns as they are, with their values as the abilities say; raises one of
            REFUSALS where the template refuses them.
        with_tool: it offers a tool called TOOL_NAME as well.
    """
    return _Probe(render).abilities(with_tool=with_tool)


class _Probe:
    def __init__(self, render: Render) -> None:
        self._render = render
        self._due_s = time.thread_time() + PROBE_S

    def abilities(self, *, with_tool: bool) -> Abilities:
        found = self._tools(with_tool=with_tool)
        found = self._calls(found)
        found = self._thoughts(found)
        return self._order(found)

    def _tools(self, *, with_tool: bool) -> Abilities:
        """Find how tools are to be given, or how it is to be said that there are none."""
        ways = [Abilities(), Abilities(empty_tools=True)]
        word = _ASK.content or ""
        if with_tool:
            ways = [
                Abilities(),
                Abilities(tools_in_system=True),
                Abilities(described_parameters=True),
            ]
            word = TOOL_NAME
        return next((way for way in ways if word in self._rendered(way, _ASK)), ways[0])

    def _calls(self, found: Abilities) -> Abilities:
        """Find how calls are to be written, and what may stand beside them."""
        ways = [
            replace(found, arguments_as_text=as_text, null_beside_calls=null, short_ids=short)
            for short, null, as_text in itertools.product((False, True), repeat=3)
        ]
        chats: list[tuple[Turn, ...]] = [(_ASK, _CALLING, _RESULT), (_ASK, _CALLING)]
        seen = [(way, chat) for chat in chats for way in ways if self._shows(way, *chat)]
        if not seen:
            has_results = self._shows(found, _ASK, _REPLY, _RESULT)
            return replace(found, calls=False, several_calls=False, results=has_results)
        clean = [way for way, chat in seen if _is_clean(self._rendered(way, *chat))]
        found = clean[0] if clean else seen[0][0]
        several = structs.replace(_CALLING, tool_calls=(_CALL, _OTHER_CALL))
        has_results = self._shows(found, _ASK, _CALLING, _RESULT)
        results = (_RESULT, _OTHER_RESULT) if has_results else ()
        found = replace(
            found,
            results=has_results,
            several_calls=self._shows(found, _ASK, several, *results),
            user_after_result=self._shows(found, _ASK, _CALLING, _RESULT, _ASK_AGAIN),
        )
        return replace(found, text_beside_calls=self._place_of_text(found))

    def _place_of_text(self, found: Abilities) -> Literal["together", "before", "after"]:
        results = (_RESULT,) if found.results else ()
        beside = structs.replace(_CALLING, content=_REPLY.content)
        chats: list[tuple[Turn, ...]] = [(), (_OTHER_REPLY, _ASK_AGAIN)]
        if all(self._shows(found, _ASK, beside, *results, *later) for later in chats):
            return "together"
        apart = (_ASK, _REPLY, _CALLING, *results, _OTHER_REPLY, _ASK_AGAIN)
        return "before" if self._shows(found, *apart) else "after"

    def _thoughts(self, found: Abilities) -> Abilities:
        """Find the name of thoughts; templates may show only those of an answer that goes on."""
        thinking = structs.replace(_REPLY, reasoning=_THOUGHT)
        chats: list[tuple[Turn, ...]] = [(_ASK, thinking, _ASK_AGAIN), (_ASK, thinking)]
        calling = structs.replace(_CALLING, reasoning=_THOUGHT)
        if found.calls:
            chats.insert(0, (_ASK, calling, *((_RESULT,) if found.results else ())))
        for name in THOUGHTS:
            named = replace(found, thoughts=name)
            rendered = [self._rendered(named, *chat) for chat in chats]
            if any(_THOUGHT in text and not _shows_blocks(text) for text in rendered):
                return named
        return found

    def _order(self, found: Abilities) -> Abilities:
        """Find whose turns may follow whose."""
        chats: list[tuple[Turn, ...]] = [(_ASK,), (_ASK, _REPLY), (_ASK, _REPLY, _ASK_AGAIN)]
        if found.calls and found.results:
            chats.append((_ASK, _CALLING, _RESULT))
        taken = [chat for chat in chats if self._shows(found, *chat)] or chats
        system = all(self._shows(found, _RULE, *chat) for chat in taken)
        begun = (_RULE,) if system else ()
        return replace(
            found,
            system=system,
            later_system=system
            and self._shows(found, _RULE, _OTHER_RULE, _ASK)
            and self._shows(found, _RULE, _ASK, _OTHER_RULE)
            and self._shows(found, _ASK, _REPLY, _OTHER_RULE, _ASK_AGAIN),
            lone_system=system and self._shows(found, _RULE),
            neighbours=self._shows(found, _ASK, _ASK_AGAIN)
            and self._shows(found, _ASK, _REPLY, _OTHER_REPLY, _ASK_AGAIN),
            answer_first=self._shows(found, *begun, _REPLY, _ASK),
            empty_answer=self._shows(found, _ASK, Turn("assistant", ""), _ASK_AGAIN),
        )

    def _shows(self, abilities: Abilities, *turns: Turn) -> bool:
        """Whether all that *turns* say is in their prompt."""
        text = self._rendered(abilities, *turns)
        return all(word in text for turn in turns for word in _words(turn))

    def _rendered(self, abilities: Abilities, *turns: Turn) -> str:
        """Return the prompt of *turns*; empty where the template refuses them, or took too long before."""
        if time.thread_time() > self._due_s:
            return ""
        try:
            return self._render(turns, abilities)
        except REFUSALS:
            return ""


def _is_clean(text: str) -> bool:
    """Whether a call's arguments are JSON in a prompt: no Python, and no text within a text."""
    return f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text


def _shows_blocks(text: str) -> bool:
    """Whether a list of blocks is in a prompt as it is written in Python or JSON."""
    return "'thinking':" in text or '"thinking":' in text


def _words(turn: Turn) -> Iterator[str]:
    """Yield the words of a turn of the probe."""
    if turn.content:
        yield turn.content
    for call in turn.tool_calls:
        yield call.name
        yield from call.arguments.strip('{}"').split('": "')
