"""
What an answer must be, as one grammar in llguidance's notation: tool calls, a constrained text, or either.

Thoughts that come before the answer are no part of its grammar.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from llguidance import LLMatcher
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.constrain.schema import narrow
from service.engine.text.call_format import forced_format, own_format
from service.protocol import Constraint, Tool

# White space as Python's json writes it, which models have seen most; if it weren't fixed, it need never end.
_SPACED: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Grammar = dict[str, Any]


class AnswerForm(NamedTuple):
    """
    The form that an answer must have: all of a job that its grammar depends on.

    Attributes:
        tools: the tools that are offered.
        must_call: names of the tools of which one must be called; empty: none need be.
        is_parallel: several may be called at once.
        constraint: what the answer must be where it calls nothing; None: it is free.
    """

    tools: tuple[Tool, ...]
    must_call: tuple[str, ...]
    is_parallel: bool
    constraint: Constraint | None

    @property
    def param(self) -> str:
        """The request's field that asked for this form."""
        return self.constraint.param if self.constraint else "tools"

    @property
    def is_schema(self) -> bool:
        """Whether JSON Schemas say what the form is."""
        return self.constraint is None or self.constraint.kind.startswith("json")


class GrammarBuilder:
    """
    Builds the grammars of one model.

    Args:
        tokenizer: the model's own.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._format = forced_format(tokenizer)
        self._calls_in_json = own_format(tokenizer).is_json
        self._specials = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def grammar(self, form: AnswerForm) -> str | None:
        """Return llguidance's grammar for *form* as text; None where none is needed."""
        tools, constraint = form.tools, form.constraint
        if form.must_call:
            tools = tuple(tool for tool in tools if tool.name in form.must_call)
            return _whole(self._calls(tools, form.is_parallel))
        if not tools:
            return _whole(_answer(constraint)) if constraint else None
        calls = self._calls(tools, form.is_parallel)
        if constraint:
            either = _lark("start: @calls | @answer")
            return _whole(either, calls=calls, answer=_answer(constraint))
        if self._calls_in_json and any(tool.strict for tool in tools):
            return _whole(_lark("start: TEXT (@calls TEXT)?\nTEXT: /(.|\\n)*/"), calls=calls)
        return None

    def _calls(self, tools: Sequence[Tool], is_parallel: bool) -> Grammar:
        """Return the grammar of one or more calls of *tools*, each as JSON between its marks."""
        start, end = self._in_lark(self._format.start), self._in_lark(self._format.end)
        bodies = " | ".join(f"body_{i}" for i in range(len(tools)))
        rules = [
            f"start: call {'(BREAK? call)*' if is_parallel else ''}",
            f"call: {start} BREAK? ({bodies}) BREAK? {end}",
            "BREAK: /\\n/",
        ]
        for i, tool in enumerate(tools):
            opening = f'{{"name": {json.dumps(tool.name)}, "arguments": '
            rules.append(f'body_{i}: {json.dumps(opening)} arguments_{i} "}}"')
            rules.append(f"arguments_{i}: %json {json.dumps(_arguments(tool))}")
        return _lark("\n".join(rules))

    def _in_lark(self, text: str) -> str:
        """Return *text* in Lark's notation: a special token by its name, any other text in quotes."""
        is_special = text in self._specials and text.startswith("<") and text.endswith(">")
        return text if is_special else json.dumps(text)


def _arguments(tool: Tool) -> Any:
    """Return the schema of a tool's arguments; a tool without a schema takes no arguments."""
    schema = json.loads(tool.parameters) or {"additionalProperties": False}
    return narrow({"type": "object"} | schema) | {"x-guidance": _SPACED}


def _answer(constraint: Constraint) -> Grammar:
    match constraint.kind:
        case "json_object":
            return _json({"type": "object"})
        case "json_schema":
            return _json(json.loads(constraint.source))
        case "regex":
            return _part(LLMatcher.grammar_from_regex(constraint.source))
        case "choice":
            choices = json.loads(constraint.source)
            return _lark("start: " + " | ".join(json.dumps(choice) for choice in choices))
        case "grammar":
            return _lark(constraint.source)


def _json(schema: Any) -> Grammar:
    text = json.dumps(narrow(schema))  # as text, since integers in it may be of any size
    return _part(LLMatcher.grammar_from_json_schema(text, defaults=_SPACED))


def _part(grammar: str) -> Grammar:
    """Return a whole *grammar* of llguidance's as a part for another grammar."""
    found: Grammar = json.loads(grammar)["grammars"][0]
    return found


def _lark(text: str) -> Grammar:
    return {"lark_grammar": text}


def _whole(first: Grammar, **parts: Grammar) -> str:
    """Return the grammar *first*, and the *parts* that it refers to by name, as one text."""
    named = [grammar | {"name": name} for name, grammar in parts.items()]
    return json.dumps({"grammars": [first, *named]})
