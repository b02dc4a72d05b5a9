"""
Tool calls out of the text between their marks, whole and cut.

Where a notation writes arguments as JSON, the readers of this module read them: a call that is cut still has
the beginning of its arguments. Where it writes them otherwise, mlx-lm's parsers do, and of a call that is cut
only the name is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from mlx_lm.tool_parsers import glm47

Tools = list[dict[str, Any]]
ParseCalls = Callable[[str, Tools], Any]

# Control characters in texts are forgiven: models write line breaks as they are.
_DECODER = json.JSONDecoder(strict=False)
# What may stand between calls, around them and behind the last one.
_BETWEEN = re.compile(
    r"(?:<\|python_tag\|>|<\|python_start\|>|<\|function_call\|>|\[TOOL_CALLS\]|[\s\[\],;`])*"
)
# The members of a call in JSON, up to its arguments.
_HEAD_IN_JSON = re.compile(
    r"""\{\s*(?:"(?:id|type|tool_call_id)"\s*:\s*"[^"]*"\s*,\s*)*"""
    r""""(?:name|tool_name|function)"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")"""
    r"""(?:\s*,\s*"(?:arguments|parameters)"\s*:\s*(?P<arguments>.*))?""",
    re.DOTALL,
)


class ReadCall(NamedTuple):
    """
    A call as the model wrote it.

    Attributes:
        name: of the tool.
        arguments: an object, or one as JSON text; of a call that is cut its beginning as text.
        id: the id that the model itself gave the call; None: it gave none.
    """

    name: str
    arguments: Any
    id: str | None = None


class Reading(NamedTuple):
    """
    The calls in a text that was cut.

    Attributes:
        calls: those that are whole.
        cut: the last one, which is not, if its name is.
    """

    calls: list[ReadCall]
    cut: ReadCall | None


class CallReader(Protocol):
    """Reads what stands between the marks of calls; *tools* are offered, as OpenAI's chats have them."""

    def whole(self, text: str, tools: Tools, /) -> list[ReadCall]:
        """Return the calls that *text* is; raises any error where it isn't calls from end to end."""

    def cut(self, text: str, tools: Tools, /) -> Reading:
        """Return the calls in *text*, whose end is missing."""


class JsonCalls:
    """Calls as JSON objects with a name and arguments: one, several in a row, or a list of them."""

    def whole(self, text: str, _: Tools, /) -> list[ReadCall]:
        """Return the calls that *text* is."""
        calls, end = _read_all(self._step, text)
        return _all_of(text, calls, end)

    def cut(self, text: str, _: Tools, /) -> Reading:
        """Return the calls in *text*."""
        calls, end = _read_all(self._step, text)
        head = _HEAD_IN_JSON.match(text, end)
        if head is None:
            return Reading(calls, None)
        return Reading(calls, ReadCall(json.loads(head["name"]), _begun(head["arguments"] or "")))

    def _step(self, text: str, at: int) -> tuple[ReadCall, int]:
        found, end = _DECODER.raw_decode(text, at)
        return _from_json(found), end


class KeyedCalls(JsonCalls):
    """Calls as JSON objects whose only key is the name, and its value the arguments."""

    def cut(self, text: str, _: Tools, /) -> Reading:
        """Return the calls in *text*."""
        calls, end = _read_all(self._step, text)
        head = re.compile(r'\{\s*(?P<name>"(?:[^"\\]|\\.)*")\s*:\s*').match(text, end)
        if head is None:
            return Reading(calls, None)
        return Reading(calls, ReadCall(json.loads(head["name"]), _begun(text[head.end() :])))

    def _step(self, text: str, at: int) -> tuple[ReadCall, int]:
        found, end = _DECODER.raw_decode(text, at)
        if not isinstance(found, dict) or len(found) != 1:
            raise ValueError("no call")
        ((name, arguments),) = found.items()
        return ReadCall(name, arguments), end


@dataclass(frozen=True)
class NamedCalls:
    """
    Calls as a name and arguments in JSON.

    Attributes:
        head: all that stands before the arguments; its group `name` is the name, `id`, if it has one, the id.
        tail: what stands behind them, any number of times.
    """

    head: re.Pattern[str]
    tail: re.Pattern[str] = re.compile(r"\s*")

    def whole(self, text: str, _: Tools, /) -> list[ReadCall]:
        """Return the calls that *text* is."""
        calls, end = _read_all(self._step, text)
        return _all_of(text, calls, end)

    def cut(self, text: str, _: Tools, /) -> Reading:
        """Return the calls in *text*."""
        calls, end = _read_all(self._step, text)
        head = self.head.match(text, end)
        if head is None:
            return Reading(calls, None)
        return Reading(calls, self._call(head, _begun(text[head.end() :])))

    def _step(self, text: str, at: int) -> tuple[ReadCall, int]:
        head = self.head.match(text, at)
        if head is None:
            raise ValueError("no call")
        found, end = _DECODER.raw_decode(text, head.end())
        behind = self.tail.match(text, end)
        return self._call(head, found), behind.end() if behind else end

    def _call(self, head: re.Match[str], arguments: Any) -> ReadCall:
        return ReadCall(head["name"].strip(), arguments, head.groupdict().get("id"))


@dataclass(frozen=True)
class EitherCalls:
    """Calls in JSON where the text begins like JSON, else in the other way."""

    other: CallReader

    def whole(self, text: str, tools: Tools, /) -> list[ReadCall]:
        """Return the calls that *text* is."""
        return self._reader(text).whole(text, tools)

    def cut(self, text: str, tools: Tools, /) -> Reading:
        """Return the calls in *text*."""
        return self._reader(text).cut(text, tools)

    def _reader(self, text: str) -> CallReader:
        begin = _end_of_between(text, 0)
        return JsonCalls() if text.startswith("{", begin) else self.other


@dataclass(frozen=True)
class ParsedCalls:
    """
    Calls that a parser of mlx-lm's kind reads.

    Attributes:
        parse: makes dictionaries of a text, one or a list; raises where it can't.
        head: the beginning of a call up to the end of its name, which is the group `name`.
        closing: what a text needs at its end where the last call was taken off.
    """

    parse: ParseCalls
    head: re.Pattern[str]
    closing: str = ""

    def whole(self, text: str, tools: Tools, /) -> list[ReadCall]:
        """Return the calls that *text* is."""
        found = self.parse(text, tools)
        return [_from_json(each) for each in (found if isinstance(found, list) else [found])]

    def cut(self, text: str, tools: Tools, /) -> Reading:
        """Return the calls in *text*; nothing is told of the arguments of the one that is cut."""
        names = {tool["function"]["name"] for tool in tools}
        found = list(self.head.finditer(text))
        heads = [each for each in found if each["name"] in names] or found
        if not heads:
            return Reading([], None)
        *others, last = heads
        calls: list[ReadCall] = []
        if others:
            with suppress(Exception):  # each parser raises in its own way
                calls = self.whole(text[: last.start()] + self.closing, tools)
        return Reading(calls, ReadCall(last["name"], ""))


_DSML_INVOKE = re.compile(
    r'<｜DSML｜invoke name="(?P<name>[^"]+)">(?P<body>.*?)</｜DSML｜invoke>', re.DOTALL
)
_DSML_PARAMETER = re.compile(
    r'<｜DSML｜parameter name="(?P<name>[^"]+)"(?: string="(?P<is_text>true|false)")?>'
    r"(?P<value>.*?)</｜DSML｜parameter>",
    re.DOTALL,
)


def parse_dsml(text: str, _: Tools) -> list[dict[str, Any]]:
    """
    Return the calls of DeepSeek V3.2, whose parameters say whether they are texts or JSON.

    Raises:
        ValueError: there are none, or a parameter is no JSON though it says so.
    """
    calls = [
        {
            "name": call["name"],
            "arguments": {
                each["name"]: each["value"]
                if each["is_text"] != "false"
                else _DECODER.decode(each["value"])
                for each in _DSML_PARAMETER.finditer(call["body"])
            },
        }
        for call in _DSML_INVOKE.finditer(text)
    ]
    if not calls:
        raise ValueError("no call")
    return calls


_HY3_CALL = re.compile(r"<tool_call:opensource>(.*?)</tool_call:opensource>", re.DOTALL)


def parse_hy3(text: str, tools: Tools) -> list[dict[str, Any]]:
    """
    Return the calls of Hy3, which are GLM's with longer tags, in a list.

    Raises:
        ValueError: there are none.
    """
    calls = []
    for body in _HY3_CALL.findall(text):
        plain = body.replace("<tool_sep:opensource>", "").replace(":opensource>", ">")
        calls.append(glm47.parse_tool_call(plain, tools))
    if not calls:
        raise ValueError("no call")
    return calls


_M3_TAG = re.compile(r"\]<\]minimax\[>\[<(?P<end>/?)(?P<tag>[^<>]+)>")


@dataclass
class _Element:
    """An element of MiniMax M3's markup: what it is called, and what is in it."""

    tag: str
    text: str = ""
    inner: list[_Element] = field(default_factory=list)

    def value(self, schema: Any) -> Any:
        """Return what it says: a list, an object, a text where *schema* wants one, or JSON."""
        schema = schema if isinstance(schema, dict) else {}
        if self.inner and all(each.tag == "item" for each in self.inner):
            return [each.value(schema.get("items")) for each in self.inner]
        if self.inner:
            known = schema.get("properties") or {}
            return {each.tag: each.value(known.get(each.tag)) for each in self.inner}
        if schema.get("type") == "string":
            return self.text
        try:
            return _DECODER.decode(self.text)
        except ValueError:
            return self.text


def parse_minimax_m3(text: str, tools: Tools) -> list[dict[str, Any]]:
    """
    Return the calls of MiniMax M3: elements, before each tag of which stands the same token.

    Raises:
        ValueError: there are none, or an element doesn't end.
    """
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    open_ones = [_Element("")]
    at = 0
    for mark in _M3_TAG.finditer(text):
        open_ones[-1].text += text[at : mark.start()]
        at = mark.end()
        if mark["end"]:
            open_ones.pop()
        else:
            element = _Element(mark["tag"])
            open_ones[-1].inner.append(element)
            open_ones.append(element)
    if len(open_ones) != 1 or not open_ones[0].inner:
        raise ValueError("no call")
    calls = []
    for each in open_ones[0].inner:
        name = each.tag.removeprefix("invoke name=").strip("\"'")
        arguments = each.value(schemas.get(name)) if each.inner else {}
        calls.append({"name": name, "arguments": arguments})
    return calls


def _read_all(
    step: Callable[[str, int], tuple[ReadCall, int]], text: str
) -> tuple[list[ReadCall], int]:
    """Return the whole calls that *text* begins with, and where the rest begins."""
    calls, at = [], _end_of_between(text, 0)
    while at < len(text):
        try:
            call, end = step(text, at)
        except ValueError:
            break
        calls.append(call)
        at = _end_of_between(text, end)
    return calls, at


def _end_of_between(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at


def _all_of(text: str, calls: list[ReadCall], end: int) -> list[ReadCall]:
    """Return *calls*, which were read up to *end*, if that is all of *text*."""
    if not calls or end < len(text):
        raise ValueError("not calls alone")
    return calls


def _from_json(found: Any) -> ReadCall:
    """Return the call that a dictionary is, by whichever names its members have."""
    if not isinstance(found, dict):
        raise ValueError("a call is an object")
    own = found
    if isinstance(found.get("function"), dict):
        found = found["function"]
    name = found.get("name") or found.get("tool_name") or found.get("function")
    if not isinstance(name, str):
        raise ValueError("a call has a name")
    return ReadCall(name, found.get("arguments", found.get("parameters")), own.get("id"))


def _begun(arguments: str) -> str:
    """Return *arguments*, JSON text that may be cut, without what stands behind them if they are whole."""
    if not arguments.startswith("{"):
        return ""
    try:
        _, end = _DECODER.raw_decode(arguments)
    except ValueError:
        return arguments
    return arguments[:end]
