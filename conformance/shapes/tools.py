"""Tool calls, whole and in deltas."""

from collections.abc import Collection
from typing import Any

from conformance.client import Exchange
from conformance.openai_shapes import chunks, first, is_count
from conformance.shapes.choices import Choice, mapping, mappings, text


def call_problem(call: dict[str, Any], names: Collection[str]) -> str:
    """Look for id, type, the name of a tool that was offered, and arguments as text."""
    function = mapping(call.get("function"))
    return first(
        (not text(call.get("id")), "a call's id is not text"),
        (call.get("type") != "function", 'a call\'s type is not "function"'),
        (function.get("name") not in list(names), f"a call of {function.get('name')!r}"),
        (not isinstance(function.get("arguments"), str), "a call's arguments are not text"),
    )


def calls_problem(choice: Choice, names: Collection[str]) -> str:
    """Look for calls, each with its shape."""
    problems = [problem for call in choice.calls if (problem := call_problem(call, names))]
    return first((not choice.calls, "no tool call"), (bool(problems), "; ".join(problems[:1])))


def call_deltas(answer: Exchange) -> list[dict[str, Any]]:
    """Return all deltas of calls in the first choice, in order."""
    return [
        delta
        for chunk in chunks(answer)
        for choice in mappings(chunk.get("choices"))
        for delta in mappings(mapping(choice.get("delta")).get("tool_calls"))
    ]


def delta_problem(answer: Exchange) -> str:
    """Look for an index in each delta; id, type and name in a call's first, and in no other."""
    deltas = call_deltas(answer)
    if not deltas:
        return "no delta of a tool call"
    if not all(is_count(delta.get("index")) for delta in deltas):
        return "a delta without an index"
    indexes = list(dict.fromkeys(delta["index"] for delta in deltas))
    if indexes != list(range(len(indexes))):
        return f"calls open as {indexes}"
    for index in indexes:
        opening, *others = [delta for delta in deltas if delta["index"] == index]
        if problem := opening_problem(opening) or repeated_problem(opening, others):
            return f"call {index}: {problem}"
    return ""


def opening_problem(delta: dict[str, Any]) -> str:
    """Look for what a call's first delta must tell."""
    name = mapping(delta.get("function")).get("name")
    return first(
        (not text(delta.get("id")), "its first delta has no id"),
        (delta.get("type") != "function", 'its first delta\'s type is not "function"'),
        (not text(name), "its first delta has no name"),
    )


def repeated_problem(opening: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Look for later deltas that would change the id or go on with the name."""
    names = [mapping(delta.get("function")).get("name") for delta in others]
    return first(
        (any(delta.get("id") not in (None, "", opening["id"]) for delta in others), "a second id"),
        (any(name not in (None, "") for name in names), "a second name"),
    )
