"""JSON Schemas made as narrow as people mean them; whatever keeps the narrowed one keeps the given one."""

from __future__ import annotations

from typing import Any

from service.engine.constrain.keywords import schemas

MAX_INTEGER = (
    2**53 - 1
)  # protocol: the largest that every reader of JSON takes exactly (RFC 8259, section 6)
# Keywords by which several schemas describe one object, each some of its properties.
_COMPOSING = ("if", "dependentSchemas", "patternProperties")
_COMPOSING_BESIDE_PROPERTIES = ("allOf", "anyOf", "oneOf", "$ref")


def narrow(schema: Any) -> Any:
    """
    Narrow *schema*, in place, and return it.

    Integers get bounds, since a model may write the digits of an unbounded one for ever. An object that names
    its properties gets no others, unless its schema says so, or anything in the whole schema composes objects
    of parts.
    """
    found = [each for _, each in schemas(schema)]
    may_close = not any(map(_composes, found))
    for each in found:
        if may_close and _names_all(each):
            each.setdefault("additionalProperties", False)
        _bound(each)
    return schema


def _composes(schema: dict[str, Any]) -> bool:
    """Whether *schema* and a part of it may describe the same object."""
    parts = schema.get("allOf")
    return (
        (isinstance(parts, list) and len(parts) > 1)
        or any(key in schema for key in _COMPOSING)
        or ("properties" in schema and any(key in schema for key in _COMPOSING_BESIDE_PROPERTIES))
    )


def _names_all(schema: dict[str, Any]) -> bool:
    """Whether an object of only the properties that *schema* names can keep it."""
    named, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(named, dict)
        and isinstance(required, list)
        and all(name in named for name in required)
        and "minProperties" not in schema
    )


def _bound(schema: dict[str, Any]) -> None:
    """Give *schema*, if it is of an integer, the bounds that it lacks."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "integer" not in kinds or "number" in kinds:
        return
    lower = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    upper = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    if not all(type(each) in {int, float} for each in lower + upper):
        return  # llguidance refuses such a bound and says why
    if not lower:
        schema["minimum"] = min([-MAX_INTEGER, *(each - 1 for each in upper)])
    if not upper:
        schema["maximum"] = max([MAX_INTEGER, *(each + 1 for each in lower)])
