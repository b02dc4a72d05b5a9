"""
What an answer must be, as one grammar in llguidance's notation: tool calls, a constrained text, or either.

Thoughts that come before the answer are no part of its grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llguidance import LLMatcher
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.constrain.keywords import simplify, unfollowed
from service.engine.constrain.schema import narrow
from service.engine.model.vocabulary import special_tokens
from service.engine.text.call_format import formats
from service.engine.text.notations import CallFrame, Term
from service.protocol import Constraint, Tool

# White space as Python's json writes it, which models have seen most; if it weren't fixed, it need never end.
_SPACED: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Keywords that can't be followed are left to the model, where it isn't bound to a tool's schema.
_LENIENT: Any = {"lenient": True, "coerce_one_of": True}

# What the terms in frames stand for.
_TERMS = ("BREAK: /\\n/", "COUNT: /[0-9]/", "OWN_ID: /[a-z0-9]{10}/", "TEXT: /(.|\\n)*/")
_NO_FRAME = CallFrame((), (), ())

Grammar = dict[str, Any]


class AnswerForm(NamedTuple):
    """
    The form that an answer must have: all of a job that its grammar depends on.

    Attributes:
        tools: the tools that are offered.
        must_call: names of the tools of which one must be called; empty: none need be.
        is_parallel: several may be called at once.
        constraint: what the answer must be where it calls nothing; None: it is free.
        may_think: thoughts may come first, where a notation has them among all that it writes.
    """

    tools: tuple[Tool, ...]
    must_call: tuple[str, ...]
    is_parallel: bool
    constraint: Constraint | None
    may_think: bool = True

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
        found = formats(tokenizer)
        assert found.forced.frame is not None
        self._frame = found.forced.frame
        self._toolless_frame = found.toolless_forced.frame or _NO_FRAME
        self._writes_json = found.own.frame is not None
        self._is_marked = found.own.opener is None
        special = special_tokens(tokenizer)
        self._specials = {text: i for i, text in special.items()}
        longest_first = sorted(special.values(), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def grammar(self, form: AnswerForm) -> str | None:
        """Return llguidance's grammar for *form* as text; None where none is needed."""
        tools, constraint = form.tools, form.constraint
        if form.must_call:
            tools = tuple(tool for tool in tools if tool.name in form.must_call)
            calls = self._calls(tools, form.is_parallel)
            if not self._frame.thoughts:
                return _whole(calls)
            return _whole(self._start(self._frame, "@calls", form), calls=calls)
        if not tools:
            return self._toolless(constraint, form) if constraint else None
        calls = self._calls(tools, form.is_parallel)
        if constraint:
            lead = self._terms(self._frame.lead)
            either = self._start(self._frame, f"(@calls | {lead} @answer)", form)
            return _whole(either, calls=calls, answer=_answer(constraint))
        if not self._writes_json or not any(tool.strict for tool in tools):
            return None
        if self._is_marked:
            return _whole(_lark(f"start: TEXT (@calls TEXT)?\n{_TERMS[-1]}"), calls=calls)
        lead = self._terms(self._frame.lead)
        return _whole(self._start(self._frame, f"(@calls | {lead} TEXT)", form), calls=calls)

    def _toolless(self, constraint: Constraint, form: AnswerForm) -> str:
        frame, answer = self._toolless_frame, _answer(constraint)
        if not frame.lead:
            return _whole(answer)
        start = self._start(frame, f"{self._terms(frame.lead)} @answer", form)
        return _whole(start, answer=answer)

    def _start(self, frame: CallFrame, answer: str, form: AnswerForm) -> Grammar:
        """Return a grammar of the term *answer*, and before it what its *frame* lets come first."""
        may_think = frame.thoughts and form.may_think
        thoughts = f"({self._terms(frame.thoughts)})? " if may_think else ""
        return _lark("\n".join([f"start: {thoughts}{answer}", *_TERMS]))

    def _calls(self, tools: Sequence[Tool], is_parallel: bool) -> Grammar:
        """Return the grammar of one or more calls of *tools* in the frame of the model."""
        frame = self._frame
        *shared, last = frame.before or ("",)
        bodies = " | ".join(f"body_{i}" for i in range(len(tools)))
        several = is_parallel and frame.separator is not None
        more = f"({self._terms(frame.separator or ())} call)*" if several else ""
        rules = [
            f"start: {self._terms(frame.opening)} call {more} {self._terms(frame.closing)}",
            f"call: {self._terms(shared)} ({bodies}) {self._terms(frame.after)}",
            *_TERMS,
        ]
        for i, tool in enumerate(tools):
            name = json.dumps(tool.name) if frame.is_json else tool.name
            rules.append(f"body_{i}: {self._terms((last, name, *frame.between))} arguments_{i}")
            rules.append(f"arguments_{i}: %json {json.dumps(_arguments(tool))}")
        return _lark("\n".join(rules))

    def _terms(self, pieces: Sequence[str]) -> str:
        """Return *pieces* in Lark's notation: special tokens by their number, other text in quotes."""
        found: list[str] = []
        text = ""
        for piece in (*pieces, Term("")):
            if not isinstance(piece, Term):
                text += piece
                continue
            for part in filter(None, self._special.split(text)):
                number = self._specials.get(part)
                found.append(json.dumps(part) if number is None else f"<[{number}]>")
            found, text = [*found, piece], ""
        return " ".join(filter(None, found))


def flaw(form: AnswerForm) -> str | None:
    """Return what is wrong with a schema of *form*, in the words of the schema; None: nothing is."""
    tools = [tool for tool in form.tools if not form.must_call or tool.name in form.must_call]
    parts = [(f"the arguments of {tool.name}: ", _arguments(tool)) for tool in tools]
    if form.constraint is not None and form.constraint.kind == "json_schema":
        parts.append(("", _followed(json.loads(form.constraint.source)) | {"x-guidance": _SPACED}))
    for where, schema in parts:
        error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
        if error.startswith(("Unimplemented keys", "oneOf")):
            error = unfollowed(schema) or error
        if error:
            return where + error.replace("while processing json-schema:///#", "at #")
    return None


def _followed(schema: Any) -> Any:
    return narrow(simplify(schema))


def _arguments(tool: Tool) -> Any:
    """Return the schema of a tool's arguments; a tool without a schema takes no arguments."""
    schema = json.loads(tool.parameters) or {"additionalProperties": False}
    options = _SPACED if tool.strict else _SPACED | _LENIENT
    return _followed({"type": "object"} | schema) | {"x-guidance": options}


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
    text = json.dumps(_followed(schema))  # as text, since integers in it may be of any size
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
