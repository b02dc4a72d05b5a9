"""Which web pages may read answers: the headers by which browsers decide (CORS, in the Fetch standard)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Headers = list[tuple[bytes, bytes]]

_METHODS = b"GET, HEAD, POST, DELETE"
_EXPOSED = b", ".join((
    b"X-Request-ID", b"X-Process-Time", b"X-Ignored-Fields", b"Retry-After",
    b"Traceparent",
    b"X-RateLimit-Limit-Requests", b"X-RateLimit-Remaining-Requests", b"X-RateLimit-Reset-Requests",
    b"X-RateLimit-Limit-Tokens", b"X-RateLimit-Remaining-Tokens", b"X-RateLimit-Reset-Tokens",
))  # fmt: skip
_MAX_AGE_S = b"600"  # browsers ask again after as long; taste


class Cors:
    """
    The pages that may read answers.

    Args:
        origins: where they come from, in lower case; `*` for anywhere, none for nobody.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origin.encode("latin-1", "replace") for origin in origins)

    def headers(self, scope: Mapping[str, Any]) -> Headers:
        """Return what every answer to a request carries, so that its page may read it."""
        if not self._origins:
            return []
        varies = (b"vary", b"Origin")  # whoever keeps answers must not mix those of two pages
        origin = _header(scope, b"origin")
        if not self._is_allowed(origin):
            return [varies]
        return [
            varies,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, scope: Mapping[str, Any]) -> Headers | None:
        """Return the answer to a browser that asks beforehand, without a key; None: it does not ask."""
        if scope["method"] != "OPTIONS" or not _header(scope, b"access-control-request-method"):
            return None
        if not self._is_allowed(_header(scope, b"origin")):
            return None
        wanted = _header(scope, b"access-control-request-headers")
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def _is_allowed(self, origin: bytes) -> bool:
        return bool(origin) and (b"*" in self._origins or origin.lower() in self._origins)


def _header(scope: Mapping[str, Any], name: bytes) -> bytes:
    """Return the value of a header; empty if there is none."""
    return next((value for key, value in scope["headers"] if key.lower() == name), b"")
