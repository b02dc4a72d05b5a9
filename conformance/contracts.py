"""The JSON Schemas of `contracts/`, held against every response that the suite has seen."""

import functools
import json
from collections.abc import Callable
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

# In the checkout the contracts lie beside the suite; where it is installed by itself, in it.
_PLACES = (Path(__file__).parent / "schemas", Path(__file__).parent.parent / "contracts")
FOLDER = next(place for place in reversed(_PLACES) if place.is_dir() or place == _PLACES[0])
SUFFIX = ".schema.json"
MODELS = "/v1/models"
MESSAGES = "/v1/messages"
ERROR = "error"
CHUNK = "chat-completion-chunk"


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


def texts_under(name: str, exchange: Exchange) -> list[str] | list[bytes]:
    """Return those texts of a response, not read yet, that the contract *name* describes."""
    contract = _contract_of(exchange)
    if contract != CHUNK:
        return [exchange.body] if contract == name else []
    if name not in {CHUNK, ERROR}:
        return []
    texts = [text for text in sse.data_of(exchange.body) if text != "[DONE]"]
    return [text for text in texts if _is_error(text) == (name == ERROR)]


def _contract_of(exchange: Exchange) -> str:
    """Name the contract of a response, or of a stream's chunks; empty where there is none."""
    path = exchange.request.target.partition("?")[0].rstrip("/")
    if exchange.request.method in {"HEAD", "OPTIONS"} or MESSAGES in path:
        return ""  # without a body, or with one after Anthropic's contracts
    if path.endswith("/health") and exchange.status in {200, 503}:
        return "health"
    if exchange.status >= 400:
        return ERROR
    if exchange.status != 200:
        return ""
    if path.endswith(MODELS):
        return "model-list"
    if f"{MODELS}/" in path:
        return "model"
    if not path.endswith(CHAT):
        return ""
    return CHUNK if exchange.media_type == "text/event-stream" else "chat-completion"


def _is_error(text: str) -> bool:
    """Whether a stream's event is an error, and no chunk."""
    body = read_json(text)
    return isinstance(body, dict) and "error" in body


def check_all_seen(
    demand: Requirement,
    server: Server,
    name: str,
    is_concerned: Callable[[Exchange], bool] = lambda _: True,
) -> None:
    """
    Check every response seen so far that falls under the contract *name* and *is_concerned*.

    What is equal to the last byte is checked once: most answers of /health are.

    Raises:
        Violation: at the first that breaks it.
    """
    if _validator(name) is None:
        not_tested(f"contracts/{name}{SUFFIX} is missing from this checkout")
    known: set[str | bytes] = set()
    for exchange in filter(is_concerned, server.journal.seen):
        for text in texts_under(name, exchange):
            if text not in known:
                known.add(text)
                problem = breach(name, read_json(text))
                check(demand, not problem, f"breaks contracts/{name}{SUFFIX}: {problem}", exchange)
    if not known:
        not_tested(f"no response came that contracts/{name}{SUFFIX} describes")
