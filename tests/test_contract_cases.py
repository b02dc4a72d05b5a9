"""
The contracts hold what their cases say, and nothing in them can be loosened unseen.

Every schema is read with both validators that the service uses: jsonschema, which finds the words
for an error, and jsonschema_rs, which is fast. Neither may fetch anything.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.jsonschema import DRAFT202012

CONTRACTS = Path(__file__).parent.parent / "contracts"
SUFFIX = ".schema.json"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in CONTRACTS.glob(f"*{SUFFIX}"))

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
BOUNDS = (*LOWER, *UPPER)
# What each keyword of the schemas holds; a keyword that is in none of the four fails the tests.
PROSE = ("$schema", "title", "description")
ONE_SCHEMA = ("items", "additionalProperties", "propertyNames", "contains", "not", "then", "else")
MANY_SCHEMAS = ("properties", "$defs")
WHOLE = ("const", "pattern", "uniqueItems", "$ref")

Place = tuple[str | int, ...]


class Case(NamedTuple):
    """
    A body and what is wrong with it.

    Attributes:
        schema: name of the schema that the body is meant for.
        name: what is special about the body.
        body: decoded JSON.
        at: JSON Pointer to the place in the body where validation fails; None for a good body.
        keyword: the failing keyword of the schema.
        missing: for `required`, the first property that is not there.
    """

    schema: str
    name: str
    body: Any
    at: str | None = None
    keyword: str | None = None
    missing: str | None = None


class Mutant(NamedTuple):
    """
    A schema with one constraint changed.

    Attributes:
        pointer: JSON Pointer to what was changed, and how.
        schema: the changed document.
    """

    pointer: str
    schema: Any


def read_cases() -> Iterator[Case]:
    """Cases of all schemas, in the order of the files."""
    for path in sorted((CONTRACTS / "cases").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for case in chain(document["good"], document["bad"]):
            yield Case(schema=path.stem, **case)


CASES = tuple(read_cases())
GOOD = [case for case in CASES if case.at is None]
BAD = [case for case in CASES if case.at is not None]


@cache
def schema(name: str) -> Any:
    """Read a schema, once; callers must not change it."""
    return json.loads((CONTRACTS / f"{name}{SUFFIX}").read_text(encoding="utf-8"))


@cache
def registry() -> Registry[Any]:
    """All schemas by file name; anything else raises, for there is no retrieval."""
    return Registry().with_resources(
        (f"{name}{SUFFIX}", DRAFT202012.create_resource(schema(name))) for name in NAMES
    )


@cache
def fast_registry() -> jsonschema_rs.Registry:
    """Give jsonschema_rs the same schemas."""
    return jsonschema_rs.Registry([(f"{name}{SUFFIX}", schema(name)) for name in NAMES])


@cache
def slow_validator(name: str) -> Draft202012Validator:
    """Build jsonschema's validator of a schema."""
    return Draft202012Validator(schema(name), registry=registry())


def fast_validator_of(document: Any) -> jsonschema_rs.Validator:
    """Build jsonschema_rs's validator of a document that refers to the schemas."""
    return jsonschema_rs.validator_for(document, registry=fast_registry(), offline=True)


@cache
def fast_validator(name: str) -> jsonschema_rs.Validator:
    """Build jsonschema_rs's validator of a schema."""
    return fast_validator_of(schema(name))


def pointer(path: Place) -> str:
    """JSON Pointer (RFC 6901) of a path."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def verdict(validator: Draft202012Validator, body: Any) -> tuple[str | None, ...]:
    """Place, keyword and missing property of the error that jsonschema would tell first."""
    error = best_match(validator.iter_errors(body))
    if error is None:
        return None, None, None
    missing = None
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
    return pointer(tuple(error.absolute_path)), error.validator, missing


def fails_where_it_says(case: Case) -> bool:
    """Whether both validators refuse the body of a bad case for the reason that it names."""
    found = [
        (pointer(tuple(error.instance_path)), error.schema_path[-1])
        for error in fast_validator(case.schema).iter_errors(case.body)
    ]
    told = verdict(slow_validator(case.schema), case.body)
    return told == (case.at, case.keyword, case.missing) and (case.at, case.keyword) in found


def subschemas(document: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every schema inside *document*, itself first, with its path."""
    yield path, document
    for keyword, value in document.items() if isinstance(document, dict) else ():
        if keyword == "if" or keyword in ONE_SCHEMA:
            yield from subschemas(value, (*path, keyword))
        elif keyword in MANY_SCHEMAS:
            for name, inner in value.items():
                yield from subschemas(inner, (*path, keyword, name))
        elif keyword == "allOf":
            for place, inner in enumerate(value):
                yield from subschemas(inner, (*path, keyword, place))


def changes(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Ways to loosen or tighten one keyword: what is done, and the new value or None to drop it."""
    if keyword in PROSE or keyword == "$defs":
        return
    yield "dropped", None
    if keyword == "type":
        old = [value] if isinstance(value, str) else value
        known = {*old, "integer"} if "number" in old else {*old}
        yield from ((f"widened by {new}", [*old, new]) for new in TYPES if new not in known)
        if len(old) > 1:
            yield from ((f"without {one}", [t for t in old if t != one]) for one in old)
    elif keyword in ("enum", "required"):
        yield from ((f"without {one}", [m for m in value if m != one]) for one in value)
    elif keyword in BOUNDS:
        yield "up by one step", value + 1
        yield "down by one step", value - 1
    elif keyword == "properties":
        for name in value:
            yield f"without {name}", {key: inner for key, inner in value.items() if key != name}
    elif keyword == "allOf":
        for place in range(len(value)):
            yield f"without {place}", value[:place] + value[place + 1 :]
    else:
        assert keyword == "if" or keyword in ONE_SCHEMA or keyword in WHOLE, keyword


def is_schema(keyword: str, value: Any) -> bool:
    """Whether a changed keyword is still one: lengths and counts are never negative."""
    return keyword not in BOUNDS or keyword.endswith("imum") or value is None or value >= 0


def outer_types(document: Any, path: Place) -> set[str] | None:
    """Types that the property itself may have, when *path* is a `then` that narrows them."""
    match path:
        case (*base, "allOf", int(), "then", "properties", name, "type"):
            pass
        case (*base, "then", "properties", name, "type"):
            pass
        case _:
            return None
    for key in base:
        document = document[key]
    stated = document.get("properties", {}).get(name, {}).get("type")
    return None if stated is None else {*stated}


def can_matter(document: Any, path: Place, new: Any) -> bool:
    """
    Whether giving the keyword at *path* the value *new* can change what passes.

    A condition that is widened but not dropped moves its rule to bodies that fail anyway, and
    a `then` cannot widen the type of a property beyond what the property itself says.
    """
    if new is None:
        return True
    if "if" in path:
        return False
    stated = outer_types(document, path)
    return stated is None or {*([new] if isinstance(new, str) else new)} <= stated


def mutants(document: Any) -> Iterator[Mutant]:
    """Each way to change one constraint of *document*; descriptions are no constraints."""
    for path, inner in subschemas(document):
        for keyword, value in inner.items():
            for what, new in changes(keyword, value):
                place = (*path, keyword)
                if not is_schema(keyword, new) or not can_matter(document, place, new):
                    continue
                yield Mutant(f"{pointer(place)} {what}", changed(document, place, new))


def changed(document: Any, place: Place, new: Any) -> Any:
    """Return *document* with *new* at *place*, or nothing there; all else is shared, not copied."""
    key, *rest = place
    found = copy.copy(document)
    if rest:
        found[key] = changed(document[key], tuple(rest), new)
    elif new is None:
        del found[key]
    else:
        found[key] = new
    return found


def is_caught(mutant: Mutant, cases: list[Case]) -> bool:
    """Whether some case no longer passes or fails as it says."""
    fast = fast_validator_of(mutant.schema)
    if any(fast.is_valid(case.body) != (case.at is None) for case in cases):
        return True
    slow = Draft202012Validator(mutant.schema, registry=registry())
    return any(
        verdict(slow, case.body) != (case.at, case.keyword, case.missing)
        for case in cases
        if case.at is not None
    )


def refs(document: Any) -> Iterator[str]:
    """Every reference in *document*."""
    for _, inner in subschemas(document):
        if "$ref" in inner:
            yield inner["$ref"]


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid(name: str) -> None:
    """The schema is one of the 2020-12 draft and says so."""
    document = schema(name)
    Draft202012Validator.check_schema(document)

    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", NAMES)
def test_schema_has_no_id(name: str) -> None:
    """The schema is known by its file name alone, as relative references need it."""
    assert not [path for path, inner in subschemas(schema(name)) if "$id" in inner]


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_explained(name: str) -> None:
    """The schema has a title, and every property is described where it is defined first."""
    document = schema(name)
    properties = [
        (path[-1], inner) for path, inner in subschemas(document) if path[-2:-1] == ("properties",)
    ]
    named = {name for name, _ in properties}
    described = {name for name, inner in properties if "description" in inner or "$ref" in inner}

    assert document["title"]
    assert document["description"]
    assert described == named


@pytest.mark.parametrize("name", NAMES)
def test_references_resolve(name: str) -> None:
    """Each reference leads to a schema in this folder, without fetching anything."""
    resolver = registry().resolver(f"{name}{SUFFIX}")

    for ref in refs(schema(name)):
        assert isinstance(resolver.lookup(ref).contents, dict)


def test_schemas_and_cases_are_the_same() -> None:
    """Every schema has good and bad cases, and there are no cases without a schema."""
    assert NAMES
    assert sorted({case.schema for case in GOOD}) == NAMES
    assert sorted({case.schema for case in BAD}) == NAMES


def test_case_names_are_unique() -> None:
    """No two cases of a schema have the same name."""
    assert len({(case.schema, case.name) for case in CASES}) == len(CASES)


# One test for a schema and not for a case: there are thousands of cases, each of less time than a test.
@pytest.mark.parametrize("name", NAMES)
def test_good_cases_pass(name: str) -> None:
    """Both validators accept the bodies."""
    refused = [
        case.name
        for case in GOOD
        if case.schema == name
        if verdict(slow_validator(name), case.body) != (None, None, None)
        or not fast_validator(name).is_valid(case.body)
    ]

    assert refused == []


@pytest.mark.parametrize("name", NAMES)
def test_bad_cases_fail_where_they_say(name: str) -> None:
    """Both validators refuse the bodies, at the place and for the keyword that each case names."""
    wrong = [case.name for case in BAD if case.schema == name and not fails_where_it_says(case)]

    assert wrong == []


def test_total_tokens_is_the_sum() -> None:
    """Where a good case counts tokens, the total is what JSON Schema cannot demand: the sum."""
    told = [
        (case.schema, case.name, usage)
        for case in GOOD
        if isinstance(case.body, dict) and "total_tokens" in (usage := case.body.get("usage") or {})
    ]
    parts = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    wrong = [
        (schema_name, name)
        for schema_name, name, usage in told
        if usage["total_tokens"] != sum(usage.get(part, 0) for part in parts)
    ]

    assert told
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_no_constraint_can_change_unseen(name: str) -> None:
    """Changing any constraint of the schema is caught by at least one of its cases."""
    cases = [case for case in CASES if case.schema == name]

    unseen = [change.pointer for change in mutants(schema(name)) if not is_caught(change, cases)]

    assert "\n".join(unseen) == ""
