"""A request's bytes into decoded JSON, strictly."""

from __future__ import annotations

from typing import Any

import msgspec

from service.errors import InvalidRequest

MAX_DEPTH = 64
MAX_STRINGS = 100_000

_decoder = msgspec.json.Decoder()


def decode(raw: bytes) -> dict[str, Any]:
    """
    Return the object in *raw*.

    Raises:
        InvalidRequest: it is no strict JSON (`invalid_json`), nested too deep (`json_too_deep`), has so
            many keys that others would wait for it (`json_too_large`), or is not an object
            (`invalid_type`).
    """
    # Every key and every text begins with a quote that no backslash stands before.
    if raw.count(b'"') - raw.count(b'\\"') > 2 * MAX_STRINGS:
        raise InvalidRequest(
            f"The body has over {MAX_STRINGS} keys and texts.", code="json_too_large"
        )
    try:
        body = _decoder.decode(raw)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Of the decoder's own words only the place is repeated, never a value.
        raise InvalidRequest(
            f"The body is no valid JSON: {error}"[:200], code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_type")
    if _is_deeper(body, MAX_DEPTH):
        raise _too_deep()
    return body


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The body is nested deeper than {MAX_DEPTH} levels.", code="json_too_deep"
    )


def _is_deeper(body: Any, limit: int) -> bool:
    """Tell whether *body* nests deeper than *limit* levels of objects and arrays, level by level."""
    level = [body]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
