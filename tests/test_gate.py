"""
The gate tells who breaks by a change of the contracts, and demands a version and a note for it.

Its rules are proved twice: by a table with both directions of each, and by the cases of the real
contracts. Where a changed schema lets a case pass that failed, or the other way round, the gate
must have said so.
"""

import copy
import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conformance.gate import releases
from conformance.gate.__main__ import least_version, main, notes
from conformance.gate.comparison import Change, compare
from conformance.gate.keywords import Effect
from conformance.gate.releases import SUFFIX, Contracts, Unreadable, Version
from tests.test_contract_cases import CASES, NAMES, fast_validator_of, mutants, refs, schema

ROOT = Path(__file__).parent.parent
FIRST = Version(0, 1, 0)
LIMIT_S = 1.0
N_TRIED = 12

CONSUMERS, PRODUCERS = {"consumers"}, {"producers"}
BOTH = CONSUMERS | PRODUCERS

A_MORE = {"if": {"required": ["a"]}, "then": {"required": ["b"]}}
A_LESS = {"if": {"required": ["a"]}, "then": {"required": ["b", "c"]}}
NUMBER, TEXT, TEXT_OR_NULL = {"type": "number"}, {"type": "string"}, {"type": ["string", "null"]}

# What passes more, and what passes less by one keyword.
RULES: dict[str, tuple[Any, Any]] = {
    "type": ({"type": ["string", "null"]}, {"type": "string"}),
    "type: number holds integers": ({"type": "number"}, {"type": "integer"}),
    "type added": ({"minLength": 1}, {"minLength": 1, "type": "string"}),
    "const": ({"minLength": 1}, {"minLength": 1, "const": "a"}),
    "const of an enum": ({"enum": ["a", "b"]}, {"const": "a"}),
    "enum": ({"enum": ["a", "b", None]}, {"enum": ["b", "a"]}),
    "enum added": ({"minLength": 1}, {"minLength": 1, "enum": ["a"]}),
    "enum: 1 is not true": ({"enum": [1, True]}, {"enum": [1]}),
    "required": ({"required": ["a"]}, {"required": ["a", "b"]}),
    "minimum": ({"minimum": 0}, {"minimum": 1}),
    "minimum added": ({"type": "integer"}, {"type": "integer", "minimum": -5}),
    "minimum becomes exclusive": ({"minimum": 0}, {"exclusiveMinimum": 0}),
    "exclusiveMinimum": ({"exclusiveMinimum": 0}, {"exclusiveMinimum": 0.5}),
    "maximum": ({"maximum": 2}, {"maximum": 1}),
    "maximum becomes exclusive": ({"maximum": 2}, {"exclusiveMaximum": 2}),
    "exclusiveMaximum": ({"exclusiveMaximum": 2}, {"exclusiveMaximum": 1}),
    "minLength": ({"minLength": 0}, {"minLength": 1}),
    "minLength added": (TEXT, {"type": "string", "minLength": 1}),
    "maxLength": ({"maxLength": 9}, {"maxLength": 8}),
    "minItems": ({"minItems": 1}, {"minItems": 2}),
    "maxItems": ({"maxItems": 9}, {"maxItems": 8}),
    "minProperties": ({"minProperties": 1}, {"minProperties": 2}),
    "maxProperties": ({"maxProperties": 9}, {"maxProperties": 8}),
    "pattern added": (TEXT, {"type": "string", "pattern": "a"}),
    "format added": (TEXT, {"type": "string", "format": "uri"}),
    "multipleOf added": (NUMBER, {"type": "number", "multipleOf": 2}),
    "uniqueItems": ({"type": "array", "uniqueItems": False}, {"type": "array", "uniqueItems": True}),
    "properties": ({"properties": {"a": TEXT_OR_NULL}}, {"properties": {"a": TEXT}}),
    "properties: forbidden": ({"properties": {"a": True}}, {"properties": {"a": False}}),
    "properties: forbidden, where it had no name": (
        {"properties": {"b": TEXT}},
        {"properties": {"a": False, "b": TEXT}},
    ),
    "properties: held to more than the others": (
        {"additionalProperties": TEXT_OR_NULL},
        {"properties": {"a": TEXT}, "additionalProperties": TEXT_OR_NULL},
    ),
    "properties: no other may be there": (
        {"properties": {"a": TEXT}, "additionalProperties": False},
        {"additionalProperties": False},
    ),
    "properties: named elsewhere": (
        {"properties": {"a": TEXT}, "if": {"required": ["b"]}, "then": {"required": ["a"]}},
        {
            "properties": {"a": TEXT},
            "if": {"required": ["b"]},
            "then": {"required": ["a"], "properties": {"a": {"minLength": 1}}},
        },
    ),
    "additionalProperties": ({"type": "object"}, {"type": "object", "additionalProperties": False}),
    "additionalProperties: a schema": (
        {"additionalProperties": TEXT_OR_NULL},
        {"additionalProperties": TEXT},
    ),
    "propertyNames": ({"propertyNames": {"maxLength": 9}}, {"propertyNames": {"maxLength": 8}}),
    "items": ({"items": TEXT_OR_NULL}, {"items": TEXT}),
    "items added": ({"type": "array"}, {"type": "array", "items": TEXT}),
    "prefixItems": ({"prefixItems": [TEXT_OR_NULL]}, {"prefixItems": [TEXT]}),
    "prefixItems: one more": (
        {"prefixItems": [TEXT], "items": TEXT_OR_NULL},
        {"prefixItems": [TEXT, TEXT], "items": TEXT_OR_NULL},
    ),
    "contains": ({"contains": TEXT_OR_NULL}, {"contains": TEXT}),
    "contains added, though everything passes it": ({"type": "array"}, {"type": "array", "contains": True}),
    "not added": (TEXT, {"type": "string", "not": {"const": "a"}}),
    "then": (A_MORE, A_LESS),
    "else": (
        {"if": {"required": ["a"]}, "else": {"minProperties": 1}},
        {"if": {"required": ["a"]}, "else": {"minProperties": 2}},
    ),
    "if and then added": ({"type": "object"}, {"type": "object", **A_MORE}),
    "allOf: one more": ({"allOf": [A_MORE]}, {"allOf": [TEXT, A_MORE]}),
    "allOf: one of them": ({"allOf": [TEXT, A_MORE]}, {"allOf": [A_LESS, TEXT]}),
    "allOf added": ({"type": "object"}, {"type": "object", "allOf": [A_MORE]}),
    "anyOf: one fewer": ({"anyOf": [TEXT, {"type": "null"}]}, {"anyOf": [TEXT]}),
    "anyOf: one of them": ({"anyOf": [NUMBER, TEXT_OR_NULL]}, {"anyOf": [TEXT, NUMBER]}),
    "anyOf added": ({"type": "object"}, {"type": "object", "anyOf": [A_MORE]}),
    "oneOf added": ({"type": "object"}, {"type": "object", "oneOf": [A_MORE]}),
    "$ref": (
        {"$ref": "#/$defs/a", "$defs": {"a": TEXT_OR_NULL}},
        {"$ref": "#/$defs/a", "$defs": {"a": TEXT}},
    ),
    "$ref to another": (
        {"$ref": "#/$defs/a", "$defs": {"a": TEXT_OR_NULL, "b": TEXT}},
        {"$ref": "#/$defs/b", "$defs": {"a": TEXT_OR_NULL, "b": TEXT}},
    ),
    "$ref to another file": (
        {"properties": {"a": {"$ref": "other.schema.json#/$defs/more"}}},
        {"properties": {"a": {"$ref": "other.schema.json#/$defs/less"}}},
    ),
    "$ref beside other keywords": ({"minLength": 1}, {"minLength": 1, "$ref": "#/$defs/a"}),
    "everything": ({"description": "Anything."}, TEXT),
    "nothing": (TEXT, False),
}  # fmt: skip

# Nobody can tell what passes less or more: it counts for both.
UNCLEAR: dict[str, tuple[Any, Any]] = {
    "pattern": ({"pattern": "a"}, {"pattern": "b"}),
    "format": ({"format": "uri"}, {"format": "uri-reference"}),
    "multipleOf": ({"multipleOf": 2}, {"multipleOf": 4}),
    "default": ({"type": "integer", "default": 1}, {"type": "integer", "default": 2}),
    "inside if": ({**A_MORE}, {**A_MORE, "if": {"required": ["a", "d"]}}),
    "inside not": ({"not": {"minLength": 2}}, {"not": {"minLength": 3}}),
    "a field inside not": (
        {"not": {"required": ["a"]}},
        {"not": {"required": ["a"], "properties": {"b": TEXT}}},
    ),
    "inside oneOf": ({"oneOf": [TEXT, NUMBER]}, {"oneOf": [TEXT_OR_NULL, NUMBER]}),
    "one more in oneOf": ({"oneOf": [TEXT]}, {"oneOf": [TEXT, NUMBER]}),
    "unknown keyword": ({"type": "object", "x": 1}, {"type": "object", "x": 2}),
    "unknown keyword added": ({"type": "array"}, {"type": "array", "unevaluatedItems": False}),
    "behind an unknown keyword": (
        {"patternProperties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": TEXT}},
        {"patternProperties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": TEXT_OR_NULL}},
    ),
    "beside an unknown keyword": (
        {"maxContains": 2, "contains": {"minLength": 2}},
        {"maxContains": 2, "contains": {"minLength": 1}},
    ),
}  # fmt: skip

# The same passes, and the same is said.
EQUAL: dict[str, tuple[Any, Any]] = {
    "order": ({"enum": [1, 2], "required": ["a", "b"]}, {"required": ["b", "a"], "enum": [2, 1]}),
    "type as a list": (TEXT, {"type": ["string"]}),
    "number and integer": (NUMBER, {"type": ["integer", "number"]}),
    "const as an enum": ({"const": "a"}, {"enum": ["a"]}),
    "what holds without it": (TEXT, {"type": "string", "minLength": 0}),
    "branches in another order": ({"allOf": [A_MORE, TEXT]}, {"allOf": [TEXT, A_MORE]}),
    "written in place": ({"items": TEXT}, {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": TEXT}}),
    "another name": (
        {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": TEXT}},
        {"items": {"$ref": "#/$defs/b"}, "$defs": {"b": TEXT}},
    ),
    "then without if": ({"type": "object"}, {"type": "object", "then": False}),
    "definition that is not used": (TEXT, {"type": "string", "$defs": {"a": {"minLength": 1}}}),
}


def body(node: Any) -> dict[str, Any]:
    """Return the content of a request or a response: JSON after a schema."""
    return {"content": {"application/json": {"schema": node}}}


def document(
    request: Any = None, response: Any = None, version: Version = FIRST, **parts: Any
) -> dict[str, Any]:
    """Return an OpenAPI document with one route, which takes and gives bodies after schemas."""
    route = {
        "requestBody": body(request or {}),
        "responses": {"200": {"description": "Yes.", **body(response or {})}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Test", "version": str(version)},
        "paths": {"/x": {"post": {**route, **parts}}},
    }


def contracts(openapi: Any, **schemas: Any) -> Contracts:
    """Return contracts that refer to a schema `other` where they like."""
    other = {"$defs": {"more": TEXT_OR_NULL, "less": TEXT}}
    return Contracts(FIRST, openapi, {"other": other, **schemas})


def pair(side: str, old: Any, new: Any) -> list[Change]:
    """Return the changes where the schema of the route's body on that side changes."""
    reference = {"$ref": f"body{SUFFIX}"}
    openapi = document(reference) if side == "request" else document(response=reference)
    return compare(*(contracts(openapi, body=with_definitions(node)) for node in (old, new)))


def with_definitions(node: Any) -> Any:
    """Return the schema with something to refer to, if it can have it."""
    return {"$defs": {"a": TEXT}, **node} if isinstance(node, dict) else node


def broken(changes: list[Change]) -> set[str]:
    """Return the parties that the changes break."""
    return {party for change in changes for party in change.breaks}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("side", "less_breaks", "more_breaks"),
    [("request", CONSUMERS, PRODUCERS), ("response", PRODUCERS, CONSUMERS)],
)
def test_rule_in_both_directions(
    rule: str, side: str, less_breaks: set[str], more_breaks: set[str]
) -> None:
    """What passes less breaks who sends the body, and what passes more breaks who reads it."""
    wide, narrow = RULES[rule]

    assert less_breaks == broken(pair(side, wide, narrow))
    assert more_breaks == broken(pair(side, narrow, wide))


@pytest.mark.parametrize("case", UNCLEAR)
@pytest.mark.parametrize("side", ["request", "response"])
def test_unclear_change_counts_for_both(case: str, side: str) -> None:
    """Where no rule fits, both parties are broken, and the line says why."""
    old, new = UNCLEAR[case]
    for before, after in ((old, new), (new, old)):
        changes = pair(side, before, after)

        assert {"consumers", "producers"} == broken(changes)
        assert "unclear" in str(changes[0])


@pytest.mark.parametrize("case", EQUAL)
def test_same_in_other_words_is_no_change(case: str) -> None:
    """A schema may be written anew without a word from the gate."""
    old, new = EQUAL[case]

    assert [] == pair("request", old, new)
    assert [] == pair("response", new, old)


@pytest.mark.parametrize("keyword", ["title", "description", "examples", "$comment"])
def test_wording_breaks_nobody(keyword: str) -> None:
    """What only explains may change, wherever it stands."""
    for node in ({}, {"type": "string"}, {"$ref": "#/$defs/a"}):
        old = {"properties": {"a": {**node, keyword: ["old"]}}, "type": "object"}
        new = {"properties": {"a": {**node, keyword: ["new"]}}, "type": "object"}
        changes = pair("request", old, new)

        assert [Effect.WORDING] == [change.effect for change in changes]
        assert set() == broken(changes)


def test_new_field_breaks_nobody() -> None:
    """A field gets a name: an addition on both sides, though its schema holds it to something."""
    old = {"properties": {"a": TEXT}}
    for side in ("request", "response"):
        changes = pair(side, old, {"properties": {"a": TEXT, "b": TEXT}})

        assert [Effect.ADDED] == [change.effect for change in changes]
        assert set() == broken(changes)


def test_new_field_in_a_branch_is_an_addition() -> None:
    """Where a `then` describes what else a body holds, it may describe one field more."""
    old = {"if": {"required": ["a"]}, "then": {"properties": {"b": TEXT}}}
    new = {"if": {"required": ["a"]}, "then": {"properties": {"b": TEXT, "c": TEXT}}}

    assert [Effect.ADDED] == [change.effect for change in pair("request", old, new)]


def test_new_field_that_is_required_breaks_who_sends() -> None:
    """The name is an addition, the demand is none."""
    old, new = {"required": ["a"]}, {"required": ["a", "b"], "properties": {"b": TEXT}}

    assert broken(pair("request", old, new)) == CONSUMERS
    assert broken(pair("response", old, new)) == PRODUCERS


def test_removed_field_breaks_who_relied_on_it() -> None:
    """Readers may find anything there; what clients send there has lost its meaning."""
    old, new = {"properties": {"a": TEXT, "b": TEXT}}, {"properties": {"a": TEXT}}

    assert broken(pair("response", old, new)) == CONSUMERS
    assert broken(pair("request", old, new)) == BOTH


def test_change_is_named_by_its_place() -> None:
    """A line says who breaks, on which side, in which schema, at which pointer, and by what."""
    old = {"properties": {"a/b": {"items": {"required": ["c"]}}}}
    new = {"properties": {"a/b": {"items": {"required": ["d"]}}}}

    assert [
        "response body  /properties/a~1b/items/properties/d: now required",
        "response body  /properties/a~1b/items/properties/c: no longer required",
    ] == [str(change) for change in pair("response", old, new)]


def test_part_that_is_used_twice_is_told_once() -> None:
    """A definition is named where it stands, however many refer to it."""
    places = {"a": {"$ref": "#/$defs/a"}, "b": {"items": {"$ref": "#/$defs/a"}}}
    old = {"properties": places, "$defs": {"a": TEXT}}
    new = {"properties": places, "$defs": {"a": TEXT_OR_NULL}}

    assert ["/$defs/a"] == [change.pointer for change in pair("response", old, new)]


def test_part_that_both_sides_use_counts_for_both() -> None:
    """A definition that requests and responses lead to is a change of each."""
    openapi = document({"$ref": f"body{SUFFIX}#/$defs/a"}, {"$ref": f"body{SUFFIX}"})
    old, new = (
        contracts(openapi, body={"items": {"$ref": "#/$defs/a"}, "$defs": {"a": node}})
        for node in (TEXT, TEXT_OR_NULL)
    )

    assert {("request", ("producers",)), ("response", ("consumers",))} == {
        (change.side, change.breaks) for change in compare(old, new)
    }


def test_schema_without_an_operation_is_what_a_server_writes() -> None:
    """A schema that no route leads to is compared as a response."""
    old, new = (contracts(document(), alone=node) for node in (TEXT, TEXT_OR_NULL))

    assert ["response alone: type \"string\" -> type [\"string\", \"null\"]"] == [
        str(change) for change in compare(old, new)
    ]  # fmt: skip


def test_references_in_a_circle_end() -> None:
    """A tree refers to itself, and two schemas to each other; a change in them is told once."""
    tree = {"properties": {"children": {"items": {"$ref": "#"}}, "next": {"$ref": f"list{SUFFIX}"}}}
    chain = {"allOf": [{"$ref": f"body{SUFFIX}"}], "not": {"$ref": "#"}}
    openapi = document(response={"$ref": f"body{SUFFIX}"})
    old, new = (
        contracts(openapi, body={**tree, "maxProperties": limit}, list=chain) for limit in (2, 3)
    )

    assert [] == compare(old, old)
    assert "response body: maxProperties 2 -> maxProperties 3" in map(str, compare(old, new))
    assert len(compare(old, new)) <= 2  # once as it is, and once as what stands inside the `not`


@pytest.mark.parametrize("reference", ["#/$defs/none", "none.schema.json", "#none", "#"])
def test_reference_to_nothing_is_told(reference: str) -> None:
    """A reference that can't be followed is named, and nothing is compared."""
    node = {"$ref": reference}
    broken_ones = contracts(document(response={"$ref": f"body{SUFFIX}"}), body=node)
    sound = contracts(document(response={"$ref": f"body{SUFFIX}"}), body=TEXT)

    with pytest.raises(Unreadable, match=r"leads (nowhere|in a circle)"):
        compare(sound, broken_ones)


# Routes


HEADER = {"required": True, "schema": {"type": "integer", "minimum": 0}}
QUERY = {"name": "q", "in": "query", "schema": TEXT}
YES = {"description": "Yes.", **body(TEXT)}

# Name: the route before, the route after, whom that breaks, whom the way back breaks.
ROUTES: dict[str, tuple[Any, Any, set[str], set[str]]] = {
    "status": (
        {"responses": {"200": YES}},
        {"responses": {"200": YES, "404": YES}},
        CONSUMERS, PRODUCERS,
    ),
    "status of success": ({"responses": {}}, {"responses": {"200": YES}}, CONSUMERS, BOTH),
    "media type of a response": (
        {"responses": {"200": YES}},
        {"responses": {"200": {"content": {**YES["content"], "text/event-stream": {}}}}},
        CONSUMERS, BOTH,
    ),
    "media type of a request": (
        {"requestBody": body(TEXT)},
        {"requestBody": {"content": {**YES["content"], "text/plain": {}}}},
        PRODUCERS, CONSUMERS,
    ),
    "body": ({"requestBody": {}}, {"requestBody": body({})}, set(), BOTH),
    "body that is required": (
        {"requestBody": {}},
        {"requestBody": {**body({}), "required": True}},
        CONSUMERS, BOTH,
    ),
    "required body": (
        {"requestBody": body({})},
        {"requestBody": {**body({}), "required": True}},
        CONSUMERS, PRODUCERS,
    ),
    "parameter": ({}, {"parameters": [QUERY]}, set(), BOTH),
    "parameter that is required": (
        {}, {"parameters": [{**QUERY, "required": True}]}, CONSUMERS, BOTH,
    ),
    "required parameter": (
        {"parameters": [QUERY]},
        {"parameters": [{**QUERY, "required": True}]},
        CONSUMERS, PRODUCERS,
    ),
    "schema of a parameter": (
        {"parameters": [QUERY]},
        {"parameters": [{**QUERY, "schema": TEXT_OR_NULL}]},
        PRODUCERS, CONSUMERS,
    ),
    "style of a parameter": (
        {"parameters": [QUERY]}, {"parameters": [{**QUERY, "style": "form"}]}, BOTH, BOTH,
    ),
    "header": (
        {"responses": {"200": YES}},
        {"responses": {"200": {**YES, "headers": {"X-A": {"schema": TEXT}}}}},
        set(), CONSUMERS,
    ),
    "header that is required": (
        {"responses": {"200": YES}},
        {"responses": {"200": {**YES, "headers": {"X-A": HEADER}}}},
        PRODUCERS, CONSUMERS,
    ),
    "required header": (
        {"responses": {"200": {"headers": {"X-A": {**HEADER, "required": False}}}}},
        {"responses": {"200": {"headers": {"x-a": HEADER}}}},
        PRODUCERS, CONSUMERS,
    ),
    "schema of a header": (
        {"responses": {"200": {"headers": {"X-A": HEADER}}}},
        {"responses": {"200": {"headers": {"X-A": {**HEADER, "schema": NUMBER}}}}},
        CONSUMERS, PRODUCERS,
    ),
    "security": ({"security": []}, {"security": [{"bearer": []}]}, BOTH, BOTH),
    "servers": ({}, {"servers": [{"url": "/v2"}]}, BOTH, BOTH),
    "wording": ({"summary": "A"}, {"summary": "B", "tags": ["x"]}, set(), set()),
}  # fmt: skip


@pytest.mark.parametrize("case", ROUTES)
def test_route_changes_both_ways(case: str) -> None:
    """Statuses, media types, parameters, headers and security have their own parties."""
    before, after, forth, back = ROUTES[case]
    old, new = contracts(document(**before)), contracts(document(**after))

    assert compare(old, new)
    assert forth == broken(compare(old, new))
    assert back == broken(compare(new, old))


def test_new_route_is_an_addition_and_a_removed_one_breaks_consumers() -> None:
    """Nobody relied on a route that wasn't there; who called the removed one gets nothing."""
    old = contracts(document())
    openapi = document()
    openapi["paths"]["/y"] = {"get": {"responses": {"200": YES}}}
    new = contracts(openapi)

    assert ["interface GET /y  /paths/~1y/get: new route"] == [str(c) for c in compare(old, new)]
    assert set() == broken(compare(old, new))
    assert ["interface GET /y  /paths/~1y/get: route removed"] == [
        str(change) for change in compare(new, old)
    ]
    assert broken(compare(new, old)) == CONSUMERS


def test_new_schema_is_an_addition_and_a_removed_one_breaks_consumers() -> None:
    """A contract is found by its name, by programs of both parties."""
    old, new = contracts(document()), contracts(document(), more=TEXT)

    assert set() == broken(compare(old, new))
    assert broken(compare(new, old)) == CONSUMERS


def test_component_is_named_by_itself() -> None:
    """What many routes share is told once, and not as a change of each."""
    components = {"responses": {"Busy": YES}}
    changed = {"responses": {"Busy": {"description": "Yes.", **body(TEXT_OR_NULL)}}}
    shared = {"$ref": "#/components/responses/Busy"}
    old = document(responses={"429": shared, "503": shared}) | {"components": components}
    new = old | {"components": changed}

    changes = compare(contracts(old), contracts(new))
    assert ["Busy"] == [change.subject for change in changes]


def test_security_scheme_counts_where_it_is_used() -> None:
    """The routes refer to a scheme by name; another scheme under the name is another security."""
    old = document(security=[{"key": []}])
    old["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    new = copy.deepcopy(old)
    new["components"]["securitySchemes"]["key"]["scheme"] = "basic"

    assert ["POST /x"] == [change.subject for change in compare(contracts(old), contracts(new))]


# The real contracts


@cache
def real() -> Contracts:
    """Read the contracts of the working tree."""
    return releases.read_folder(ROOT / "contracts")


def as_request(name: str, node: Any) -> Contracts:
    """Return contracts in which a request leads to that schema, and to those that it refers to."""
    needed: dict[str, Any] = {}
    wanted = [node]
    while wanted:
        for reference in refs(wanted.pop()):
            other, suffix, _ = reference.partition(SUFFIX)
            if suffix and other not in needed:
                needed[other] = real().schemas[other]
                wanted.append(needed[other])
    return Contracts(FIRST, document({"$ref": name + SUFFIX}), {**needed, name: node})


@pytest.mark.parametrize("name", NAMES)
def test_no_change_that_a_case_notices_is_missed(name: str) -> None:
    """
    A constraint changes, a case's verdict with it: the gate has said so, forth and back.

    More may pass where a field has lost its name, and less where it gets one. Of many changes a
    share is tried, from all over the schema.
    """
    cases = [case for case in CASES if case.schema == name]
    old = as_request(name, schema(name))
    every = list(mutants(schema(name)))
    missed = []
    for mutant in every[:: math.ceil(len(every) / N_TRIED)]:
        validator = fast_validator_of(mutant.schema)
        verdicts = {(case.at is None, validator.is_valid(case.body)) for case in cases}
        new = as_request(name, mutant.schema)
        forth = {change.effect for change in compare(old, new)}
        back = {change.effect for change in compare(new, old)}
        if (True, False) in verdicts:
            missed += [mutant.pointer] if not forth & {Effect.NARROWED, Effect.UNCLEAR} else []
            missed += [mutant.pointer] if not back & {Effect.WIDENED, Effect.UNCLEAR} else []
        if (False, True) in verdicts:
            more = {Effect.WIDENED, Effect.UNCLEAR, Effect.REMOVED}
            less = {Effect.NARROWED, Effect.UNCLEAR, Effect.ADDED}
            missed += [mutant.pointer] if not forth & more or not back & less else []

    assert "\n".join(missed) == ""


def test_real_contracts_are_equal_to_themselves() -> None:
    """Nothing has changed where nothing has, and it is found out fast."""
    started = time.process_time()

    assert [] == compare(real(), copy.deepcopy(real()))
    assert time.process_time() - started < LIMIT_S


def test_working_tree_passes_the_gate() -> None:
    """What is here is the last release, or a later version with its note."""
    run = subprocess.run(
        [sys.executable, "-m", "conformance.gate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr


# The demands


@pytest.mark.parametrize(
    ("last", "effect", "expected"),
    [
        ((0, 1, 2), Effect.NARROWED, (0, 2, 0)),
        ((0, 1, 2), Effect.ADDED, (0, 1, 3)),
        ((0, 1, 2), Effect.WORDING, (0, 1, 2)),
        ((1, 2, 3), Effect.UNCLEAR, (2, 0, 0)),
        ((1, 2, 3), Effect.ADDED, (1, 3, 0)),
        ((1, 2, 3), Effect.WORDING, (1, 2, 4)),
    ],
)
def test_version_follows_the_worst_change(
    last: tuple[int, int, int], effect: Effect, expected: tuple[int, int, int]
) -> None:
    """A break, an addition and other words ask for one step of the version each."""
    wording = Change("request", "x", "", "other title", Effect.WORDING)
    change = Change("request", "x", "", "", effect)

    assert Version(*expected) == least_version(Version(*last), [wording, change])
    assert Version(*last) == least_version(Version(*last), [])


def test_versions_are_compared_by_number() -> None:
    """0.10.0 comes after 0.9.0, and nothing but three numbers is a version."""
    assert Version.parse("0.10.0") > Version.parse("0.9.0")
    for text in ("1.0", "1.0.0-rc.1", "01.0.0", "v1.0.0", 1.0):
        with pytest.raises(Unreadable, match="no version"):
            Version.parse(text)


def test_notes_are_those_of_the_version_and_of_unreleased() -> None:
    """Only the subsection counts, and only of what is being released."""
    log = """
# Changelog

## [Unreleased]

### Added

- A

### Contracts

- B

## 0.2.0 - 2030-01-01

### Contracts

- C

## [0.1.0] - 2029-01-01

### Contracts

- D
"""
    assert ["- B", "- C"] == [line for line in notes(log, Version(0, 2, 0)).split("\n") if line]
    assert ["- B", "- D"] == [line for line in notes(log, Version(0, 1, 0)).split("\n") if line]


# The command


@dataclass(frozen=True)
class Copy:
    """A copy of the contracts that a test may change."""

    root: Path

    @property
    def options(self) -> list[str]:
        """Options that point the command here."""
        return [
            *("--contracts", str(self.root / "contracts")),
            *("--released", str(self.root / "released")),
            *("--changelog", str(self.root / "CHANGELOG.md")),
        ]

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that is there."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def set_version(self, version: str) -> None:
        """Give the contracts another version."""
        here = releases.read_folder(self.root / "contracts").version
        self.edit("contracts/openapi.yaml", f"  version: {here}\n", f"  version: {version}\n")


@pytest.fixture
def copied(tmp_path: Path) -> Copy:
    """Copy the contracts as 0.1.0, and release them."""
    shutil.copytree(
        ROOT / "contracts", tmp_path / "contracts", ignore=shutil.ignore_patterns("released")
    )
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    copied = Copy(tmp_path)
    copied.set_version("0.1.0")
    assert main([*copied.options, "--release"]) == 0
    return copied


def test_break_is_let_through_when_it_is_told(
    copied: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a change that breaks clients to its release: refused, versioned, noted, written."""
    copied.edit("contracts/model.schema.json", '"family", "tags", "tier"', '"family", "tier"')
    capsys.readouterr()

    assert main(copied.options) == 1
    told = capsys.readouterr().out
    assert told.startswith(
        "BREAKS consumers  response model  /properties/tags: no longer required\n\n"
    )
    assert f"```\n{told}```\n" in (ROOT / "contracts/README.md").read_text(encoding="utf-8")

    copied.set_version("0.2.0")
    assert main([*copied.options, "--release"]) == 1
    assert not (copied.root / "released/0.2.0.json").exists()

    copied.edit(
        "CHANGELOG.md", "Unreleased\n", "Unreleased\n\n### Contracts\n\n- `model`: no tags.\n"
    )
    assert main([*copied.options, "--release"]) == 0
    assert (copied.root / "released/0.2.0.json").exists()

    capsys.readouterr()
    assert main(copied.options) == 0
    assert "Nothing has changed since 0.2.0." in capsys.readouterr().out


def test_parties_stand_apart(copied: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """One group of lines for each party, then what breaks nobody."""
    copied.edit("contracts/model.schema.json", '"const": "3A"', '"enum": ["3A", "3B"]')
    copied.edit("contracts/chat-request.schema.json", '"maximum": 2\n', '"maximum": 3\n')
    copied.edit("contracts/liveness.schema.json", '"properties": {', '"properties": { "at": {},')
    copied.edit("contracts/error.schema.json", "What went wrong", "What was wrong")
    capsys.readouterr()

    assert main(copied.options) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.split("\n")[:7]] == [
        "BREAKS consumers  response model  /properties/tier",
        "",
        "BREAKS producers  request chat-request  /properties/temperature",
        "",
        "addition          response liveness  /properties/at",
        "",
        "wording           response error",
    ]


def test_release_is_never_overwritten(copied: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """A version is released once, even when nothing but words has changed since."""
    path = copied.root / "released/0.1.0.json"
    before = path.read_bytes()
    copied.edit("contracts/error.schema.json", "What went wrong", "What was wrong")

    assert main([*copied.options, "--release"]) == 1
    assert "a release never changes" in capsys.readouterr().out
    assert before == path.read_bytes()


def test_last_release_is_the_highest_version(copied: Copy) -> None:
    """Releases are ordered by version, not by name; an older version is no successor."""
    for version in ("0.9.0", "0.10.0"):
        copied.set_version(version)
        assert main([*copied.options, "--release"]) == 0
    last = releases.read_last(copied.root / "released")

    assert last is not None
    assert Version(0, 10, 0) == last.version
    copied.set_version("0.9.1")
    assert main(copied.options) == 1


def test_release_holds_everything(copied: Copy) -> None:
    """What was released reads back as what was there."""
    folder = copied.root / "contracts"

    assert releases.read_last(copied.root / "released") == releases.read_folder(folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("contracts/openapi.yaml", "a: [", "openapi.yaml"),
        ("contracts/openapi.yaml", "info: {version: 1}", "no version"),
        ("contracts/model.schema.json", "{", "model.schema.json"),
        ("released/0.1.0.json", "{}", "no release"),
        ("released/latest.json", "{}", "latest"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    copied: Copy, file: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken file is named, and the exit code is that of wrong usage."""
    (copied.root / file).write_text(text)

    assert main(copied.options) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("gate: ")


def test_nothing_to_compare_with_is_no_pass(copied: Copy, tmp_path: Path) -> None:
    """Without a release the gate can't be passed, but for writing the first."""
    assert main([*copied.options, "--released", str(tmp_path / "none")]) == 2


def test_unknown_option_is_wrong_usage() -> None:
    """The options are read as everywhere."""
    with pytest.raises(SystemExit) as caught:
        main(["--no-such-option"])

    assert caught.value.code == 2


def test_bundle_is_json_for_anybody(copied: Copy) -> None:
    """A release is one JSON file: the OpenAPI document, and the schemas by name."""
    found = json.loads((copied.root / "released/0.1.0.json").read_text(encoding="utf-8"))

    assert {"openapi", "schemas"} == found.keys()
    assert NAMES == sorted(found["schemas"])
