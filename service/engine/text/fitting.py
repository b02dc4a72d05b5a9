"""
From the turns of a client to the turns that a chat template takes, so that nothing of them is lost.

What a template drops or refuses is folded in where the model reads it: a system turn into the user's next
one, calls and results into text, several calls into turns of one call. Nothing changes where the template
takes all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile

from msgspec.structs import replace

from service.engine.text.abilities import Abilities
from service.engine.text.notations import BREAK, COUNT, OWN_ID, CallFrame, Term
from service.protocol import ToolCall, Turn


def fit(turns: Sequence[Turn], abilities: Abilities, frame: CallFrame) -> list[Turn]:
    """Return *turns* as a template of these *abilities* takes them; calls that are to be text in *frame*."""
    if abilities.any_order and all(map(_is_plain, turns)):  # most chats, with most templates
        return list(turns)
    found: Iterable[Turn] = _with_thoughts(_with_results_in_order(turns), abilities)
    found = _with_systems(found, abilities)
    if not abilities.empty_answer:
        found = (turn for turn in found if not _is_empty_answer(turn))
    if not abilities.calls:
        found = (_calls_in_words(turn, frame) for turn in found)
    if not abilities.results:
        found = map(_result_in_words, found)
    elif not abilities.user_after_result:
        found = _with_answers_to_results(found, "" if abilities.empty_answer else " ")
    if not abilities.several_calls:
        found = _with_single_calls(list(found))
    if abilities.text_beside_calls == "before":
        found = _with_text_before_calls(found)
    elif abilities.text_beside_calls == "after":
        found = _with_text_after_calls(found)
    if not abilities.neighbours:
        found = _with_neighbours_joined(found, abilities)
    fitted = list(found)
    return fitted if abilities.answer_first else _with_question_first(fitted)


def _is_plain(turn: Turn) -> bool:
    return turn.role != "tool" and not turn.tool_calls and turn.reasoning is None


def joined(*texts: str | None) -> str | None:
    """Return *texts* as paragraphs of one; None where there is none."""
    return "\n\n".join(text for text in texts if text) or None


def _with_results_in_order(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield *turns*, results in the order of the calls that they answer, and each by its tool's name."""
    names: dict[str | None, str] = {}
    order: list[str | None] = []
    for is_result, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        if not is_result:
            order = []
            for turn in group:
                names.update((call.id, call.name) for call in turn.tool_calls)
                order += [call.id for call in turn.tool_calls]
                yield turn
            continue
        places = {call_id: i for i, call_id in enumerate(order)}
        for turn in sorted(group, key=lambda turn: places.get(turn.tool_call_id, len(places))):
            name = names.get(turn.tool_call_id)
            yield turn if name is None else replace(turn, name=name)


def _with_thoughts(turns: Iterable[Turn], abilities: Abilities) -> Iterator[Turn]:
    """Yield *turns*, their thoughts only where the template takes some."""
    for turn in turns:
        is_taken = turn.reasoning is None or abilities.thoughts is not None
        yield turn if is_taken else replace(turn, reasoning=None)


def _with_systems(turns: Iterable[Turn], abilities: Abilities) -> Iterator[Turn]:
    """Yield *turns*; what can't be a system turn is joined to the one before or to the user's next one."""
    if abilities.system and abilities.later_system and abilities.lone_system:
        yield from turns
        return
    given = list(turns)
    can_begin = abilities.system and (
        abilities.lone_system or any(turn.role == "user" for turn in given)
    )
    n_first = sum(1 for _ in takewhile(lambda turn: turn.role == "system", given))
    first, others = given[:n_first], given[n_first:]
    if can_begin and abilities.later_system:
        yield from given
        return
    if can_begin and first:
        yield replace(first[0], content=joined(*(turn.content for turn in first)))
        first = []
    rules: list[Turn] = first
    for turn in others:
        if turn.role == "system" and not (can_begin and abilities.later_system):
            rules.append(turn)
            continue
        if rules and turn.role == "user":
            turn = replace(turn, content=joined(*(rule.content for rule in rules), turn.content))
        elif rules:
            yield _as_users(rules)
        rules = []
        yield turn
    if rules:
        yield _as_users(rules)


def _as_users(rules: Sequence[Turn]) -> Turn:
    """Return system turns as one of the user's."""
    return Turn("user", joined(*(rule.content for rule in rules)))


def _calls_in_words(turn: Turn, frame: CallFrame) -> Turn:
    """Return *turn* with its calls as text, as the model is held to write them."""
    if not turn.tool_calls:
        return turn
    calls = (_written(call, i, frame) for i, call in enumerate(turn.tool_calls))
    between = _as_text(frame.separator or ())
    text = _as_text(frame.opening) + between.join(calls) + _as_text(frame.closing)
    return replace(turn, content="\n".join(filter(None, (turn.content, text))), tool_calls=())


def _written(call: ToolCall, i: int, frame: CallFrame) -> str:
    name = json.dumps(call.name) if frame.is_json else call.name
    pieces = (*frame.before, name, *frame.between, call.arguments, *frame.after)
    return _as_text(pieces, i)


def _as_text(pieces: Sequence[str], i: int = 0) -> str:
    """Return the *pieces* of a frame as they stand around the call numbered *i*."""
    terms: dict[str, str] = {BREAK: "\n", COUNT: str(i), OWN_ID: f"call{i:06}"}
    return "".join(terms.get(piece, "") if isinstance(piece, Term) else piece for piece in pieces)


def _result_in_words(turn: Turn) -> Turn:
    """Return a tool's *turn* as the user's, marked as a result."""
    if turn.role != "tool":
        return turn
    name = f' name="{turn.name}"' if turn.name else ""
    text = f"<tool_response{name}>\n{turn.content or ''}\n</tool_response>"
    return Turn("user", text)


def _is_empty_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and not (turn.content or turn.tool_calls or turn.reasoning)


def _with_answers_to_results(turns: Iterable[Turn], answer: str) -> Iterator[Turn]:
    """Yield *turns*, with an *answer* that says nothing wherever a user's turn follows a tool's."""
    role = ""
    for turn in turns:
        if role == "tool" and turn.role == "user":
            yield Turn("assistant", answer)
        role = turn.role
        yield turn


def _with_single_calls(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Yield *turns*, each of several calls as turns of one call, each with its results behind it."""
    i = 0
    while i < len(turns):
        turn = turns[i]
        i += 1
        if len(turn.tool_calls) < 2:
            yield turn
            continue
        results: dict[str | None, list[Turn]] = {}
        while i < len(turns) and turns[i].role == "tool":
            results.setdefault(turns[i].tool_call_id, []).append(turns[i])
            i += 1
        for k, call in enumerate(turn.tool_calls):
            alone = replace(turn, tool_calls=(call,))
            yield alone if k == 0 else replace(alone, content=None, reasoning=None)
            yield from results.pop(call.id, ())
        for others in results.values():
            yield from others


def _with_text_before_calls(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield *turns*, the text beside calls in a turn of its own before them."""
    for turn in turns:
        if turn.tool_calls and turn.content:
            yield Turn("assistant", turn.content)
            turn = replace(turn, content=None)
        yield turn


def _with_text_after_calls(turns: Iterable[Turn]) -> list[Turn]:
    """Return *turns*, the text beside calls in the answer behind the results; while none is there, first."""
    found: list[Turn] = []
    waiting: list[str] = []
    first_call = 0
    for turn in turns:
        if turn.tool_calls and turn.content:
            if not waiting:
                first_call = len(found)
            waiting.append(turn.content)
            turn = replace(turn, content=None)
        elif waiting and turn.role == "assistant" and not turn.tool_calls:
            turn = replace(turn, content=joined(*waiting, turn.content))
            waiting = []
        elif waiting and turn.role == "user":
            found.append(Turn("assistant", joined(*waiting)))
            waiting = []
        found.append(turn)
    if waiting:
        found.insert(first_call, Turn("assistant", joined(*waiting)))
    return found


def _with_neighbours_joined(turns: Iterable[Turn], abilities: Abilities) -> list[Turn]:
    """Return *turns*, neighbours of one role as one."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and _can_join(groups[-1][-1], turn, abilities):
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return [_as_one(group) for group in groups]


def _can_join(one: Turn, other: Turn, abilities: Abilities) -> bool:
    if one.role != other.role or one.role == "tool" or one.tool_calls:
        return False
    return not other.tool_calls or abilities.text_beside_calls == "together"


def _as_one(turns: Sequence[Turn]) -> Turn:
    """Return what *turns* of one role say, and the calls of the last one."""
    if len(turns) == 1:
        return turns[0]
    return replace(
        turns[-1],
        content=joined(*(turn.content for turn in turns)),
        reasoning=joined(*(turn.reasoning for turn in turns)),
    )


def _with_question_first(turns: list[Turn]) -> list[Turn]:
    """Return *turns*, with an empty question where the first turn that isn't the system's is an answer."""
    i = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if i == len(turns) or turns[i].role != "assistant":
        return turns
    return [*turns[:i], Turn("user", ""), *turns[i:]]
