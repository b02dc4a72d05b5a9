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


def _localized(node: Any, owner: str) -> Any:
    """Return *node* with each reference to a sibling file turned into one inside the document."""
    if isinstance(node, dict):
        return {
            key: _local_reference(value, owner) if key == "$ref" else _localized(value, owner)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_localized(item, owner) for item in node]
    return node


def _local_reference(reference: str, owner: str) -> str:
    file, _, pointer = reference.partition("#")
    if not file and not owner:
        return reference
    name = Path(file).name.removesuffix(SUFFIX) if file else owner
    return f"#/components/schemas/{name}{pointer}"


def _references(node: Any) -> Iterator[str]:
    """Yield every reference in *node*."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)


def _add_needed(node: Any, names: set[str]) -> None:
    """Add to *names* the schemas whose files *node* refers to, and those that they refer to."""
    files = (reference.partition("#")[0] for reference in _references(node))
    for name in {Path(file).name.removesuffix(SUFFIX) for file in files if file} - names:
        names.add(name)
        _add_needed(schemas()[name], names)


@functools.cache
def openapi() -> dict[str, Any]:
    """Return `openapi.yaml` as one self-contained document, with the schemas that it needs."""
    import yaml

    document = yaml.safe_load((FOLDER / "openapi.yaml").read_text("utf-8"))
    names: set[str] = set()
    _add_needed(document, names)
    bundled: dict[str, Any] = _localized(document, "")
    components = bundled.setdefault("components", {}).setdefault("schemas", {})
    components.update({name: _localized(schemas()[name], name) for name in sorted(names)})
    return bundled
