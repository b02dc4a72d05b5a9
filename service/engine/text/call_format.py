"""
How one model writes its answers: decided here for the parser of answers and for the grammars alike.

A model has several formats. Its own is the one that it was trained on, by its row in `notations`. The forced
one is what a grammar holds an answer to: its own where arguments are JSON there, else Hermes's, a JSON object
with `name` and `arguments` between two marks. Where no tool is offered nothing is a call, and a text that is
continued has no parts at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.model.vocabulary import special_tokens, token_id
from service.engine.text.call_readers import CallReader
from service.engine.text.notations import (
    CALLS,
    FROM_MLX,
    HERMES,
    THOUGHTS,
    CallFrame,
    CallNotation,
    Opener,
    ThoughtNotation,
)
from service.protocol import ModelCard

_Notation = TypeVar("_Notation", CallNotation, ThoughtNotation)  # one or the other
_Edges = dict[str, dict[str, str]]


@dataclass(frozen=True)
class CallFormat:
    """
    One way in which answers are written, and how they are taken apart.

    Attributes:
        reader: reads the calls; None: nothing is a call.
        machine: tells by marks in which part of an answer a text stands: `normal`, `reasoning`, `tool`,
            `title`, which is left out, or `start`, where the opener has to tell.
        initial_state: the part in which an answer begins.
        silent_tokens: special tokens that are no marks; they are left out of all parts but calls.
        textless_tokens: those, and special tokens that are a mark by themselves: none is ever a text.
        marks: finds marks and special tokens in a text.
        end: mark that closes a call; empty: the end of the answer does.
        frame: how a grammar writes calls; None: it can't.
        opener: tells which part begins at a `start`.
        reopening: what the opener sees first at a later `start`.
        keeps_unopened: what the opener couldn't tell of is text; else it is nothing.
    """

    reader: CallReader | None
    machine: TextStateMachine
    initial_state: str
    silent_tokens: frozenset[int]
    textless_tokens: frozenset[int]
    marks: re.Pattern[str]
    end: str = ""
    frame: CallFrame | None = None
    opener: Opener | None = None
    reopening: str = ""
    keeps_unopened: bool = True


@dataclass(frozen=True)
class Formats:
    """
    The formats of one model.

    Attributes:
        own: the model's own, where tools are offered.
        forced: the one that a grammar holds calls to, and answers beside them.
        toolless: the model's own, where no tool is offered.
        toolless_forced: the one that a grammar holds answers to, where no tool is offered.
        plain: a text that is continued; marks are text there.
        thoughts: how it marks thoughts; None: it has none, or its notation of calls has them.
        knows_calls: the model's own notation is known.
        knows_thoughts: how it marks thoughts is known.
    """

    own: CallFormat
    forced: CallFormat
    toolless: CallFormat
    toolless_forced: CallFormat
    plain: CallFormat
    thoughts: ThoughtNotation | None
    knows_calls: bool
    knows_thoughts: bool

    def confirmed(self, card: ModelCard) -> ModelCard:
        """Return *card*, read from the model's files, with what of it holds for its answers, too."""
        if card.knows_tools and not self.knows_calls:
            note = "it writes calls in no notation that is known, so they come only on demand"
            card = msgspec.structs.replace(
                card, description=f"{card.description}; {note}", notes=(*card.notes, note)
            )
        return msgspec.structs.replace(
            card,
            knows_calls=self.knows_calls,
            knows_thinking=card.knows_thinking and self.knows_thoughts,
        )


def formats(tokenizer: TokenizerWrapper) -> Formats:
    """
    Return the formats of the model whose *tokenizer* this is.

    The tokenizer's settings may name the notations, as `tool_parser` and `reasoning_parser`.
    """
    calls = call_notation(tokenizer)
    thoughts = None if calls and calls.thinks else thought_notation(tokenizer)
    always = None if calls is None or calls.needs_tools else calls
    own = _format(tokenizer, calls, thoughts)
    return Formats(
        own=own,
        forced=_held(tokenizer, calls if calls and calls.frame else HERMES, thoughts),
        toolless=_format(tokenizer, always, thoughts),
        toolless_forced=_held(tokenizer, always if always and always.frame else None, thoughts),
        plain=CallFormat(
            None,
            TextStateMachine({"normal": []}),
            "normal",
            own.silent_tokens,
            own.silent_tokens,
            own.marks,
        ),
        thoughts=thoughts,
        knows_calls=calls is not None,
        knows_thoughts=thoughts is not None or (calls is not None and calls.thinks),
    )


def call_notation(tokenizer: TokenizerWrapper) -> CallNotation | None:
    """Return how the model writes calls; None: nobody knows."""
    settings = tokenizer.init_kwargs
    if name := settings.get("tool_parser"):
        return CALLS[name]
    by_mlx = str(settings.get("tool_parser_type"))
    return _by_signs(CALLS, tokenizer, FROM_MLX.get(by_mlx, by_mlx))


def thought_notation(tokenizer: TokenizerWrapper) -> ThoughtNotation | None:
    """Return how the model marks thoughts; None: it has none, or nobody knows."""
    if name := tokenizer.init_kwargs.get("reasoning_parser"):
        return THOUGHTS[name]
    return _by_signs(THOUGHTS, tokenizer)


def chat_templates(tokenizer: TokenizerWrapper) -> str:
    """Return the model's chat template, or all of them where it has several, as one text."""
    found = tokenizer.chat_template
    return "\n".join(found.values()) if isinstance(found, dict) else str(found or "")


def _by_signs(
    notations: Mapping[str, _Notation], tokenizer: TokenizerWrapper, name: str = ""
) -> _Notation | None:
    """Return the notation that the templates show, else the one of that *name*, else the vocabulary's."""
    templates = chat_templates(tokenizer)
    shown = _first(notations, lambda sign: sign in templates)
    if shown is None:
        shown = notations.get(name)
    if shown is None:
        shown = _first(
            notations, lambda sign: sign in templates or token_id(tokenizer, sign) is not None
        )
    return shown


def _first(notations: Mapping[str, _Notation], is_there: Callable[[str], bool]) -> _Notation | None:
    """Return the first notation of which all signs of an entry are there."""
    for notation in notations.values():
        if any(all(map(is_there, signs)) for signs in notation.signs):
            return notation
    return None


def _format(
    tokenizer: TokenizerWrapper, calls: CallNotation | None, thoughts: ThoughtNotation | None
) -> CallFormat:
    """Return the format of a model by itself; a mark that stands where it means nothing is no text."""
    edges = _edges(calls, thoughts)
    strays = [
        *(thoughts.starts + thoughts.ends + thoughts.others if thoughts else ()),
        *(calls.starts + calls.others if calls else ()),
        *([calls.end] if calls and calls.end else []),
    ]
    for part in ("normal", "reasoning"):
        edges[part] = dict.fromkeys(strays, part) | edges[part]
    if calls is None or calls.frame or not tokenizer.response_transitions:
        return _made(tokenizer, calls, edges)
    for part, more in tokenizer.response_transitions.items():
        edges.setdefault(part, {}).update(more)
    found = _made(tokenizer, calls, edges)
    return replace(found, initial_state=tokenizer.response_initial_state or "normal")


def _held(
    tokenizer: TokenizerWrapper, calls: CallNotation | None, thoughts: ThoughtNotation | None
) -> CallFormat:
    """Return the format that a grammar holds a model to; what is like a mark in its texts is text."""
    return _made(tokenizer, calls, _edges(calls, thoughts))


def _edges(calls: CallNotation | None, thoughts: ThoughtNotation | None) -> _Edges:
    """Return at which mark each part of an answer leads to which."""
    edges: _Edges = {"normal": {}, "reasoning": {}, "tool": {}, "title": {}, "start": {}}
    answer = "start" if calls and calls.opener else "normal"
    if thoughts:
        begun = "title" if thoughts.title_end else "reasoning"
        edges["normal"] |= dict.fromkeys(thoughts.starts, begun)
        edges["reasoning"] |= dict.fromkeys(thoughts.ends, answer)
        if thoughts.title_end:
            edges["title"] |= dict.fromkeys(thoughts.ends, answer)
            edges["title"][thoughts.title_end] = "reasoning"
    if calls:
        for part in ("normal", "reasoning"):
            edges[part] |= dict.fromkeys(calls.starts, "tool")
        for part in ("normal", "reasoning", "tool"):
            edges[part] |= dict.fromkeys(calls.reopens, "start")
        if calls.end:
            edges["tool"][calls.end] = "normal"
    return edges


def _made(tokenizer: TokenizerWrapper, calls: CallNotation | None, edges: _Edges) -> CallFormat:
    """Return the format that has these *edges*."""
    marks = {mark for part in edges.values() for mark in part}
    special = special_tokens(tokenizer)
    silent = {i for i, text in special.items() if not any(text in mark for mark in marks)}
    found = CallFormat(
        reader=None,
        machine=TextStateMachine({part: list(each.items()) for part, each in edges.items()}),
        initial_state="normal",
        silent_tokens=frozenset(silent),
        textless_tokens=frozenset(silent | {i for i, text in special.items() if text in marks}),
        marks=_pattern(marks - {"\n"} | set(special.values())),
    )
    if calls is None:
        return found
    return replace(
        found,
        reader=calls.reader,
        initial_state="start" if calls.opener else "normal",
        end=calls.end,
        frame=calls.frame,
        opener=calls.opener,
        reopening=calls.reopening,
        keeps_unopened=calls.keeps_unopened,
    )


def _pattern(texts: Collection[str]) -> re.Pattern[str]:
    """Return what finds any of *texts*, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
