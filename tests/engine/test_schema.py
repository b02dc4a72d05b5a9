"""`service.engine.constrain.schema`: what narrowing a schema adds to it, and what it leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.engine.constrain.schema import MAX_INTEGER, narrow
from service.engine.prepare import Preparer
from service.protocol import Constraint
from tests.engine.conftest import job

CLOSED = {"additionalProperties": False}
FULL = {"minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
A: Any = {"properties": {"a": {}}}


@pytest.mark.parametrize(
    ("schema", "added"),
    [
        (A, CLOSED),
        (A | {"required": ["a"]}, CLOSED),
        (A | {"additionalProperties": True}, {}),
        (A | {"required": ["b"]}, {}),
        (A | {"minProperties": 2}, {}),
        (A | {"patternProperties": {"b": {}}}, {}),
        (A | {"anyOf": [{"required": ["a"]}, {}]}, {}),
        (A | {"$ref": "#/$defs/x", "$defs": {"x": {}}}, {}),
        ({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {}}}, {}),
        ({"type": "object"}, {}),
        ({"type": "integer"}, FULL),
        ({"type": ["integer", "null"]}, FULL),
        ({"type": ["integer", "number"]}, {}),
        ({"type": "number"}, {}),
        ({"type": "integer", "minimum": 3}, {"maximum": MAX_INTEGER}),
        ({"type": "integer", "minimum": 2**60}, {"maximum": 2**60 + 1}),
        ({"type": "integer", "exclusiveMaximum": -(2**60)}, {"minimum": -(2**60) - 1}),
        ({"type": "integer", "minimum": "three"}, {}),
        ({"type": "integer", "minimum": True}, {}),
        (True, {}),
    ],
    ids=json.dumps,
)
def test_what_is_added(schema: Any, added: dict[str, Any]) -> None:
    """Objects that name all their properties are closed, integers bounded; else nothing is added."""
    given = json.loads(json.dumps(schema))

    assert narrow(given) == (schema | added if added else schema)


@pytest.mark.parametrize(
    "name", ["properties", "enum", "allOf", "default", "items", "$ref", "minimum", "type", "const"]
)
def test_properties_may_be_named_like_keywords(name: str, preparer: Preparer) -> None:
    """A name is no keyword: nothing is made of it, and the schema compiles."""
    inner = {"type": "object", "properties": {"n": {"type": "integer"}}}
    found = narrow({"type": "object", "properties": {name: inner}})
    closed = inner | CLOSED | {"properties": {"n": {"type": "integer"} | FULL}}

    assert found == {"type": "object", "properties": {name: closed}} | CLOSED
    constraint = Constraint("json_schema", json.dumps(found), "response_format")
    assert preparer.prepare(job(constraint=constraint)).token_mask


@pytest.mark.parametrize("keyword", ["const", "default", "examples", "enum"])
def test_data_is_left_alone(keyword: str) -> None:
    """What looks like a schema within a value is a value."""
    schema = {keyword: [{"properties": {"a": {"type": "integer"}}}]}

    assert narrow(json.loads(json.dumps(schema))) == schema


def test_schemas_are_found_wherever_they_stand() -> None:
    """By name, in lists and alone."""
    n: Any = {"type": "integer"}
    found = narrow(
        {"$defs": {"x": dict(n)}, "prefixItems": [dict(n)], "items": dict(n), "anyOf": [dict(n)]}
    )

    assert found["$defs"]["x"] == found["prefixItems"][0] == found["items"] == n | FULL
    assert found["anyOf"] == [n | FULL]


def test_parts_of_one_object_stay_open() -> None:
    """An object made of parts by reference can still have the properties of all of them."""
    part: Any = {"type": "object", "properties": {"a": {}}}
    other: Any = {"type": "object", "properties": {"b": {}}}
    schema = {
        "allOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/o"}],
        "$defs": {"p": part, "o": other},
    }

    assert narrow(json.loads(json.dumps(schema))) == schema
