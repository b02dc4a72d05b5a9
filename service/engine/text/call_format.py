"""
How a model's tool calls are written: decided here for the parser of answers and for the grammars alike.

A model has two formats. Its own is the one that it was trained on, as mlx-lm knows it. The forced one is what
a grammar holds an answer to: a JSON object with `name` and `arguments` between two marks. Both are the same
for a model whose own calls are such objects.

To add a family of models, make its format in `own_format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from service.engine.model.vocabulary import special_tokens

_PLAIN_TEXT = TextStateMachine({"normal": []})

ParseCalls = Callable[[str, list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class CallFormat:
    """
    One way to write tool calls, and how an answer that may hold them is taken apart.

    Attributes:
        start: text that opens a call.
        end: text that closes a call; empty: the end of the answer does.
        is_json: a call is a JSON object with `name` and `arguments`.
        parse: makes calls of the text between the marks, given the tools as JSON Schema; None: nothing can.
        machine: tells by the text in which part of an answer it stands: `normal`, `reasoning` or `tool`.
        initial_state: the part in which an answer begins.
        silent_tokens: special tokens whose text is left out; the others set the parts apart, and are read.
    """

    start: str
    end: str
    is_json: bool
    parse: ParseCalls | None
    machine: TextStateMachine
    initial_state: str
    silent_tokens: frozenset[int]


def own_format(tokenizer: TokenizerWrapper) -> CallFormat:
    """Return the format in which the model calls by itself; one without calls has empty marks."""
    start, end = tokenizer.tool_call_start or "", tokenizer.tool_call_end or ""
    edges = [edge for part in tokenizer.response_transitions.values() for edge in part]
    marks = {start, end, *(tokenizer.structural_markers or ()), *(mark for mark, _ in edges)}
    return CallFormat(
        start,
        end,
        is_json=tokenizer.init_kwargs.get("tool_parser_type") == "json_tools",
        parse=tokenizer.tool_parser,
        machine=make_text_state_machine(tokenizer),
        initial_state=tokenizer.response_initial_state or "normal",
        silent_tokens=_silent_tokens(tokenizer, marks),
    )


def forced_format(tokenizer: TokenizerWrapper) -> CallFormat:
    """Return the format that a grammar holds calls to."""
    own = own_format(tokenizer)
    if own.is_json:
        return own
    start, end = json_tools.tool_call_start, json_tools.tool_call_end
    transitions = {"normal": [(start, "tool")], "tool": [(end, "normal")]}
    if tokenizer.has_thinking:
        transitions["normal"].append((tokenizer.think_start, "reasoning"))
        transitions["reasoning"] = [(tokenizer.think_end, "normal")]
    return CallFormat(
        start,
        end,
        is_json=True,
        parse=json_tools.parse_tool_call,
        machine=TextStateMachine(transitions),
        initial_state="normal",
        silent_tokens=own.silent_tokens & _silent_tokens(tokenizer, {start, end}),
    )


def plain_format(own: CallFormat) -> CallFormat:
    """Return the format of a model, whose *own* is given, that continues a text: its marks are text there."""
    return replace(
        own,
        start="",
        end="",
        parse=None,
        machine=_PLAIN_TEXT,
        initial_state="normal",
        is_json=False,
    )


def _silent_tokens(tokenizer: TokenizerWrapper, marks: Iterable[str]) -> frozenset[int]:
    """Return the special tokens that are none of *marks*, and neither begin nor end thoughts."""
    texts = {*marks, tokenizer.think_start, tokenizer.think_end}
    return frozenset(i for i, text in special_tokens(tokenizer).items() if text not in texts)
