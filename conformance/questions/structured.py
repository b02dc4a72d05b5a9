"""What SCHEMA asks. No value can go on for ever, so that any model comes to an end of it."""

from conformance.answers import Question
from conformance.questions.chat import HOW, N_WHOLE, Fields, chat, user


def closed(properties: Fields, **more: object) -> Fields:
    """Return the schema of an object that has just these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


COLOUR = closed(
    {"colour": {"type": "string", "enum": ["red", "green"]}, "is_warm": {"type": "boolean"}}
)
BOUNDS = {
    "enum": closed({"value": {"enum": ["one", 2, None]}}),
    "integer": closed({"value": {"type": "integer", "minimum": 17, "maximum": 23}}),
    "length": closed({"value": {"type": "string", "minLength": 2, "maxLength": 4}}),
    "items": closed(
        {"value": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}}
    ),
}
POINT: Fields = {"$ref": "#/$defs/point"}
NESTED = {
    "defs": closed(
        {
            "points": {"type": "array", "items": POINT, "minItems": 1, "maxItems": 2},
            "note": {"anyOf": [{"type": "null"}, POINT]},
        },
        **{"$defs": {"point": closed({"x": {"type": "integer", "enum": [0, 1]}})}},
    ),
    "deep": closed({"a": closed({"b": closed({"c": {"type": "boolean"}})})}),
}


def json_schema(schema: object) -> Fields:
    """Return the field that demands JSON which fits *schema*."""
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def formed(schema: object, fields: Fields | None = None) -> Question:
    """Return a chat whose answer must fit *schema*."""
    more = {"max_tokens": N_WHOLE, **json_schema(schema), **(fields or {})}
    return chat(more, "json_schema")


def unformed(**fields: object) -> Question:
    """Return a chat with a response_format that must be refused."""
    return chat({"response_format": {"type": "json_schema", **fields}}, "json_schema")


SAMPLINGS: dict[str, Fields] = {
    "likeliest": {},
    "seed-1": {"temperature": 1, "seed": 1},
    "seed-2": {"temperature": 1, "seed": 2},
}
FORMED = {how: formed(COLOUR, fields) for how, fields in HOW.items()}
BOUNDED = {name: formed(schema) for name, schema in BOUNDS.items()}
DEEP = {name: formed(schema) for name, schema in NESTED.items()}
# Where one answer is cut, the next may not be.
OBJECTS = {
    name: chat(
        {
            "messages": user("Answer with a very small JSON object."),
            "max_tokens": N_WHOLE,
            "response_format": {"type": "json_object"},
            **sampling,
        },
        "json_schema",
    )
    for name, sampling in SAMPLINGS.items()
}
UNFORMED = {
    "unknown-type": formed({"type": "banana"}),
    "no-object": formed(["string"]),
    "no-name": unformed(json_schema={"schema": COLOUR, "strict": True}),
    "nothing": unformed(),
}
