"""JSON that fits a schema, made without a model; of JSON Schema, what answers are asked with."""

from typing import Any

TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}
LOCAL = "#/"


def parts_of(schema: dict[str, Any]) -> list[Any]:
    """Return the schemas that a schema is made of."""
    named = [schema.get(name, {}) for name in ("properties", "$defs")]
    within = [part for each in named if isinstance(each, dict) for part in each.values()]
    return [*within, *schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]


def is_schema(schema: object) -> bool:
    """Whether it is a schema that refers to nothing outside."""
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return (
        set(kinds) <= TYPES
        and str(schema.get("$ref", LOCAL)).startswith(LOCAL)
        and all(is_schema(part) for part in parts_of(schema))
    )


def instance(schema: Any, root: Any = None) -> Any:
    """Return the smallest value that fits *schema*; *root* is where its references begin."""
    root = root or schema
    if "$ref" in schema:
        return instance(referred(schema["$ref"], root), root)
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties", {})
            return {name: instance(part, root) for name, part in properties.items()}
        case "array":
            return [instance(schema["items"], root)] * schema.get("minItems", 0)
        case "string":
            return "a" * schema.get("minLength", 1)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
    return None


def referred(reference: str, root: Any) -> Any:
    """Return the part of *root* that a reference points to."""
    for name in reference.removeprefix(LOCAL).split("/"):
        root = root[name]
    return root
