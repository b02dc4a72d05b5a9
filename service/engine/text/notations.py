"""
The notations of calls and of thoughts, a row for each family of models.

The operator may name a row. Else its signs choose it: texts that the model's chat template or its vocabulary
holds. Rows are tried in their order, the more particular first.

To add a family, add its row, its name in `service.settings`, and its texts in `tests/models/notations.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import regex
from mlx_lm.tool_parsers import (
    function_gemma,
    gemma4,
    glm47,
    kimi_k3,
    longcat,
    minicpm5,
    minimax_m2,
    muse_spark,
    pythonic,
    qwen3_coder,
)

from service.engine.text.call_readers import (
    CallReader,
    EitherCalls,
    JsonCalls,
    KeyedCalls,
    NamedCalls,
    ParsedCalls,
    Tools,
    parse_dsml,
    parse_hy3,
    parse_minimax_m3,
)


class Term(str):
    """A term of a grammar among the texts of a frame."""


BREAK = Term("BREAK?")
COUNT = Term("COUNT")
OWN_ID = Term("OWN_ID")
ANY_TEXT = Term("TEXT")
Pieces = tuple[str, ...]


@dataclass(frozen=True)
class CallFrame:
    """
    What a grammar writes around the names and the arguments of calls.

    Attributes:
        before: comes before a name.
        between: comes between a name and its arguments.
        after: comes behind the arguments.
        separator: comes between two calls; None: there is never more than one.
        opening: comes before the first call.
        closing: comes behind the last call.
        is_json: a name is a text in JSON.
        lead: comes before an answer that calls nothing.
        thoughts: may come before everything.
    """

    before: Pieces
    between: Pieces
    after: Pieces
    separator: Pieces | None = ()
    opening: Pieces = ()
    closing: Pieces = ()
    is_json: bool = True
    lead: Pieces = ()
    thoughts: Pieces = ()


class Opened(NamedTuple):
    """
    Which part of an answer has begun.

    Attributes:
        part: `normal`, `reasoning` or `tool`.
        text: what is known of the text, in which marks may follow.
        head: what comes before it, and has no marks to be looked for.
    """

    part: str
    text: str
    head: str = ""


# Tells by the text up to here, and the names of the tools, which part begins; None: more text is needed.
Opener = Callable[[str, Collection[str]], Opened | None]


@dataclass(frozen=True)
class CallNotation:
    """
    How a family writes calls.

    Attributes:
        reader: reads them.
        signs: what a template or vocabulary of the family holds: all texts of any one entry.
        starts: marks that open calls.
        end: mark that closes them; empty: the end of the answer does.
        frame: how a grammar writes them; None: it can't, since arguments are no JSON.
        opener: tells what the answer begins with, where no mark does; None: a mark does.
        reopens: marks at which the opener is asked again.
        reopening: what of such a mark the opener wants to see.
        keeps_unopened: an answer of which the opener couldn't tell is text; else it is nothing.
        others: marks that set nothing apart where they stand in a text, and are no text.
        thinks: the notation has thoughts of its own.
        needs_tools: it is used where tools are offered; else any answer is written in it.
    """

    reader: CallReader
    signs: tuple[Pieces, ...] = ()
    starts: Pieces = ()
    end: str = ""
    frame: CallFrame | None = None
    opener: Opener | None = None
    reopens: Pieces = ()
    reopening: str = ""
    keeps_unopened: bool = True
    others: Pieces = ()
    thinks: bool = False
    needs_tools: bool = True


@dataclass(frozen=True)
class ThoughtNotation:
    """
    How a family marks thoughts.

    Attributes:
        starts: marks that open thoughts.
        ends: marks that close them.
        signs: as those of `CallNotation`.
        title_end: behind the opening mark stands a title, up to this text; empty: none does.
        others: marks that set no thoughts apart, and are no text.
    """

    starts: Pieces
    ends: Pieces
    signs: tuple[Pieces, ...] = ()
    title_end: str = ""
    others: Pieces = ()

    def are_open(self, text: str) -> bool:
        """Whether *text* opens thoughts, and doesn't close them behind that."""
        opened, closed = (max(map(text.rfind, marks)) for marks in (self.starts, self.ends))
        return opened > closed


_CALL_IN_JSON = r'\{\s*"(?:name|type|function|id)"\s*:'
_BARE_CALL = regex.compile(
    rf"\s*(?:{_CALL_IN_JSON}|\[\s*(?:{_CALL_IN_JSON}|[A-Za-z_]\w*(?:\.\w+)*\())"
)
_HARMONY_HEADER = regex.compile(
    r"\s*(?:<\|start\|>)?(?:assistant)?\s*(?:to=(?P<to>[\w.-]+)\s*)?"
    r"(?:(?:<\|channel\|>)?\s*(?P<channel>analysis|commentary|final)\s*(?:to=(?P<to>[\w.-]+)\s*)?)?"
    r"(?:<\|constrain\|>\s*\w*|json|code)?\s*<\|message\|>"
)
_SOLAR_HEADER = regex.compile(
    r"\s*(?:<\|begin\|>)?\s*(?:assistant)?\s*<\|(?P<part>think|content|tool_calls)\|>"
)
_FOR_WHOM = ">>>"


def open_bare_call(text: str, _: Collection[str]) -> Opened | None:
    """Tell a call without a mark, which is the whole answer, by how it begins."""
    match = _BARE_CALL.match(text, partial=True)
    if match is None:
        return Opened("normal", text)
    return None if match.partial else Opened("tool", text)


def open_harmony(text: str, names: Collection[str]) -> Opened | None:
    """Read the header, which says what the message behind it is, and for whom."""
    header = _HARMONY_HEADER.match(text, partial=True)
    if header is None:
        return Opened("normal", text)
    if header.partial:
        return None
    said = text[header.end() :]
    if (header["to"] or "").removeprefix("functions.") in names:
        return Opened("tool", said, header.group())
    return Opened("reasoning" if header["channel"] == "analysis" else "normal", said)


def open_solar(text: str, _: Collection[str]) -> Opened | None:
    """Read the header, which says whether thoughts, a text or calls are behind it."""
    header = _SOLAR_HEADER.match(text, partial=True)
    if header is None:
        return Opened("normal", text)
    if header.partial:
        return None
    part = {"think": "reasoning", "content": "normal", "tool_calls": "tool"}[header["part"]]
    return Opened(part, text[header.end() :])


def open_recipient(text: str, names: Collection[str]) -> Opened | None:
    """Read the first line, which says for whom the rest is: for all, or for a tool."""
    addressed = text.removeprefix(_FOR_WHOM)
    line, line_end, rest = addressed.partition("\n")
    if line_end and line.strip() == "all":
        return Opened("normal", rest)
    if line_end and line.strip() in names:
        return Opened("tool", rest, line + line_end)
    if not line_end and any(name.startswith(line) for name in ("all", *names)):
        return None
    return Opened("normal", addressed, text[: len(text) - len(addressed)])


def _parse_llama(text: str, tools: Tools) -> Any:
    """Return calls in Python's notation; those of Llama's built-in tools are methods, and in no list."""
    text = re.sub(r"<\|python_(?:tag|start|end)\|>", "", text).strip()
    found = pythonic.parse_tool_call(text if text.startswith("[") else f"[{text}]", tools)
    calls = found if isinstance(found, list) else [found]
    return [call | {"name": call["name"].removesuffix(".call")} for call in calls]


def _parse_function_gemma(text: str, tools: Tools) -> Any:
    """Return calls in the notation that became Gemma 4's, but for the mark around texts."""
    return gemma4.parse_tool_call(text.replace("<escape>", '<|"|>'), tools)


_PYTHON_HEAD = re.compile(r"(?:^|[\[,])\s*(?P<name>[A-Za-z_][\w.]*)\(")
_XML_HEAD = re.compile(r"<function=\s*(?P<name>[^<>\s]+)\s*>")
_DSML = ParsedCalls(parse_dsml, re.compile(r'<｜DSML｜invoke name="(?P<name>[^"]+)">'))
_JSON_LIST = CallFrame(('{"name": ',), (', "arguments": ',), ("}",), (", ",))


def _listed(opening: str, closing: Pieces) -> CallFrame:
    """Return the frame of a list of calls in JSON between marks."""
    plain = _JSON_LIST
    return CallFrame(
        plain.before, plain.between, plain.after, plain.separator, (opening, "["), ("]", *closing)
    )


HERMES = CallNotation(
    JsonCalls(),
    (("<tool_call>", "tools"),),
    ("<tool_call>",),
    "</tool_call>",
    CallFrame(
        ("<tool_call>", BREAK, '{"name": '),
        (', "arguments": ',),
        ("}", BREAK, "</tool_call>"),
        (BREAK,),
    ),
)

CALLS: dict[str, CallNotation] = {
    "harmony": CallNotation(
        NamedCalls(
            re.compile(
                r"[^{]*?to=(?:functions\.)?(?P<name>[\w.-]+)[^{]*?<\|message\|>\s*", re.DOTALL
            )
        ),
        (("<|channel|>", "<|message|>", "<|start|>"),),
        frame=CallFrame(
            ("<|channel|>", "commentary to=functions."),
            (" ", "<|constrain|>", "json", "<|message|>"),
            (),
            separator=None,
            is_json=False,
            lead=("<|channel|>", "final", "<|message|>"),
            thoughts=(
                "<|channel|>",
                "analysis",
                "<|message|>",
                ANY_TEXT,
                "<|end|>",
                "<|start|>",
                "assistant",
            ),
        ),
        opener=open_harmony,
        reopens=("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"),
        keeps_unopened=False,
        others=("<|message|>", "<|constrain|>"),
        thinks=True,
        needs_tools=False,
    ),
    "cohere": CallNotation(
        JsonCalls(),
        (("<|START_ACTION|>",),),
        ("<|START_ACTION|>",),
        "<|END_ACTION|>",
        CallFrame(
            ('{"tool_call_id": "', COUNT, '", "tool_name": '),
            (', "parameters": ',),
            ("}",),
            (",\n    ",),
            ("<|START_ACTION|>", "[\n    "),
            ("\n]", "<|END_ACTION|>"),
        ),
    ),
    "command_r": CallNotation(
        JsonCalls(),
        (("Action:", "tool_name", "<|CHATBOT_TOKEN|>"),),
        ("Action: ```json", "Action:```json", "Action:\n```json"),
        frame=CallFrame(
            ('{\n        "tool_name": ',),
            (',\n        "parameters": ',),
            ("\n    }",),
            (",\n    ",),
            ("Action: ```json\n[\n    ",),
            ("\n]```",),
        ),
    ),
    "deepseek_v4": CallNotation(
        _DSML,
        (("｜DSML｜", "tool_calls>"),),
        ("<｜DSML｜tool_calls>",),
        "</｜DSML｜tool_calls>",
    ),
    "deepseek_v32": CallNotation(
        _DSML,
        (("｜DSML｜",),),
        ("<｜DSML｜function_calls>",),
        "</｜DSML｜function_calls>",
    ),
    "deepseek_v3": CallNotation(
        NamedCalls(
            re.compile(
                r"(?:<｜tool▁call▁begin｜>)?\s*function<｜tool▁sep｜>(?P<name>[^\n<]+)\n```json\s*"
            ),
            re.compile(r"\s*(?:```)?\s*(?:<｜tool▁call▁end｜>)?\s*"),
        ),
        (("<｜tool▁calls▁begin｜>", "```json"),),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        "<｜tool▁calls▁end｜>",
        CallFrame(
            ("<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>"),
            ("\n```json\n",),
            ("\n```", "<｜tool▁call▁end｜>"),
            ("\n",),
            ("<｜tool▁calls▁begin｜>",),
            ("<｜tool▁calls▁end｜>",),
            is_json=False,
        ),
    ),
    "deepseek_v31": CallNotation(
        NamedCalls(
            re.compile(
                r"(?:<｜tool▁call▁begin｜>)?\s*(?P<name>[^\n<]+)<｜tool▁sep｜>(?:```json)?\s*"
            ),
            re.compile(r"\s*(?:```)?\s*(?:<｜tool▁call▁end｜>)?\s*"),
        ),
        (("<｜tool▁calls▁begin｜>",),),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        "<｜tool▁calls▁end｜>",
        CallFrame(
            ("<｜tool▁call▁begin｜>",),
            ("<｜tool▁sep｜>",),
            ("<｜tool▁call▁end｜>",),
            (),
            ("<｜tool▁calls▁begin｜>",),
            ("<｜tool▁calls▁end｜>",),
            is_json=False,
        ),
    ),
    "kimi_k2": CallNotation(
        NamedCalls(
            re.compile(
                r"(?:<\|tool_call_begin\|>)?\s*(?P<id>(?:functions\.)?(?P<name>[^\s<]+?):\d+)\s*"
                r"<\|tool_call_argument_begin\|>\s*"
            ),
            re.compile(r"\s*(?:<\|tool_call_end\|>)?\s*"),
        ),
        (("<|tool_calls_section_begin|>",),),
        ("<|tool_calls_section_begin|>",),
        "<|tool_calls_section_end|>",
        CallFrame(
            ("<|tool_call_begin|>", "functions."),
            (":", COUNT, "<|tool_call_argument_begin|>"),
            ("<|tool_call_end|>",),
            (),
            ("<|tool_calls_section_begin|>",),
            ("<|tool_calls_section_end|>",),
            is_json=False,
        ),
    ),
    "kimi_k3": CallNotation(
        ParsedCalls(
            kimi_k3.parse_tool_call,
            re.compile(r'<\|open\|>call\b[^<]*?\btool="(?P<name>[^"]+)"'),
        ),
        (("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),),
        (kimi_k3.tool_call_start,),
        kimi_k3.tool_call_end,
    ),
    "minimax_m3": CallNotation(
        ParsedCalls(
            parse_minimax_m3,
            re.compile(r"""\]<\]minimax\[>\[<invoke name=["']?(?P<name>[^"'>]+)["']?>"""),
        ),
        (("]<]minimax[>[", "<tool_call>"),),
        ("]<]minimax[>[<tool_call>",),
        "]<]minimax[>[</tool_call>",
    ),
    "minimax_m2": CallNotation(
        ParsedCalls(
            minimax_m2.parse_tool_call,
            re.compile(r"""<invoke name=["']?(?P<name>[^"'>]+)["']?>"""),
        ),
        ((minimax_m2.tool_call_start,),),
        (minimax_m2.tool_call_start,),
        minimax_m2.tool_call_end,
    ),
    "gemma4": CallNotation(
        ParsedCalls(gemma4.parse_tool_call, re.compile(r"call:(?P<name>[\w-]+)\{")),
        ((gemma4.tool_call_start, gemma4.tool_call_end),),
        (gemma4.tool_call_start,),
        gemma4.tool_call_end,
    ),
    "function_gemma": CallNotation(
        ParsedCalls(_parse_function_gemma, re.compile(r"call:(?P<name>[\w-]+)\{")),
        ((function_gemma.tool_call_start,),),
        (function_gemma.tool_call_start,),
        function_gemma.tool_call_end,
    ),
    "longcat": CallNotation(
        ParsedCalls(
            longcat.parse_tool_call,
            re.compile(r"^\s*(?P<name>[^\s<{]+)\s*(?=\n|<longcat_arg_key>)"),
        ),
        ((longcat.tool_call_start,),),
        (longcat.tool_call_start,),
        longcat.tool_call_end,
    ),
    "glm47": CallNotation(
        ParsedCalls(
            glm47.parse_tool_call, re.compile(r"^\s*(?P<name>[^\s<{]+)\s*(?=\n|<arg_key>)")
        ),
        (("<arg_key>", "<tool_call>"),),
        (glm47.tool_call_start,),
        glm47.tool_call_end,
    ),
    "pythonic": CallNotation(
        ParsedCalls(pythonic.parse_tool_call, _PYTHON_HEAD, closing="]"),
        (("<|tool_call_start|>",), ("<|tool_list_start|>",)),
        (pythonic.tool_call_start,),
        pythonic.tool_call_end,
    ),
    "seed_oss": CallNotation(
        ParsedCalls(qwen3_coder.parse_tool_call, _XML_HEAD),
        (("<seed:tool_call>",),),
        ("<seed:tool_call>",),
        "</seed:tool_call>",
    ),
    "qwen3_coder": CallNotation(
        ParsedCalls(qwen3_coder.parse_tool_call, _XML_HEAD),
        (("<tool_call>", "<function="),),
        (qwen3_coder.tool_call_start,),
        qwen3_coder.tool_call_end,
    ),
    "minicpm5": CallNotation(
        ParsedCalls(
            minicpm5.parse_tool_call,
            re.compile(r"""^\s*["']?(?P<name>[^"'\s<>]+)["']?\s*>"""),
        ),
        (('<function name="', '<param name="'),),
        (minicpm5.tool_call_start,),
        minicpm5.tool_call_end,
    ),
    "mistral": CallNotation(
        EitherCalls(
            NamedCalls(
                re.compile(r"(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*(?P<id>\w+)\s*)?\[ARGS\]\s*")
            )
        ),
        (("[TOOL_CALLS]", "[ARGS]"),),
        ("[TOOL_CALLS]",),
        frame=CallFrame(("[TOOL_CALLS]",), ("[ARGS]",), (), (), is_json=False),
    ),
    "mistral_v3": CallNotation(
        EitherCalls(JsonCalls()),
        (("[TOOL_CALLS]",),),
        ("[TOOL_CALLS]",),
        frame=_listed("[TOOL_CALLS]", ()),
    ),
    "muse_spark": CallNotation(
        ParsedCalls(
            muse_spark.parse_tool_call,
            re.compile(r'<atem:invoke\b[^>]*?\bname="(?P<name>[^"]+)"'),
        ),
        ((muse_spark.tool_call_start,),),
        (muse_spark.tool_call_start,),
        muse_spark.tool_call_end,
        needs_tools=False,
    ),
    "nemotron": CallNotation(
        JsonCalls(),
        (("<TOOLCALL>",),),
        ("<TOOLCALL>",),
        "</TOOLCALL>",
        _listed("<TOOLCALL>", ("</TOOLCALL>",)),
    ),
    "jamba": CallNotation(
        JsonCalls(),
        (("<tool_calls>", "</tool_calls>"),),
        ("<tool_calls>",),
        "</tool_calls>",
        _listed("<tool_calls>", ("</tool_calls>",)),
    ),
    "apertus": CallNotation(
        KeyedCalls(),
        (("<|tools_prefix|>",),),
        ("<|tools_prefix|>",),
        "<|tools_suffix|>",
        CallFrame(
            ("{",), (": ",), ("}",), (", ",), ("<|tools_prefix|>", "["), ("]", "<|tools_suffix|>")
        ),
    ),
    "gigachat": CallNotation(
        JsonCalls(),
        (("<|function_call|>",),),
        ("<|function_call|>",),
        frame=CallFrame(('{"name": ',), (', "arguments": ',), ("}",), None, ("<|function_call|>",)),
    ),
    "gigachat_v3": CallNotation(
        JsonCalls(),
        (("function call", "<|role_sep|>"),),
        ("<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n"),
        "<|message_sep|>",
        CallFrame(
            ('{"name": ',),
            (', "arguments": ',),
            ("}",),
            None,
            ("<|message_sep|>", "\n\nfunction call", "<|role_sep|>", "\n"),
        ),
    ),
    "phi4_mini": CallNotation(
        JsonCalls(),
        (("<|tool_call|>", "<|/tool_call|>"),),
        ("<|tool_call|>",),
        "<|/tool_call|>",
        _listed("<|tool_call|>", ("<|/tool_call|>",)),
    ),
    "granite": CallNotation(
        JsonCalls(),
        (("<|tool_call|>",),),
        ("<|tool_call|>",),
        frame=_listed("<|tool_call|>", ()),
    ),
    "hy3": CallNotation(
        ParsedCalls(
            parse_hy3,
            re.compile(r"<tool_call:opensource>\s*(?P<name>[^<\s]+)\s*<tool_sep:opensource>"),
        ),
        (("<tool_calls:opensource>",), ("<tool_calls{}>", ":opensource")),
        ("<tool_calls:opensource>",),
        "</tool_calls:opensource>",
    ),
    "solar_open": CallNotation(
        NamedCalls(
            re.compile(
                r"\s*(?:<\|tool_call:begin\|>)?\s*(?P<id>\w+)?\s*"
                r"<\|tool_call:name\|>(?P<name>[^<]+)<\|tool_call:args\|>\s*"
            ),
            re.compile(r"\s*(?:<\|tool_call:end\|>)?\s*"),
        ),
        (("<|tool_call:begin|>", "<|tool_call:args|>"),),
        frame=CallFrame(
            ("<|tool_call:begin|>", OWN_ID, "<|tool_call:name|>"),
            ("<|tool_call:args|>",),
            ("<|tool_call:end|>",),
            (),
            ("<|tool_calls|>",),
            is_json=False,
            lead=("<|content|>",),
            thoughts=("<|think|>", ANY_TEXT, "<|end|>", "<|begin|>", "assistant"),
        ),
        opener=open_solar,
        reopens=("<|end|>", "<|calls|>", "<|begin|>"),
        keeps_unopened=False,
        others=("<|think|>", "<|content|>", "<|tool_calls|>"),
        thinks=True,
        needs_tools=False,
    ),
    "functionary_v32": CallNotation(
        NamedCalls(re.compile(r"(?P<name>[^\n{]+)\n\s*")),
        ((">>>all",),),
        frame=CallFrame((), ("\n",), (), (_FOR_WHOM,), is_json=False, lead=("all\n",)),
        opener=open_recipient,
        reopens=(_FOR_WHOM,),
        reopening=_FOR_WHOM,
        needs_tools=False,
    ),
    "functionary_v31": CallNotation(
        NamedCalls(re.compile(r"\s*(?P<name>[^<>\s]+)\s*>\s*")),
        (("<function=example_function_name>", "</function>"),),
        ("<function=",),
        "</function>",
        CallFrame(("<function=",), (">",), ("</function>",), (), is_json=False),
    ),
    "hermes": HERMES,
    "llama": CallNotation(
        EitherCalls(ParsedCalls(_parse_llama, _PYTHON_HEAD, closing="]")),
        (
            ("<|python_tag|>", "<|start_header_id|>", "tools"),
            ("<|python_start|>", "<|header_start|>", "tools"),
            ('"parameters": dictionary', "tools"),
        ),
        ("<|python_tag|>", "<|python_start|>"),
        "<|python_end|>",
        CallFrame(('{"name": ',), (', "parameters": ',), ("}",), ("; ",)),
        opener=open_bare_call,
    ),
}

# How mlx-lm names parsers that have another name here, or are the same.
FROM_MLX = {"json_tools": "hermes", "laguna": "glm47"}

THOUGHTS: dict[str, ThoughtNotation] = {
    "hy3": ThoughtNotation(
        ("<think:opensource>",),
        ("</think:opensource>",),
        (("<think:opensource>",), ("<think{}>", ":opensource")),
    ),
    "seed_oss": ThoughtNotation(("<seed:think>",), ("</seed:think>",), (("<seed:think>",),)),
    "mistral": ThoughtNotation(("[THINK]",), ("[/THINK]",), (("[THINK]", "[/THINK]"),)),
    "cohere": ThoughtNotation(
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        (("<|START_THINKING|>",),),
        others=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    "gemma4": ThoughtNotation(
        ("<|channel>",), ("<channel|>",), (("<|channel>", "<channel|>"),), title_end="\n"
    ),
    "kimi_k3": ThoughtNotation(
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        (("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),),
        others=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
        ),
    ),
    "granite": ThoughtNotation(
        ("<think>", "Here is my thought process:", "Here's my thought process:"),
        ("</think>", "Here is my response:", "Here's my response:"),
        (("<response>", "<think>"), ("Here is my thought process:",)),
        others=("<response>", "</response>"),
    ),
    "longcat": ThoughtNotation(
        ("<longcat_think>",), ("</longcat_think>",), (("<longcat_think>", "</longcat_think>"),)
    ),
    "minimax_m3": ThoughtNotation(
        ("<mm:think>",), ("</mm:think>",), (("<mm:think>", "</mm:think>"),)
    ),
    "think_start": ThoughtNotation(
        ("<|think:start|>",), ("<|think:end|>",), (("<|think:start|>", "<|think:end|>"),)
    ),
    "think": ThoughtNotation(("<think>",), ("</think>",), (("<think>", "</think>"),)),
}
