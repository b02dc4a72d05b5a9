"""`service.engine.constrain.keywords`: what schemas are made of the keywords that can be followed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from service.engine.constrain.keywords import simplify, unfollowed
from service.engine.prepare import Preparer
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Chat, Constraint, Tool, Turn
from tests.engine.conftest import job

ANY: Any = {}
LIST: Any = {"type": "array"}
NAMED: Any = {"type": "object"}


def tagged(*tags: str, **others: Any) -> list[Any]:
    """Return objects that their property `kind` tells apart."""
    return [NAMED | {"properties": {"kind": {"const": tag}}} | others for tag in tags]


REQUIRED = {"required": ["kind"]}
SIMPLIFIED: list[tuple[Any, Any]] = [
    ({"format": "uuid4"}, ANY),
    ({"type": "integer", "format": "int64"}, {"type": "integer"}),
    ({"format": "date"}, {"format": "date"}),
    ({"$schema": "http://json-schema.org/schema#"}, ANY),
    (LIST | {"maxItems": 2.0}, LIST | {"maxItems": 2}),
    (LIST | {"uniqueItems": False}, LIST),
    (LIST | {"uniqueItems": True, "maxItems": 1}, LIST | {"maxItems": 1}),
    (LIST | {"contains": {"type": "null"}, "minContains": 0}, LIST),
    (LIST | {"minContains": 2}, LIST),
    (LIST | {"unevaluatedItems": False}, LIST | {"items": False}),
    ({"type": "string", "uniqueItems": True, "propertyNames": {"pattern": "a"}}, {"type": "string"}),
    (NAMED | {"dependentRequired": {"a": []}, "dependentSchemas": {"a": True}}, NAMED),
    (NAMED | {"required": ["a"], "dependentRequired": {"a": ["b"]}}, NAMED | {"required": ["a", "b"]}),
    ({"if": {"type": "null"}}, ANY),
    ({"then": False, "else": False}, ANY),
    ({"if": {"type": "null"}, "then": {"title": "None"}}, ANY),
    ({"not": False}, ANY),
    (NAMED | {"propertyNames": {"type": "string", "title": "Key"}}, NAMED),
    (
        NAMED | {"propertyNames": {"enum": ["a.b", "c"]}, "additionalProperties": {"type": "null"}},
        NAMED | {"patternProperties": {r"^(?:a\.b|c)$": {"type": "null"}}, "additionalProperties": False},
    ),
    (
        NAMED | {"propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"pattern": "^x"}}},
        NAMED
        | {"patternProperties": {"^x": True}, "additionalProperties": False}
        | {"$defs": {"n": {"pattern": "^x"}}},
    ),
    (NAMED | {"unevaluatedProperties": True}, NAMED),
    (NAMED | {"unevaluatedProperties": False}, NAMED | {"additionalProperties": False}),
    ({"oneOf": [{"type": "null"}, {"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
    ({"oneOf": tagged("a", "b")}, {"anyOf": tagged("a", "b", **REQUIRED)}),
    (
        {"oneOf": [{"$ref": "#/$defs/a"}, *tagged("b")], "$defs": {"a": tagged("a")[0]}},
        {"anyOf": [{"$ref": "#/$defs/a"}, *tagged("b", **REQUIRED)]}
        | {"$defs": {"a": tagged("a", **REQUIRED)[0]}},
    ),
]  # fmt: skip
LEFT: list[Any] = [
    LIST | {"uniqueItems": True},
    {"unevaluatedProperties": False, "allOf": [ANY]},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": tagged("a", "a")},
    {"oneOf": [{"$ref": "#a"}, {"$ref": "other"}]},
    {
        "oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}],
        "$defs": {"a": {"$id": "x", "type": "string"}},
    },
    {"oneOf": [{"type": [{}]}, {"type": "null"}]},
    NAMED | {"propertyNames": {"enum": ["a"]}, "properties": {"b": ANY}},
    NAMED | {"propertyNames": {"minLength": 2}},
    NAMED | {"dependentRequired": {"a": ["b"]}},
    {"enum": [{"format": "x", "uniqueItems": False}]},
    {"format": "date", "required": 1, "properties": [], "oneOf": 3, "propertyNames": 5},
]


@pytest.mark.parametrize(
    ("given", "simplified"), SIMPLIFIED, ids=[json.dumps(s[0])[:60] for s in SIMPLIFIED]
)
def test_what_demands_nothing_or_has_another_form(given: Any, simplified: Any) -> None:
    """A keyword in its harmless form is left out, another is said in keywords that can be followed."""
    assert simplify(copy.deepcopy(given)) == simplified


@pytest.mark.parametrize("given", LEFT, ids=[json.dumps(each)[:60] for each in LEFT])
def test_what_can_not_be_said_otherwise_is_left(given: Any) -> None:
    """Nothing is made of a keyword that means more than can be said, nor of what is no keyword."""
    assert simplify(copy.deepcopy(given)) == given


def test_place_of_a_keyword_is_a_pointer() -> None:
    """Names in it are escaped."""
    schema = {"properties": {"a/b~": {"items": {"not": {"type": "null"}}}}}

    assert unfollowed(schema) == "not at #/properties/a~1b~0/items can't be followed"
    assert unfollowed({"type": "string"}) is None


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            {"properties": {"a": LIST | {"uniqueItems": True}}},
            "uniqueItems at #/properties/a can't be",
        ),
        (
            {"properties": {"a": {"oneOf": [{}, {}]}}},
            "oneOf at #/properties/a can't be followed, since",
        ),
        ({"properties": {"a": {"type": "banana"}}}, "banana"),
    ],
    ids=["keyword", "oneOf", "type"],
)
def test_refusals_speak_of_the_schema(schema: Any, told: str, preparer: Preparer) -> None:
    """The keyword is named with its place, and for a tool whose arguments they are."""
    constraint = Constraint("json_schema", json.dumps(schema), "response_format")
    strict = Chat((Turn("user", "?"),), (Tool("look", parameters=json.dumps(schema), strict=True),))

    for wanted in (job(constraint=constraint), job(prompt=strict, must_call=("look",))):
        with pytest.raises(RefusedPrompt) as refused:
            preparer.prepare(wanted)
        assert told in refused.value.message
        assert "coerce" not in refused.value.message
        assert "Unimplemented" not in refused.value.message
    assert "the arguments of look" in refused.value.message


def test_tool_that_is_not_strict_leaves_to_the_model_what_can_not_be_followed(
    preparer: Preparer,
) -> None:
    """Its call can be demanded all the same."""
    schema = {"properties": {"a": LIST | {"uniqueItems": True}, "b": {"oneOf": [{}, {}]}}}
    chat = Chat((Turn("user", "?"),), (Tool("look", parameters=json.dumps(schema)),))

    assert preparer.prepare(job(prompt=chat, must_call=("look",))).token_mask
