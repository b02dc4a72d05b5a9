"""Text that must be JSON of a given form."""

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from conformance.client import read_json, shorten


def form_problem(said: str, schema: Any) -> str:
    """Look for JSON that fits *schema*, and nothing around it."""
    found = read_json(said)
    if found is None and said.strip() != "null":
        return f"no JSON: {shorten(said)}"
    error = best_match(Draft202012Validator(schema).iter_errors(found))
    if error is None:
        return ""
    place = "/".join(str(part) for part in error.absolute_path) or "the whole"
    return f"{place} breaks {error.validator}: {shorten(said)}"
