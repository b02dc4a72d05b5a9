"""The JSON Schemas of `contracts/`, held against every response that the suite has seen."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from conformance import sse
from conformance.catalogue import Requirement
from conformance.client import CHAT, Exchange, Server, read_json, shorten
from conformance.verdicts import check, not_tested

FOLDER = Path(__file__).parent.parent / "contracts"
SUFFIX = ".schema.json"
MODELS = "/v1/models"
MESSAGES = "/v1/messages"


@functools.cache
def _registry() -> Registry[Any]:
    """Return all schemas by file name; without a retrieve function nothing is ever fetched."""
    schemas = ((path.name, json.loads(path.read_bytes())) for path in FOLDER.glob(f"*{SUFFIX}"))
    return Registry().with_resources(
        (name, Resource.from_contents(schema, default_specification=DRAFT202012))
        for name, schema in schemas
    )


@functools.cache
def _validator(name: str) -> Draft202012Validator | None:
    resource = _registry().get(name + SUFFIX)
    if resource is None:
        return None
    return Draft202012Validator({"$ref": name + SUFFIX}, registry=_registry())


def breach(name: str, body: object) -> str:
    """Say how *body* breaks the contract *name*; empty when it doesn't, or when there is none."""
    validator = _validator(name)
    error = best_match(validator.iter_errors(body)) if validator else None
    if not isinstance(error, ValidationError):
        return ""
    # The error's own message quotes the whole value, which can be a megabyte.
    place = "/".join(str(part) for part in error.absolute_path) or "the whole body"
    return f"{place} against {error.validator}: {shorten(json.dumps(error.validator_value))}"


def bodies(exchange: Exchange) -> Iterator[tuple[str, object]]:
    """Yield each JSON body of a response with the name of the contract that it falls under."""
    path = exchange.request.target.partition("?")[0]
    if exchange.request.method in {"HEAD", "OPTIONS"} or MESSAGES in path:
        return  # without a body, or with one after Anthropic's contracts
    if path.endswith("/health") and exchange.status in {200, 503}:
        yield "health", exchange.document()
    elif exchange.status >= 400:
        yield "error", exchange.document()
    elif exchange.status != 200:
        return
    elif path.endswith(MODELS):
        yield "model-list", exchange.document()
    elif f"{MODELS}/" in path:
        yield "model", exchange.document()
    elif path.endswith(CHAT) and exchange.media_type == "text/event-stream":
        yield from _chunks(exchange)
    elif path.endswith(CHAT):
        yield "chat-completion", exchange.document()


def _chunks(exchange: Exchange) -> Iterator[tuple[str, object]]:
    for data in sse.data_of(exchange.body):
        if data == "[DONE]":
            continue
        body = read_json(data)
        is_error = isinstance(body, dict) and "error" in body
        yield ("error" if is_error else "chat-completion-chunk"), body


def check_all_seen(
    demand: Requirement,
    server: Server,
    name: str,
    is_concerned: Callable[[Exchange], bool] = lambda _: True,
) -> None:
    """
    Check every response seen so far that falls under the contract *name* and *is_concerned*.

    Raises:
        Violation: at the first that breaks it.
    """
    if _validator(name) is None:
        not_tested(f"contracts/{name}{SUFFIX} is missing from this checkout")
    n_checked = 0
    for exchange in filter(is_concerned, server.journal.seen):
        for contract, body in bodies(exchange):
            if contract == name:
                n_checked += 1
                problem = breach(name, body)
                check(demand, not problem, f"breaks contracts/{name}{SUFFIX}: {problem}", exchange)
    if not n_checked:
        not_tested(f"no response came that contracts/{name}{SUFFIX} describes")
