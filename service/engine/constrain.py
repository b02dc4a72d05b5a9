"""
Answers that are right by construction: grammars that let only some tokens through, by llguidance.

A `Constrainer` compiles a job's grammar on the text worker and keeps what it compiled; a `Gate` follows
one row on the MLX thread. The grammar speaks of the answer and not of the thoughts before it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from mlx_lm.generate import StopSequences
from mlx_lm.tokenizer_utils import TokenizerWrapper
from numpy.typing import NDArray

from service.engine.vocabulary import Vocabulary
from service.protocol import Chat, Constraint, Job, Tool

N_KEPT = 128
MAX_INTEGER = 2**53 - 1
MAX_MESSAGE = 300
CALL_START, CALL_END = "<tool_call>", "</tool_call>"
# What may stand in a Lark grammar and hide a name: texts, comments; and what is looked for in it.
_WORD = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\n]*|(?P<regex>/(?:\\.|[^/\\\n])+/[a-z]*)|(?P<start>\bstart\b)'
)
_TERMINAL = re.compile(r"^([A-Z_][A-Z_0-9]*)\b[^:\n]*:", re.MULTILINE)
# Keywords whose values are data and no schemas.
_SHARING = frozenset({"allOf", "anyOf", "oneOf", "$ref", "patternProperties"})
_LITERAL = frozenset({"const", "enum", "default", "examples", "x-guidance"})
# As models have seen JSON most often; what is not fixed would be free to go on for ever.
_SPACED: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Grammar = dict[str, Any]


class UnfitGrammar(Exception):
    """
    The grammar can't be compiled; the message says what in it.

    Attributes:
        param: the request's field that asked for it.
        is_schema: it was made from a JSON Schema.
    """

    def __init__(self, message: str, param: str, *, is_schema: bool) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.is_schema = is_schema


class Gate:
    """
    Says which tokens may come next in one row.

    Args:
        matcher: at the beginning of the answer.
        thoughts_end: finds the end of the thoughts in which the row begins; None where it doesn't.
        thoughts_start: the token that may open thoughts before the answer; None: none may.
        turn_ends: tokens that would end the answer, which may not happen amid thoughts.

    Attributes:
        is_broken: the grammar grew too complex to be followed; the answer is not to be trusted.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        thoughts_end: StopSequences.Matcher | None = None,
        thoughts_start: int | None = None,
        turn_ends: Sequence[int] = (),
    ) -> None:
        self.is_broken = False
        self._matcher = matcher
        self._thoughts_end = thoughts_end
        self._thoughts_start = thoughts_start
        self._turn_ends = turn_ends
        self._is_thinking = thoughts_end is not None and thoughts_start is None

    def advance(self, token: int) -> None:
        """Take the token that was drawn."""
        if self._is_thinking:
            assert self._thoughts_end is not None
            self._is_thinking = not self._thoughts_end.advance(token)
        elif token == self._thoughts_start:
            self._is_thinking, self._thoughts_start = True, None
        elif not self._matcher.is_stopped():
            self._thoughts_start = None
            self.is_broken = not self._matcher.consume_token(token)

    def fill(self, mask: NDArray[np.int32], place: int) -> None:
        """Write the tokens that may come next as bits into *mask* at *place*."""
        if self._is_thinking:
            mask[place] = -1
            for word, bit in (divmod(token, 32) for token in self._turn_ends):
                mask.view(np.uint32)[place, word] &= ~np.uint32(1 << bit)
            return
        fill_next_token_bitmask(self._matcher, mask, place)
        if self._thoughts_start is not None:
            word, bit = divmod(self._thoughts_start, 32)
            mask.view(np.uint32)[place, word] |= np.uint32(1 << bit)


def masks(gates: Sequence[Gate], n_logits: int) -> NDArray[np.bool_]:
    """Return which tokens each of *gates* lets through, shape (gates, *n_logits*)."""
    bits = allocate_token_bitmask(len(gates), n_logits)
    for place, gate in enumerate(gates):
        gate.fill(bits, place)
    found = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return found[:, :n_logits].view(np.bool_)


class _Form(NamedTuple):
    """All of a job that its grammar depends on."""

    tools: tuple[Tool, ...]
    must_call: tuple[str, ...]
    is_parallel: bool
    constraint: Constraint | None


class Constrainer:
    """
    Compiles grammars for one model.

    Args:
        tokenizer: the model's own.
        vocabulary: its tokens.
        allow_grammars: requests may bring grammars of their own; llguidance 1.9 can loop for ever over
            one in which nothing can follow, such as `start: /a+/ "a"`.
    """

    def __init__(
        self, tokenizer: TokenizerWrapper, vocabulary: Vocabulary, *, allow_grammars: bool = False
    ) -> None:
        self._allow_grammars = allow_grammars
        self._masker = vocabulary.masker
        self._start, self._end = call_marks(tokenizer)
        self._knows_json_calls = knows_json_calls(tokenizer)
        self._thoughts_start = tokenizer.think_start_tokens
        self._thoughts_end = tokenizer.think_end_tokens
        self._turn_ends = sorted(tokenizer.eos_token_ids)
        self._specials = {token.content for token in tokenizer.added_tokens_decoder.values()}
        self._compiled = functools.lru_cache(N_KEPT)(self._compile)

    def gate(self, job: Job, *, is_thinking: bool, may_think: bool) -> Gate | None:
        """
        Return the gate of *job*; None where any answer will do.

        Args:
            job: what is asked for.
            is_thinking: its prompt ends inside of thoughts.
            may_think: its answer may begin with them.

        Raises:
            UnfitGrammar: the grammar can't be compiled.
        """
        tools = job.prompt.tools if isinstance(job.prompt, Chat) else ()
        form = _Form(tools, job.must_call, job.parallel_tool_calls, job.constraint)
        compiled = self._compiled(form)
        if compiled is None:
            return None
        matcher = compiled.deep_copy()
        if matcher.is_error():
            raise UnfitGrammar(
                _in_short(matcher.get_error()),
                job.constraint.param if job.constraint else "tools",
                is_schema=not job.constraint or job.constraint.kind.startswith("json"),
            )
        if not self._thoughts_end or not (is_thinking or may_think):
            return Gate(matcher)
        ends = StopSequences([self._thoughts_end]).matcher()
        if is_thinking:
            return Gate(matcher, ends, None, self._turn_ends)
        if self._thoughts_start and len(self._thoughts_start) == 1:
            return Gate(matcher, ends, self._thoughts_start[0], self._turn_ends)
        return Gate(matcher)

    def _compile(self, form: _Form) -> LLMatcher | None:
        grammar = self._grammar(form)
        if grammar is None:
            return None
        if self._masker is None:
            raise UnfitGrammar("its tokenizer is unknown to llguidance", "", is_schema=False)
        if form.constraint and form.constraint.kind == "grammar":
            if not self._allow_grammars:
                raise UnfitGrammar(
                    "grammars are off on this server, ALLOW_GRAMMARS lets them in",
                    form.constraint.param,
                    is_schema=False,
                )
            _check_terminals(form.constraint, self._masker)
        matcher = LLMatcher(self._masker, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is too complex for its first token shows now
        return matcher

    def _grammar(self, form: _Form) -> str | None:
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
        if self._knows_json_calls and any(tool.strict for tool in tools):
            return _whole(_lark("start: TEXT (@calls TEXT)?\nTEXT: /(.|\\n)*/"), calls=calls)
        return None

    def _calls(self, tools: Sequence[Tool], is_parallel: bool) -> Grammar:
        """Return the grammar of one or more calls of *tools*, each as JSON between its marks."""
        start, end = self._mark(self._start), self._mark(self._end)
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

    def _mark(self, text: str) -> str:
        """Return *text* as Lark has it: a special token by its name, others as letters."""
        is_special = text in self._specials and text.startswith("<") and text.endswith(">")
        return text if is_special else json.dumps(text)


def call_marks(tokenizer: TokenizerWrapper) -> tuple[str, str]:
    """Return the texts around a call in JSON: the model's own, if that is how it calls."""
    if knows_json_calls(tokenizer):
        return tokenizer.tool_call_start, tokenizer.tool_call_end
    return CALL_START, CALL_END


def knows_json_calls(tokenizer: TokenizerWrapper) -> bool:
    """Whether the model's own calls are JSON objects with `name` and `arguments`."""
    return bool(tokenizer.init_kwargs.get("tool_parser_type") == "json_tools")


def _arguments(tool: Tool) -> Any:
    """Return the schema of a tool's arguments; a tool that tells none takes none."""
    schema = json.loads(tool.parameters) or {"additionalProperties": False}
    return _bounded({"type": "object"} | schema) | {"x-guidance": _SPACED}


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


def _check_terminals(constraint: Constraint, masker: LLTokenizer) -> None:
    """Refuse what Lark refuses, too; llguidance 1.9 can loop for ever over a terminal without width."""
    matcher = LLMatcher(masker, _any_terminal(constraint.source), log_level=0)
    if not matcher.is_error() and matcher.is_accepting():
        raise UnfitGrammar("a terminal may match the empty text", constraint.param, is_schema=False)


def _any_terminal(lark: str) -> str:
    """Return a grammar of a single terminal, whichever one of those in *lark*."""
    terminals = [
        *_TERMINAL.findall(lark),
        *filter(None, (m["regex"] for m in _WORD.finditer(lark))),
    ]
    renamed = _WORD.sub(lambda m: "rest" if m["start"] else m[0], lark)
    return f"{renamed}\nstart: {' | '.join(terminals)}" if terminals else ""


def _json(schema: Any) -> Grammar:
    text = json.dumps(_bounded(schema))  # as text, since whole numbers may be of any size
    return _part(LLMatcher.grammar_from_json_schema(text, defaults=_SPACED))


def _bounded(schema: Any, *, may_close: bool = True) -> Any:
    """
    Return *schema* as narrow as people mean it: what it lets through, *schema* lets through, too.

    Integers are kept to what every reader of JSON takes exactly (RFC 8259, section 6), since without an
    end in sight a model may write digits for ever. An object that names its properties gets no others,
    unless it says so or shares them with other parts of the schema.
    """
    if isinstance(schema, list):
        return [_bounded(each, may_close=may_close) for each in schema]
    if not isinstance(schema, dict):
        return schema
    is_shared = not schema.keys().isdisjoint(_SHARING)
    found = {
        key: value
        if key in _LITERAL
        else _bounded(value, may_close=key not in _SHARING or "properties" not in schema)
        for key, value in schema.items()
    }
    if "allOf" in schema:
        found["allOf"] = schema["allOf"]
    if "properties" in schema and may_close and not is_shared:
        found.setdefault("additionalProperties", False)
    if schema.get("type") == "integer":
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            found["minimum"] = min(-MAX_INTEGER, schema.get("maximum", 0))
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            found["maximum"] = max(MAX_INTEGER, schema.get("minimum", 0))
    return found


def _part(grammar: str) -> Grammar:
    """Return what llguidance wrote as a whole as a part of another grammar."""
    found: Grammar = json.loads(grammar)["grammars"][0]
    return found


def _lark(text: str) -> Grammar:
    return {"lark_grammar": text}


def _whole(first: Grammar, **parts: Grammar) -> str:
    """Return a grammar and the parts that it names as one text."""
    named = [grammar | {"name": name} for name, grammar in parts.items()]
    return json.dumps({"grammars": [first, *named]})


def _in_short(text: str) -> str:
    """Return what llguidance says on several lines as one that isn't too long."""
    return " ".join(text.split())[:MAX_MESSAGE]
