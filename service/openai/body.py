"""
A request's bytes into decoded JSON, strictly, and never for long.

What a body costs is not its bytes but what is in them: sixteen megabytes of `[[],[],…]` take five seconds to
decode and check, of one text some milliseconds. So it is measured first, slice by slice, and what would keep
the others waiting is refused before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from service.errors import InvalidRequest

MAX_DEPTH = 64
MAX_TEXTS = (
    100_000  # measured, as the next two: each of them takes 50 ms at most, in all it goes through
)
MAX_CONTAINERS = 50_000
MAX_VALUES = 400_000
SLICE_BYTES = 256 * 1024  # measured: 5 ms at most

_decoder = msgspec.json.Decoder()
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENING = frozenset(b"[{")


def decode(raw: bytes) -> dict[str, Any]:
    """
    Return the object in *raw*.

    Raises:
        InvalidRequest: as `measure` and `decode_measured`.
    """
    for _ in measure(raw):
        pass
    return decode_measured(raw)


def measure(raw: bytes) -> Iterator[None]:
    """
    See that *raw* is small enough to be decoded; yields after each slice, so that others get their turn.

    Raises:
        InvalidRequest: nested too deep (`json_too_deep`), or of so many parts that others would wait for it
            (`json_too_large`).
    """
    contents = _Contents()
    begin = 0
    while begin < len(raw):
        end = begin + SLICE_BYTES
        piece = raw[begin:end]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what it escapes belongs to it
            end += 1
            piece = raw[begin:end]
        contents.add(piece)
        begin = end
        yield


def decode_measured(raw: bytes) -> dict[str, Any]:
    """
    Return the object in *raw*, which has passed `measure`.

    Raises:
        InvalidRequest: it is no strict JSON (`invalid_json`), or not an object (`invalid_type`).
    """
    try:
        body = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Of the decoder's own words only the place is repeated, never a value.
        raise InvalidRequest(
            f"The body is no valid JSON: {error}"[:200], code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_type")
    return body


class _Contents:
    """What a body holds: found without decoding, and right for all that is JSON."""

    def __init__(self) -> None:
        self._is_in_text = False
        self._n_quotes = 0
        self._n_containers = 0
        self._n_commas = 0
        self._depth = 0

    def add(self, piece: bytes) -> None:
        """Take in the next *piece*, which ends within no escape."""
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._is_in_text :: 2])
        self._is_in_text ^= len(parts) % 2 == 0
        self._n_quotes += len(parts) - 1
        self._n_commas += outside.count(b",")
        brackets = outside.translate(None, _NO_BRACKETS)
        self._n_containers += brackets.count(b"[") + brackets.count(b"{")
        self._nest(brackets[: 2 * MAX_CONTAINERS])
        for n, most, what in (
            (self._n_quotes // 2, MAX_TEXTS, "keys and texts"),
            (self._n_containers, MAX_CONTAINERS, "objects and arrays"),
            (self._n_commas, MAX_VALUES, "values"),
        ):
            if n > most:
                raise InvalidRequest(f"The body has over {most} {what}.", code="json_too_large")

    def _nest(self, brackets: bytes) -> None:
        for bracket in brackets:
            self._depth += 1 if bracket in _OPENING else -1
            if self._depth > MAX_DEPTH:
                raise InvalidRequest(
                    f"The body is nested deeper than {MAX_DEPTH} levels.", code="json_too_deep"
                )
