"""
The keywords that hold a value to something, each with its own rule that says what passes now.

A rule takes two schemas and looks at its own keywords only. What holds with nothing written is
the same as writing it: `minLength` 0, every type, an open end.
"""

import enum
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# They say what things mean and hold nothing to anything; the second line is of OpenAPI's objects.
WORDING = frozenset(
    (
        *("title", "description", "$comment", "examples", "deprecated", "readOnly", "writeOnly"),
        *("example", "summary", "tags", "operationId", "externalDocs", "links"),
    )
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
BRANCHES = ("allOf", "anyOf", "oneOf")
PARTS = ("items", "additionalProperties", "propertyNames")
WALKED = ("$ref", "properties", "prefixItems", "contains", "not", "if", "then", "else")
PRESENCE = ("pattern", "format", "multipleOf", "uniqueItems")
OPAQUE = ("$schema", "default")
MAX_SHOWN_CHARACTERS = 100


class Effect(enum.Enum):
    """What a change does to the values that pass."""

    NARROWED = "less passes"
    WIDENED = "more passes"
    ADDED = "something is there that was not, and nobody has to know it"
    REMOVED = "something is not there any more"
    UNCLEAR = "nobody can tell"
    WORDING = "the same passes"


class Finding(NamedTuple):
    """
    What a rule found.

    Attributes:
        path: place below the schema.
        what: the change in words.
        effect: what it does.
    """

    path: tuple[str, ...]
    what: str
    effect: Effect


Rule = Callable[[Any, Any], Iterator[Finding]]


class Bound(NamedTuple):
    """
    A limit of numbers, lengths or counts.

    Attributes:
        keyword: keyword of the limit.
        exclusive: keyword of the limit that does not pass itself; empty where there is none.
        default: limit where none is written.
        inward: 1 for a lower limit, -1 for an upper one.
    """

    keyword: str
    exclusive: str
    default: float
    inward: int

    def of(self, schema: Any) -> tuple[float, int]:
        """Return the tightest limit, and how far inside of it a value must be: not, or somewhat."""
        limits = (
            (schema.get(self.keyword, self.default), 0),
            (schema.get(self.exclusive, -self.inward * math.inf), self.inward),
        )
        return max(limits) if self.inward > 0 else min(limits)


BOUNDS = (
    Bound("minimum", "exclusiveMinimum", -math.inf, 1),
    Bound("maximum", "exclusiveMaximum", math.inf, -1),
    Bound("minLength", "", 0, 1),
    Bound("maxLength", "", math.inf, -1),
    Bound("minItems", "", 0, 1),
    Bound("maxItems", "", math.inf, -1),
    Bound("minProperties", "", 0, 1),
    Bound("maxProperties", "", math.inf, -1),
)


def _between(old: Any, new: Any, *keywords: str) -> str:
    """Say what the keywords held before, and what they hold now."""
    sides = []
    for schema in (old, new):
        said = ", ".join(f"{key} {json.dumps(schema[key])}" for key in keywords if key in schema)
        is_long = len(said) > MAX_SHOWN_CHARACTERS
        sides.append(said[:MAX_SHOWN_CHARACTERS] + "..." if is_long else said or "nothing")
    return " -> ".join(sides)


def _types(old: Any, new: Any) -> Iterator[Finding]:
    before, after = _types_of(old), _types_of(new)
    what = _between(old, new, "type")
    if before - after:
        yield Finding((), what, Effect.NARROWED)
    if after - before:
        yield Finding((), what, Effect.WIDENED)


def _types_of(schema: Any) -> set[str]:
    stated = schema.get("type", TYPES)
    types = {stated} if isinstance(stated, str) else {*stated}
    return types | {"integer"} if "number" in types else types


def _values(old: Any, new: Any) -> Iterator[Finding]:
    before, after = _values_of(old), _values_of(new)
    what = _between(old, new, "const", "enum")
    if after is not None and (before is None or before - after):
        yield Finding((), what, Effect.NARROWED)
    if before is not None and (after is None or after - before):
        yield Finding((), what, Effect.WIDENED)


def _values_of(schema: Any) -> set[str] | None:
    """Return the values that may pass, as JSON; None for all."""
    lists = [[schema["const"]]] if "const" in schema else []
    lists += [schema["enum"]] if "enum" in schema else []
    sets = [{json.dumps(value, sort_keys=True) for value in values} for values in lists]
    return set.intersection(*sets) if sets else None


def _required(old: Any, new: Any) -> Iterator[Finding]:
    before, after = ({*schema.get("required", ())} for schema in (old, new))
    for name in sorted(after - before):
        yield Finding(("properties", name), "now required", Effect.NARROWED)
    for name in sorted(before - after):
        yield Finding(("properties", name), "no longer required", Effect.WIDENED)


def _bounds(old: Any, new: Any) -> Iterator[Finding]:
    for bound in BOUNDS:
        before, after = bound.of(old), bound.of(new)
        if before != after:
            is_inward = (after > before) == (bound.inward > 0)
            effect = Effect.NARROWED if is_inward else Effect.WIDENED
            yield Finding((), _between(old, new, bound.keyword, bound.exclusive), effect)


def _presence(old: Any, new: Any) -> Iterator[Finding]:
    """Compare what may be there or not, but can't be measured."""
    for keyword in PRESENCE:
        before, after = old.get(keyword) or None, new.get(keyword) or None
        if before == after:
            continue
        effect = Effect.UNCLEAR
        if before is None:
            effect = Effect.NARROWED
        elif after is None:
            effect = Effect.WIDENED
        yield Finding((), _between(old, new, keyword), effect)


RULES: tuple[Rule, ...] = (_types, _values, _required, _bounds, _presence)
KNOWN = frozenset(
    {"$defs", "type", "const", "enum", "required"}
    | {keyword for bound in BOUNDS for keyword in (bound.keyword, bound.exclusive)}
    | {*PRESENCE, *OPAQUE, *PARTS, *BRANCHES, *WALKED, *WORDING}
)
