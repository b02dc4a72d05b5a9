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
from collections.abc import Iterator, Sequence
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

    Generators of clients can't follow a reference into a component, one that has constraints beside it,
    one to a component that comes later, or one to what can also be null.
    """

    def __init__(self, document: Any) -> None:
        self.components: dict[str, Any] = {}
        self._begun: dict[str, tuple[str, str]] = {}
        self._parts = {place for ref in _references(document) if (place := _place(ref, ""))}
        for name, schema in schemas().items():
            self._parts |= {place for ref in _references(schema) if (place := _place(ref, name))}

    def localized(self, node: Any, owner: str, pointer: str = "") -> Any:
        """Return *node*, at *pointer* in the schema *owner* or in the document, that refers to components."""
        if isinstance(node, list):
            return [self.localized(one, owner, f"{pointer}/{i}") for i, one in enumerate(node)]
        if not isinstance(node, dict):
            return node
        found = {
            key: self._nested(value, owner, f"{pointer}/{key}")
            for key, value in node.items()
            if key != "$ref"
        }
        if "array" in (node.get("type") or ()) and "items" not in node:
            found["items"] = {}  # linters and generators want it said
        if "$ref" not in node:
            return found
        place = _place(node["$ref"], owner)
        referred = {"$ref": node["$ref"]} if place is None else self._part(place)
        if found.keys() <= {"description"}:
            return referred | found
        return {"allOf": [referred, found]}

    def _nested(self, node: Any, owner: str, pointer: str) -> Any:
        is_part = (owner, pointer) in self._parts and isinstance(node, dict)
        return self._part((owner, pointer)) if is_part else self.localized(node, owner, pointer)

    def _part(self, place: tuple[str, str]) -> dict[str, Any]:
        """Return a reference to a component, or the part itself where it can be of several types."""
        part = _at(schemas()[place[0]], place[1].split("/")[1:])
        if isinstance(part.get("type"), list):
            localized: dict[str, Any] = self.localized(part, *place)
            return localized
        name = component(*place)
        if self._begun.setdefault(name, place) != place:
            raise ValueError(f"{place} and {self._begun[name]} would both be {name}")
        if name not in self.components:
            self.components[name] = None  # it may refer to itself
            own = {key: part[key] for key in part if key not in {"$defs", "$schema"}}
            made = self.localized(own, *place)
            del self.components[name]  # what it needs comes first
            self.components[name] = made
        return {"$ref": f"#/components/schemas/{name}"}


def _place(reference: str, owner: str) -> tuple[str, str] | None:
    """Return the schema and the pointer that a reference in *owner* leads to; None: into the document."""
    file, _, pointer = reference.partition("#")
    if not file and not owner:
        return None
    return Path(file).name.removesuffix(SUFFIX) or owner, pointer


def _references(node: Any) -> Iterator[str]:
    """Yield every reference in *node*."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)


@functools.cache
def openapi() -> dict[str, Any]:
    """Return `openapi.yaml` as one self-contained document, with the schemas that it needs."""
    import yaml

    document = yaml.safe_load((FOLDER / "openapi.yaml").read_text("utf-8"))
    bundle = _Bundle(document)
    bundle.localized(document["components"].pop("schemas"), "")
    found: dict[str, Any] = bundle.localized(document, "")
    found["components"]["schemas"] = bundle.components
    return found
