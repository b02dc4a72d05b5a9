"""
The folder `contracts/`, loaded and compiled once per process.

The schemas are the source of truth for wire shapes. A request is checked against its own on entry:
`jsonschema-rs` takes about a microsecond for a small one and stops at the first thing that is wrong, so
that a large body full of mistakes costs no more than one.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs

from service.errors import InvalidRequest

FOLDER = Path(__file__).resolve().parent.parent / "contracts"
SUFFIX = ".schema.json"
MAX_SHOWN_CHARACTERS = 120
MAX_KEY = 64


@functools.cache
def schemas() -> dict[str, Any]:
    """Return every schema by its name, such as `chat-request`."""
    return {
        path.name.removesuffix(SUFFIX): json.loads(path.read_text("utf-8"))
        for path in sorted(FOLDER.glob(f"*{SUFFIX}"))
    }


@functools.cache
def _validator(name: str) -> jsonschema_rs.Validator:
    registry = jsonschema_rs.Registry([(n + SUFFIX, schema) for n, schema in schemas().items()])
    return jsonschema_rs.Draft202012Validator(schemas()[name], registry=registry)


def check(name: str, body: object) -> None:
    """
    Check *body*, decoded JSON, against the schema called *name*.

    Raises:
        InvalidRequest: it does not hold; `param` is the dotted path of the place, the message is made
            from the rule and never repeats the value, which may be large or secret.
    """
    try:
        _validator(name).validate(body)
    except jsonschema_rs.ValidationError as error:
        raise _explained(name, body, error) from None


def _explained(name: str, body: object, error: jsonschema_rs.ValidationError) -> InvalidRequest:
    """Say where *body* breaks which rule, from the first place found: more cost more than they tell."""
    # A key of the client's own making, as in `logit_bias`, may be anything: what is long is not repeated.
    path = list(
        itertools.takewhile(lambda part: len(part) <= MAX_KEY, map(str, error.instance_path))
    )
    keyword = str(error.schema_path[-1])
    rule = _rule(name, error.evaluation_path)
    if keyword == "required":
        present = _at(body, error.instance_path) or {}
        missing = next((key for key in rule or () if key not in present), "")
        where = ".".join([*path, missing])
        return InvalidRequest(f"{where} is required.", param=where, code="missing_required_field")
    shown = f"{keyword} {json.dumps(rule)}"
    where = ".".join(path)
    return InvalidRequest(
        f"{where or 'The request body'} breaks the rule: "
        f"{shown if len(shown) <= MAX_SHOWN_CHARACTERS else keyword}.",
        param=where or None,
        code="invalid_type" if keyword == "type" else "invalid_value",
    )


def _rule(name: str, path: Sequence[str | int]) -> Any:
    """Return what stands at *path* in the schema called *name*, or in those that it refers to."""
    rule: Any = schemas()[name]
    for part in path:
        if part == "$ref":
            file, _, pointer = rule["$ref"].partition("#")
            name = file.removesuffix(SUFFIX) or name
            rule = _at(schemas()[name], pointer.split("/")[1:])
        else:
            rule = _at(rule, [part])
    return rule


def _at(document: Any, path: Sequence[str | int]) -> Any:
    """Return what stands at *path* in *document*; None if it leads out of it."""
    for part in path:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document


# Steps of a JSON Pointer that give a part of a schema no name.
_UNNAMED = frozenset({"", "$defs", "properties", "items", "then"})


def component(name: str, pointer: str = "") -> str:
    """Return what the OpenAPI document calls the schema *name*, or the part of it at *pointer*."""
    steps = [name, *(step for step in pointer.split("/") if step not in _UNNAMED)]
    words = itertools.chain.from_iterable(re.split(r"[-_]", step) for step in steps)
    return "".join(word[:1].upper() + word[1:] for word in words)


class _Bundle:
    """
    The schemas that a document needs, each part that is referred to as a component of its own.

    Generators of clients can't follow a reference into a component, nor one that has constraints beside it.
    """

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._places: dict[str, tuple[str, str]] = {}

    def localized(self, node: Any, owner: str) -> Any:
        """Return *node*, a part of the schema *owner* or the document itself, that refers to components."""
        if isinstance(node, list):
            return [self.localized(item, owner) for item in node]
        if not isinstance(node, dict):
            return node
        found = {key: self.localized(value, owner) for key, value in node.items() if key != "$ref"}
        if "$ref" not in node:
            return found
        reference = {"$ref": self._localized_reference(node["$ref"], owner)}
        if found.keys() <= {"description"}:
            return reference | found
        return {"allOf": [reference, found]}

    def _localized_reference(self, reference: str, owner: str) -> str:
        file, _, pointer = reference.partition("#")
        if not file and not owner:
            return reference
        place = (Path(file).name.removesuffix(SUFFIX) or owner, pointer)
        name = component(*place)
        if self._places.setdefault(name, place) != place:
            raise ValueError(f"{place} and {self._places[name]} would both be {name}")
        if name not in self.components:
            self.components[name] = None  # it may refer to itself
            part = _at(schemas()[place[0]], pointer.split("/")[1:])
            own = {key: part[key] for key in part if key not in {"$defs", "$schema"}}
            self.components[name] = self.localized(own, place[0])
        return f"#/components/schemas/{name}"


@functools.cache
def openapi() -> dict[str, Any]:
    """Return `openapi.yaml` as one self-contained document, with the schemas that it needs."""
    import yaml

    document = yaml.safe_load((FOLDER / "openapi.yaml").read_text("utf-8"))
    bundle = _Bundle()
    bundle.localized(document["components"].pop("schemas"), "")
    found: dict[str, Any] = bundle.localized(document, "")
    found["components"]["schemas"] = dict(sorted(bundle.components.items()))
    return found
