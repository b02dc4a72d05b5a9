"""Requests are held to their contract, and what breaks it is named without being repeated."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import contracts
from service.errors import InvalidRequest

CASES = json.loads(
    (Path(__file__).parent.parent / "contracts/cases/chat-request.json").read_text("utf-8")
)
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
MEGABYTE = "s3cret" * 175_000


def refusal(body: object) -> InvalidRequest:
    """Return the error that *body* is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        contracts.check("chat-request", body)
    return caught.value


def dotted(case: dict[str, Any]) -> str | None:
    """Return where a case fails, as `param` names it."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in case["at"].split("/")[1:]]
    return ".".join([*parts, *filter(None, [case.get("missing")])]) or None


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in *node*."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from walk(inner)


def test_good_requests_pass() -> None:
    """Every good case of the contract is let through."""
    for case in CASES["good"]:
        contracts.check("chat-request", case["body"])


def test_bad_requests_name_their_places() -> None:
    """Every bad case is refused with 400, `param` at the place that the case tells."""
    wrong = []
    for case in CASES["bad"]:
        error = refusal(case["body"])
        if (error.status, error.param) != (400, dotted(case)):
            wrong.append((case["name"], error.param))

    assert wrong == []


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"content": ""}]}, "messages.0.role", "missing_required_field"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_field"),
        ({"messages": [HELLO["messages"][0], 7]}, "messages.1", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -2}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**30}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stop": ["a"] * 65}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop.1", "invalid_value"),
        ({"logit_bias": {str(i): 0 for i in range(301)}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-5": 1}}, "logit_bias", "invalid_value"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ],
)
def test_request_when_one_thing_is_wrong(change: dict[str, Any], param: str, code: str) -> None:
    """The dotted path and a code of its own kind tell the client what to mend."""
    error = refusal(HELLO | change)

    assert (param, code) == (error.param, error.code)


def test_request_when_a_field_is_missing() -> None:
    """A required field that is not there is itself the place, and the message says its name."""
    error = refusal({"model": "m"})

    assert ("messages", "missing_required_field") == (error.param, error.code)
    assert "messages is required." == error.message


@pytest.mark.parametrize("body", [[], "x", None, 1, True])
def test_request_when_it_is_no_object(body: object) -> None:
    """A body that is no object has no place to name, only a wrong type."""
    error = refusal(body)

    assert (None, "invalid_type") == (error.param, error.code)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": MEGABYTE},
        {"messages": MEGABYTE},
        {"messages": [{"role": MEGABYTE, "content": "x"}]},
        {"messages": [{"role": "user", "content": {"image": MEGABYTE}}]},
        {"messages": [{"role": "user", "content": [{"type": MEGABYTE}]}]},
        {"stop": MEGABYTE},
        {"stop": [MEGABYTE]},
        {"logit_bias": {MEGABYTE: 1}},
        {"logit_bias": {MEGABYTE: "x"}},
        {"tool_choice": MEGABYTE},
        {"response_format": {"type": MEGABYTE}},
        {"max_tokens": "s3cret"},
    ],
    ids=lambda change: next(iter(change)).encode("ascii", "replace").decode(),
)
def test_refusal_never_repeats_the_value(change: dict[str, Any]) -> None:
    """What was sent may be large or secret: neither message nor place holds any of it."""
    error = refusal(HELLO | change)

    assert "s3cret" not in f"{error.message} {error.param}"
    assert len(error.message) < 300


def test_every_schema_can_be_checked() -> None:
    """All contracts compile, references between them included."""
    for name in contracts.schemas():
        with pytest.raises(InvalidRequest):
            contracts.check(name, [])


def test_check_when_everything_is_wrong_in_a_large_body() -> None:
    """Half a million mistakes cost no more than the first: the event loop waits for this."""
    began_s = time.process_time()
    error = refusal({"model": "m", "messages": [1] * 500_000})

    assert "messages.0" == error.param
    assert time.process_time() - began_s < 1


def test_openapi_refers_to_itself_alone() -> None:
    """The document a client downloads needs no other file: each reference resolves inside it."""
    document = contracts.openapi()
    references = [node["$ref"] for node in walk(document) if isinstance(node.get("$ref"), str)]

    assert [] == [ref for ref in references if not ref.startswith("#/")]
    for reference in references:
        target = document
        for key in reference.removeprefix("#/").split("/"):
            target = target[key.replace("~1", "/").replace("~0", "~")]
        assert isinstance(target, dict), reference


def test_openapi_carries_what_it_needs() -> None:
    """Every contract is among its components, but for what no server sends."""
    carried = contracts.openapi()["components"]["schemas"].keys()
    missing = {name for name in contracts.schemas() if contracts.component(name) not in carried}

    assert {"conformance-report"} == missing


def test_openapi_refers_to_whole_components() -> None:
    """No reference leads into a component or stands beside a constraint: generators can't follow those."""
    for node in walk(contracts.openapi()):
        reference = node.get("$ref")
        if isinstance(reference, str):
            assert re.fullmatch(r"#/components/[a-zA-Z]+/[\w.-]+", reference)
            assert node.keys() <= {"$ref", "description"}
    assert "$defs" not in json.dumps(contracts.openapi())


def test_parts_of_schemas_have_names_of_their_own() -> None:
    """A part is called after its schema and what it is there."""
    assert "ChatRequest" == contracts.component("chat-request")
    assert "ChatRequestToolCall" == contracts.component("chat-request", "/$defs/tool_call")
    assert "ChatRequestResponseFormatJsonSchema" == contracts.component(
        "chat-request", "/properties/response_format/then/properties/json_schema"
    )


def test_openapi_is_json() -> None:
    """The document can be sent as it is."""
    assert contracts.openapi() == json.loads(json.dumps(contracts.openapi()))


def test_openapi_leaves_the_schemas_alone() -> None:
    """Bundling works on copies: the schemas that requests are checked against keep their references."""
    contracts.openapi()
    references = [node["$ref"] for node in walk(contracts.schemas()["chat-completion-chunk"])
                  if "$ref" in node]  # fmt: skip

    assert "chat-completion.schema.json#/$defs/usage" in references
