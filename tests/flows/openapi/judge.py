"""
What `contracts/` says of one answer, read without Schemathesis.

Its verdicts come from the files themselves, not from the document that the server gives, and from
another implementation of JSON Schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from conformance.sse import events_of
from tests.live import ROOT

CONTRACTS = ROOT / "contracts"
DOCUMENT: Any = yaml.safe_load((CONTRACTS / "openapi.yaml").read_text("utf-8"))
EVENTS = "text/event-stream"
ERROR = {"$ref": "error.schema.json"}
# What the events of each route are, and below it of what is kept. Where they have names, errors are among
# them and no [DONE] ends them.
CHUNKS = {
    "/v1/chat/completions": {"$ref": "chat-completion-chunk.schema.json"},
    "/v1/completions": {"$ref": "completion-chunk.schema.json"},
}
NAMED_EVENTS = {
    "/v1/messages": {"$ref": "message-event.schema.json"},
    "/v1/responses": {"$ref": "response-event.schema.json"},
}

# No route has the method: what the document says of errors in general.
UNDESCRIBED = DOCUMENT["components"]["responses"]["NotFound"]
REGISTRY: Registry[Any] = Registry().with_resources(
    (path.name, Resource.from_contents(json.loads(path.read_bytes()), DRAFT202012))
    for path in CONTRACTS.glob("*.schema.json")
)


def operations() -> dict[str, Any]:
    """Return every operation by method and path, such as `GET /health`."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
    }


def breaches(answer: httpx.Response) -> Iterator[str]:
    """Yield what *answer* breaks of `contracts/`, one sentence each; nothing if it keeps them."""
    described = _described(answer)
    if described is None:
        yield f"the status {answer.status_code} is not described"
        return
    for name, header in described["headers"].items():
        told = _resolved(header)
        if name in answer.headers or told.get("required", True):
            yield from _header_breaches(name, told["schema"], answer)
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    content = described.get("content", {})
    if media_type in content:
        yield from _body_breaches(media_type, content[media_type]["schema"], answer)
    elif content or answer.content:
        yield f"the content type {media_type!r} is not described"


def _described(answer: httpx.Response) -> Any:
    """Return what the document says of such an answer; None if nothing."""
    path = answer.request.url.raw_path.decode("ascii").partition("?")[0]
    for name, operation in operations().items():
        method, _, template = name.partition(" ")
        pattern = "[^/]+".join(map(re.escape, re.split(r"{\w+}", template)))
        if method == answer.request.method and re.fullmatch(pattern, path):
            return _resolved(operation["responses"].get(str(answer.status_code)))
    if answer.request.method == "OPTIONS":
        return {"headers": UNDESCRIBED["headers"]}
    return UNDESCRIBED if answer.status_code in {404, 405} else None


def _resolved(node: Any) -> Any:
    """Return *node*, or what it refers to within the document."""
    while node and node.get("$ref", "").startswith("#/"):
        target = DOCUMENT
        for key in node["$ref"].split("/")[1:]:
            target = target[key]
        node = target
    return node


def _header_breaches(name: str, schema: Any, answer: httpx.Response) -> Iterator[str]:
    values = answer.headers.get_list(name)
    if len(values) != 1:
        yield f"{name} is there {len(values)} times"
        return
    try:
        value = values[0] if schema["type"] == "string" else json.loads(values[0])
    except ValueError:
        yield f"{name} is no number: {values[0]!r}"
    else:
        yield from _value_breaches(name, schema, value)


def _body_breaches(media_type: str, schema: Any, answer: httpx.Response) -> Iterator[str]:
    if media_type == EVENTS:
        yield from _stream_breaches(answer.request.url.path, answer.content)
    elif media_type == "application/json":
        yield from _json_breaches("the body", schema, answer.text)
    else:
        yield from _value_breaches("the body", schema, answer.text)


def _stream_breaches(path: str, body: bytes) -> Iterator[str]:
    """Yield what is wrong with a stream: named events, or chunks, perhaps an error, and [DONE]."""
    events = events_of(body)
    named = next((it for route, it in NAMED_EVENTS.items() if path.startswith(route)), None)
    if named is not None:
        for event in events:
            yield from _json_breaches("an event", named, event.data)
            if not event.data.startswith(f'{{"type":"{event.name}"'):
                yield f"an event is named {event.name!r} and not after its type"
        return
    if not events or events.pop().data != "[DONE]":
        yield "the stream does not end in [DONE]"
    for event in events:
        schema = ERROR if event.data.startswith('{"error"') else CHUNKS[path]
        yield from _json_breaches("an event", schema, event.data)


def _json_breaches(what: str, schema: Any, text: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        yield f"{what} is no JSON: {text[:80]!r}"
    else:
        yield from _value_breaches(what, schema, value)


def _value_breaches(what: str, schema: Any, value: object) -> Iterator[str]:
    error = best_match(Draft202012Validator(schema, registry=REGISTRY).iter_errors(value))
    if error is not None:
        yield f"{what} at {error.json_path}: {error.message[:200]}"
