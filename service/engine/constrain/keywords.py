"""
JSON Schemas said in the keywords that llguidance 1.9 follows, where that can be done.

A keyword that demands nothing where it stands is left out, some others have another form that means the
same. Whatever keeps the schema that comes of it keeps the given one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Schema = dict[str, Any]

MAX_STEPS = 8  # references in a row that are followed; taste

# Those that llguidance knows. Any other word is an annotation (JSON Schema 2020-12, section 7).
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
UNFOLLOWED = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "unevaluatedItems", "unevaluatedProperties", "propertyNames", "dependentRequired",
    "dependentSchemas", "dependencies", "$dynamicRef", "$dynamicAnchor",
)  # fmt: skip
_WHY = {
    "oneOf": ", since its parts don't exclude each other by their types, or by the text of a property that"
    " all of them have"
}
# Keywords by what they hold (JSON Schema 2020-12, section 10): schemas by name, a list of them, or one.
_BY_NAME = (
    "properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions",
)  # fmt: skip
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_ALONE = (
    "items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then",
    "else", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    "minContains", "maxContains",
)  # fmt: skip
_OF_TYPE = {
    "array": ("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"),
    "object": (
        "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    ),
}  # fmt: skip
_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    }
)
_COMPOSING = (
    "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if", "then", "else", "not", "dependentSchemas",
)  # fmt: skip


def schemas(root: Any) -> Iterator[tuple[str, Schema]]:
    """Yield the schema *root* and every schema in it, each with its place as a JSON Pointer."""
    unvisited = [("#", root)]
    while unvisited:
        place, each = unvisited.pop()
        if not isinstance(each, dict):
            continue
        yield place, each
        for key in _BY_NAME:
            if isinstance(named := each.get(key), dict):
                unvisited += [(f"{place}/{key}/{_escaped(n)}", inner) for n, inner in named.items()]
        for key in _LISTED:
            if isinstance(listed := each.get(key), list):
                unvisited += [(f"{place}/{key}/{i}", inner) for i, inner in enumerate(listed)]
        unvisited += [(f"{place}/{key}", each[key]) for key in _ALONE if key in each]


def simplify(root: Any) -> Any:
    """Say the schema *root*, in place, in keywords that can be followed, as far as that goes; return it."""
    found = [each for _, each in schemas(root)]
    known = None if any("$id" in each for each in found if each is not root) else root
    for each in found:
        _drop_annotations(each)
        _simplify_arrays(each)
        _simplify_dependencies(each)
        _simplify_conditions(each)
        _simplify_names(each, known)
        _simplify_rests(each)
        _simplify_alternatives(each, known)
    return root


def unfollowed(root: Any) -> str | None:
    """Return which keyword of the simplified schema *root* can't be followed, in words."""
    for place, each in schemas(root):
        for keyword in (*UNFOLLOWED, "oneOf"):
            if keyword in each:
                return f"{keyword} at {place} can't be followed{_WHY.get(keyword, '')}"
    return None


def _drop_annotations(schema: Schema) -> None:
    """Leave out what says nothing of the value: formats that are words, types' keywords on other types."""
    if str(schema.get("format")) not in FORMATS:
        schema.pop("format", None)
    if "json-schema.org/draft" not in str(schema.get("$schema")):
        schema.pop("$schema", None)
    for kind, keywords in _OF_TYPE.items():
        if "type" in schema and kind not in _types(schema):
            _drop(schema, keywords)
    for keyword in _COUNTS:
        count = schema.get(keyword)
        if isinstance(count, float) and count.is_integer():
            schema[keyword] = int(count)


def _simplify_arrays(schema: Schema) -> None:
    most = schema.get("maxItems")
    if schema.get("uniqueItems") is False or (type(most) is int and most < 2):
        schema.pop("uniqueItems", None)
    is_vain = schema.get("minContains") == 0 and "maxContains" not in schema
    if "contains" not in schema or is_vain:
        _drop(schema, ("contains", "minContains", "maxContains"))


def _simplify_dependencies(schema: Schema) -> None:
    """Leave out dependencies that demand nothing; what depends on a required property is required."""
    required = schema.get("required")
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        found = schema.get(keyword)
        if not isinstance(found, dict):
            continue
        for name, demanded in list(found.items()):
            if isinstance(demanded, list) and isinstance(required, list) and name in required:
                required += [each for each in demanded if each not in required]
                del found[name]
            elif demanded == [] or _demands_nothing(demanded):
                del found[name]
        if not found:
            del schema[keyword]


def _simplify_conditions(schema: Schema) -> None:
    for keyword in ("then", "else"):
        if "if" not in schema or _demands_nothing(schema.get(keyword, True)):
            schema.pop(keyword, None)
    if "then" not in schema and "else" not in schema:
        schema.pop("if", None)
    if schema.get("not") is False:
        del schema["not"]


def _simplify_names(schema: Schema, root: Any) -> None:
    """Turn what the names of properties must be into the properties, or into a pattern of them."""
    names = _resolved(schema.get("propertyNames"), root)
    if names is True:
        names = {}
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        return
    demanded = {key: names[key] for key in names.keys() - _ANNOTATIONS - {"type", "$defs"}}
    if "const" in demanded:
        demanded["enum"] = [demanded.pop("const")]
    if not demanded:
        del schema["propertyNames"]
    elif "properties" not in schema and "patternProperties" not in schema:
        pattern = _pattern(demanded)
        if pattern is not None:
            schema["patternProperties"] = {pattern: schema.get("additionalProperties", True)}
            schema["additionalProperties"] = False
            del schema["propertyNames"]


def _pattern(names: Schema) -> str | None:
    """Return the expression for texts that are one of some, or have a pattern."""
    match names:
        case {"enum": [*texts], **others} if not others and all(isinstance(x, str) for x in texts):
            return f"^(?:{'|'.join(map(re.escape, texts))})$"
        case {"pattern": str(pattern), **others} if not others:
            return pattern
    return None


def _simplify_rests(schema: Schema) -> None:
    """Turn what holds for the unevaluated into what holds for all others, where that is the same."""
    is_composed = any(key in schema for key in _COMPOSING)
    for keyword, other in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        if keyword not in schema:
            continue
        demanded = schema[keyword]
        is_evaluated = isinstance(schema.get(other), bool | dict)
        if _demands_nothing(demanded) or is_evaluated:
            del schema[keyword]
        elif not is_composed and other not in schema and "contains" not in schema:
            schema[other] = schema.pop(keyword)


def _simplify_alternatives(schema: Schema, root: Any) -> None:
    """Turn `oneOf` into `anyOf` where its parts exclude each other; a tag that they have becomes required."""
    listed = schema.get("oneOf")
    if not isinstance(listed, list) or "anyOf" in schema:
        return
    parts = [_resolved(part, root) for part in listed]
    if not all(isinstance(part, dict) for part in parts):
        return
    if not _are_apart(map(_types, parts)):
        tag = next((name for name in _properties(parts[0]) if _is_tag(name, parts)), None)
        if tag is None:
            return
        for part in parts:
            if tag not in part.setdefault("required", []):
                part["required"].append(tag)
    schema["anyOf"] = schema.pop("oneOf")


def _is_tag(name: str, parts: Sequence[Schema]) -> bool:
    """Tell whether the property *name* is a text of its own in each of the objects that *parts* are."""
    return all(
        _types(part) == {"object"} and isinstance(part.get("required", []), list) for part in parts
    ) and _are_apart(_constants(_properties(part).get(name)) for part in parts)


def _are_apart(sets: Iterable[set[str]]) -> bool:
    """Tell whether none of *sets* is empty and no two have something in common."""
    seen: set[str] = set()
    for each in sets:
        if not each or each & seen:
            return False
        seen |= each
    return True


def _constants(schema: Any) -> set[str]:
    """Return the texts that a value may be; none if it may be anything else."""
    if not isinstance(schema, dict):
        return set()
    found = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        return set()
    return set(found)


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _types(schema: Schema) -> set[str]:
    """Return the types that a value may have; none: it may have any."""
    found = schema.get("type", [])
    types = {
        each for each in (found if isinstance(found, list) else [found]) if isinstance(each, str)
    }
    return types | {"integer"} if "number" in types else types


def _resolved(schema: Any, root: Any) -> Any:
    """Return what the schema refers to, if it does nothing else, within the schema *root*."""
    for _ in range(MAX_STEPS):
        if not (isinstance(schema, dict) and schema.keys() - _ANNOTATIONS == {"$ref"}):
            return schema
        reference, schema = str(schema["$ref"]), root
        if not reference.startswith("#/"):
            return None
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            schema = schema.get(key) if isinstance(schema, dict) else None
    return None


def _demands_nothing(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and not schema.keys() - _ANNOTATIONS)


def _drop(schema: Schema, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        schema.pop(keyword, None)


def _escaped(name: str) -> str:
    """Return *name* as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")
