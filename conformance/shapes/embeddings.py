"""Lists of embeddings."""

import base64
import math
import struct

from conformance.client import Exchange
from conformance.openai_shapes import first
from conformance.shapes.choices import mappings, text

LEAST_COSINE = 0.999


def is_vector(value: object) -> bool:
    """Whether *value* is a list of finite numbers."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(each) in {int, float} and math.isfinite(each) for each in value)
    )


def list_problem(answer: Exchange, n_inputs: int) -> str:
    """Look for an embedding of each input, in order, and the fields around them."""
    if answer.status != 200:
        return f"status {answer.status}"
    body = answer.fields()
    data = mappings(body.get("data"))
    return first(
        (answer.media_type != "application/json", "content type is not application/json"),
        (body.get("object") != "list", 'object is not "list"'),
        (not text(body.get("model")), "model is not text"),
        (len(data) != n_inputs, f"{len(data)} embeddings of {n_inputs} inputs"),
        (any(each.get("object") != "embedding" for each in data), 'object is not "embedding"'),
        ([each.get("index") for each in data] != list(range(n_inputs)), "indexes aren't in order"),
        (not all(is_vector(each.get("embedding")) for each in data), "not a list of numbers"),
    )


def vectors_of(answer: Exchange) -> list[list[float]]:
    """Return the embeddings by index, those that are lists of numbers."""
    data = mappings(answer.fields().get("data"))
    found = {
        index: each["embedding"]
        for each in data
        if isinstance(index := each.get("index"), int) and is_vector(each.get("embedding"))
    }
    return [found[index] for index in sorted(found)]


def decoded(answer: Exchange) -> list[list[float]]:
    """Return the embeddings that are base64 of 32-bit floats, lowest byte first."""
    found = []
    for each in mappings(answer.fields().get("data")):
        try:
            content = base64.b64decode(text(each.get("embedding")), validate=True)
            found.append([number for (number,) in struct.iter_unpack("<f", content)])
        except (ValueError, struct.error):
            return []
    return found


def are_alike(one: list[float], other: list[float]) -> bool:
    """Whether two vectors point the same way, but for what batching does to the last digits."""
    if len(one) != len(other):
        return False
    lengths = math.hypot(*one) * math.hypot(*other)
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return lengths > 0 and product / lengths >= LEAST_COSINE
