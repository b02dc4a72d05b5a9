"""Answers that have the form that was asked for, at any temperature, from a live server."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.flows.chatting import ask, choice, completion, refusal, streamed, text, texts


def closed(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has just these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


POINT = {"$ref": "#/$defs/point"}
SCHEMAS: dict[str, Any] = {
    "enum": closed(colour={"enum": ["red", "green", 3, None]}, is_warm={"type": "boolean"}),
    "integer": closed(n={"type": "integer", "minimum": -3, "exclusiveMaximum": 40}),
    "number": closed(x={"type": "number", "minimum": 0.5, "maximum": 2, "multipleOf": 0.5}),
    "any-integer": {"type": "integer"},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    "text": closed(name={"type": "string", "minLength": 2, "maxLength": 12}),
    "pattern": closed(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}),
    "format": closed(day={"type": "string", "format": "date"}, id={"type": "string", "format": "uuid"}),
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"enum": [1, 2]}], "items": False,
              "minItems": 2},
    "union": {"anyOf": [{"type": "null"}, closed(a={"const": "\\u2028\"x"}), {"enum": [[1, {"b": 2}]]}]},
    "defs": closed(points={"type": "array", "items": POINT, "minItems": 1, "maxItems": 2})
            | {"$defs": {"point": closed(x={"enum": [0, 1]}, y={"type": ["boolean", "null"]})}},
    "recursive": closed(leaf={"type": "boolean"}, next={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
    "optional": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"enum": ["x", "y"]}},
                 "minProperties": 1, "additionalProperties": False},
    "all-of": {"allOf": [closed(a={"type": "integer"}), {"properties": {"a": {"minimum": 5, "maximum": 7}}}]},
    "huge": {"enum": [10**20, -(10**30), 1.5e300]},
    "marks": {"enum": ["<end_of_turn>", "a<tool_call>b", "</tool_call>"]},
}  # fmt: skip


@pytest.mark.parametrize("temperature", [0, 0.8, 2])
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_finished_answer_fits_its_schema(
    client: httpx.Client, name: str, temperature: float
) -> None:
    """Whatever the model would have said: what it says is JSON of that form and nothing else."""
    schema = SCHEMAS[name]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    body = completion(
        client, response_format=form, temperature=temperature, n=4, seed=1, max_tokens=120
    )
    finished = [found for found in body["choices"] if found["finish_reason"] == "stop"]

    assert finished
    for found in finished:
        Draft202012Validator(schema).validate(json.loads(found["message"]["content"]))


def test_json_object_is_one(client: httpx.Client) -> None:
    """Without a schema, too, what is finished is an object, and what is cut has begun as one."""
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        {"structured_outputs": {"json_object": True}},
    ):
        body = completion(client, **fields, temperature=1.5, n=4, seed=1, max_tokens=80)
        for found in body["choices"]:
            content = found["message"]["content"]
            assert content.startswith("{")
            if found["finish_reason"] == "stop":
                assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    "wrap",
    [lambda f: {"structured_outputs": f}, lambda f: {f"guided_{k}": v for k, v in f.items()}],
    ids=["new", "old"],
)
def test_other_forms_in_vllm_s_words(client: httpx.Client, wrap: Any) -> None:
    """Schemas, also as text, expressions, choices and grammars, in vLLM's new words and its old ones."""
    asked = {"temperature": 1.5, "n": 4, "seed": 3, "max_tokens": 60}
    schema = closed(ok={"type": "boolean"})
    grammar = 'start: greeting " " NAME\ngreeting: "hi" | "hello"\nNAME: /[A-Z][a-z]{1,5}/'
    choices = ["yes", ' n"o\n', "", "<end_of_turn>"]

    for given in (schema, json.dumps(schema)):
        for said in texts(client, **asked, **wrap({"json": given})):
            assert json.loads(said).keys() == {"ok"}
    for said in texts(client, **asked, **wrap({"regex": " [0-9]{3}-[a-f]{2,4}"})):
        assert re.fullmatch(" [0-9]{3}-[a-f]{2,4}", said)
    for said in texts(client, **asked, **wrap({"choice": choices})):
        assert said in choices
    for said in texts(client, **asked, **wrap({"grammar": grammar})):
        assert re.fullmatch("(hi|hello) [A-Z][a-z]{1,5}", said)


@pytest.mark.parametrize("name", ["defs", "union", "marks"])
def test_form_is_the_same_streamed(client: httpx.Client, name: str) -> None:
    """A stream says piece by piece what comes whole."""
    asked = {"guided_json": SCHEMAS[name], "temperature": 1, "seed": 4, "max_tokens": 120}

    assert streamed(client, **asked) == [choice(client, **asked)]


def test_each_answer_of_a_batch_keeps_its_own_form(client: httpx.Client) -> None:
    """Forms side by side do not mix, nor reach those who asked for none."""
    forms: list[dict[str, Any]] = [{"guided_regex": f"{digit}{{12}}"} for digit in "123456"]
    forms += [{}, {"guided_choice": ["yes"]}]
    with ThreadPoolExecutor(len(forms)) as pool:
        said = list(pool.map(lambda form: text(client, **form, temperature=0), forms))

    assert said[:6] == [digit * 12 for digit in "123456"]
    assert said[6:] == [text(client, temperature=0), "yes"]


def test_form_that_is_cut_is_told_as_cut(client: httpx.Client) -> None:
    """Half a form is `length` and never `stop`."""
    found = choice(client, guided_regex="a{40}", max_tokens=3, temperature=0)

    assert found["finish_reason"] == "length"
    assert set(found["message"]["content"]) == {"a"}


def test_form_outlasts_a_load_generator(client: httpx.Client) -> None:
    """To go on past the end is no leave to break the form."""
    assert text(client, guided_choice=["yes"], ignore_eos=True) == "yes"


def test_stop_text_ends_a_form(client: httpx.Client) -> None:
    """A stop text counts inside of a form as anywhere."""
    assert text(client, guided_choice=["one two three"], stop=" three") == "one two"


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "null"}}, "contains"),
        ({"not": {"type": "null"}}, "not"),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "banana"}, "banana"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "object", "properties": {"deep": {"items": {"uniqueItems": True}}}}, "uniqueItems"),
    ],
)  # fmt: skip
def test_schema_that_cannot_be_held_to(
    client: httpx.Client, schema: dict[str, Any], keyword: str
) -> None:
    """It is refused before anything begins, and the message names the keyword."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    error = refusal(client, response_format=form)

    assert (error["param"], error["code"]) == (
        "response_format.json_schema.schema", "invalid_json_schema",
    )  # fmt: skip
    assert keyword in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a(?=b)"}, "guided_regex"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": "start"}, "guided_grammar"),
        ({"guided_grammar": "x: y"}, "guided_grammar"),
        ({"structured_outputs": {"grammar": "start: @calls"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "\\1"}}, "structured_outputs.regex"),
    ],
)
def test_form_that_cannot_be_read(client: httpx.Client, fields: Any, param: str) -> None:
    """An expression or a grammar with a mistake is the client's, at its place."""
    error = refusal(client, **fields)

    assert (error["param"], error["code"]) == (param, "invalid_grammar")


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "(a+)+$"},
        {"guided_regex": "(a{1,1000}){1,1000}"},
        {"guided_regex": "((((a{1,50}){1,50}){1,50}){1,50}){1,50}"},
        {"guided_regex": "(.*a.{30}){9}"},
        {"guided_json": {"type": "string", "pattern": "(a|aa)+$"}},
        {"guided_json": {"type": "array", "minItems": 1_000_000}},
        {"guided_json": {"allOf": [{"anyOf": [{"properties": {f"{i}{k}": {}}} for k in range(10)]}
                                   for i in range(6)]}},
        {"guided_grammar": "start: start start | \"a\""},
        {"guided_grammar": "\n".join(["start: r0", *(f"r{i}: r{i + 1} r{i + 1}" for i in range(9)),
                                      'r9: "a"'])},
    ],
)  # fmt: skip
def test_hostile_form_holds_nobody_up(client: httpx.Client, fields: Any) -> None:
    """It is compiled or refused in no time, and does not slow the tokens down."""
    began_s = time.perf_counter()
    response = ask(client, max_tokens=4, **fields)

    assert response.status_code in {200, 400}
    assert time.perf_counter() - began_s < 2
    assert text(client, guided_choice=["fine"]) == "fine"
