"""
The folder `contracts/`, loaded and compiled once per process.

The schemas are the source of truth for wire shapes. A request is checked against its own on entry:
`jsonschema-rs` says yes or no in about a microsecond; only what it refuses is given to `jsonschema`,
whose `best_match` names the place.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from service.errors import InvalidRequest

FOLDER = Path(__file__).resolve().parent.parent / "contracts"
SUFFIX = ".schema.json"
MAX_SHOWN_CHARACTERS = 120


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
    if not _validator(name).is_valid(body):
        raise _explain(name, body)


def _explain(name: str, body: object) -> InvalidRequest:
    """Say what is wrong with *body*; slow, so only for what is known to be wrong."""
    import jsonschema
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    documents = [(n + SUFFIX, DRAFT202012.create_resource(s)) for n, s in schemas().items()]
    registry: Registry[Any] = Registry().with_resources(documents)
    validator = jsonschema.Draft202012Validator(schemas()[name], registry=registry)
    error = jsonschema.exceptions.best_match(validator.iter_errors(body))
    if error is None:  # the two libraries disagree: refuse, but do not invent a place
        return InvalidRequest("The request body does not have the documented shape.")
    path = [str(part) for part in error.absolute_path]
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = next(key for key in error.validator_value if key not in error.instance)
        where = ".".join([*path, missing])
        return InvalidRequest(f"{where} is required.", param=where, code="missing_required_field")
    where = ".".join(path)
    rule = f"{error.validator} {json.dumps(error.validator_value)}"
    if len(rule) > MAX_SHOWN_CHARACTERS:
        rule = f"{error.validator}"
    code = "invalid_type" if error.validator == "type" else "invalid_value"
    what = where or "The request body"
    return InvalidRequest(f"{what} breaks the rule: {rule}.", param=where or None, code=code)


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


@functools.cache
def openapi() -> dict[str, Any]:
    """Return `openapi.yaml` as one self-contained document, the schemas among its components."""
    import yaml

    document = yaml.safe_load((FOLDER / "openapi.yaml").read_text("utf-8"))
    bundled: dict[str, Any] = _localized(document, "")
    components = bundled.setdefault("components", {}).setdefault("schemas", {})
    components.update({name: _localized(schema, name) for name, schema in schemas().items()})
    return bundled
