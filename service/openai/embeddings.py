"""`POST /v1/embeddings`: the body into inputs, vectors into the body. Pure translation, as `chat` is."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from service.openai import request_fields
from service.protocol import Embedded, ModelCard, Text, Tokens

SLICE = 64  # vectors that are written at once, before others get their turn; taste


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """
    What a request for embeddings asks for.

    Attributes:
        inputs: at least one.
        prompt_name: which of the model's prompts to put before texts; None: what the model does by itself.
        dimensions: how many numbers a vector has; None: all.
        is_encoded: vectors are wanted as base64.
        priority: its turn in the queue; smaller is earlier.
    """

    inputs: tuple[Text | Tokens, ...]
    prompt_name: str | None
    dimensions: int | None
    is_encoded: bool
    priority: int


def parse(body: dict[str, Any]) -> EmbeddingRequest:
    """Read *body*, which has passed the contract `embedding-request`."""
    return EmbeddingRequest(
        inputs=_inputs(body["input"]),
        prompt_name=body.get("prompt_name"),
        dimensions=request_fields.whole(body.get("dimensions")),
        is_encoded=body.get("encoding_format") == "base64",
        priority=request_fields.priority(body),
    )


def _inputs(given: str | list[Any]) -> tuple[Text | Tokens, ...]:
    """Return each input: of a text or token ids, and of a list of either."""
    if isinstance(given, str):
        return (Text(given),)
    if isinstance(given[0], int | float):
        return (Tokens(tuple(map(int, given))),)
    return tuple(
        Text(each) if isinstance(each, str) else Tokens(tuple(map(int, each))) for each in given
    )


def written(card: ModelCard, found: Embedded, *, is_encoded: bool) -> Iterator[bytes]:
    """Yield the body piece by piece: as numbers, the vectors of a large request take a while to write."""
    yield b'{"object":"list","data":['
    for begin in range(0, len(found.vectors), SLICE):
        part = found.vectors[begin : begin + SLICE]
        entries = [_entry(begin + i, vector, is_encoded) for i, vector in enumerate(part)]
        yield b"," * bool(begin) + msgspec.json.encode(entries)[1:-1]
    rest = {
        "model": card.id,
        "usage": {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens},
    }
    yield b"]," + msgspec.json.encode(rest)[1:]


def _entry(index: int, vector: bytes, is_encoded: bool) -> dict[str, Any]:
    content: str | Sequence[float] = (
        base64.b64encode(vector).decode() if is_encoded else _numbers(vector)
    )
    return {"object": "embedding", "index": index, "embedding": content}


def _numbers(vector: bytes) -> list[float]:
    """Return the floats in *vector*, which has the lowest byte first."""
    found = array.array("f", vector)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tolist()
