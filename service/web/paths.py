"""
Which route a path means.

Clients glue base URLs and paths together: slashes double, one is left at the end, the version is missing
where the base URL was given without it, or stands there twice. All of these are the one route.
"""

from __future__ import annotations

import re

_SLASHES = re.compile(r"/{2,}")
# Where a route below /v1 begins; a test holds it against the routes.
_VERSIONED = re.compile(
    r"(?:/v1)*(?=/(?:chat|completions|responses|messages|models|tokenize|detokenize|estimate"
    r"|embeddings|rerank|score)(?:/|$))"
)


def canonical(path: str) -> str:
    """Return the path of the route that *path* means; one that means none comes back as tidy as it can be."""
    path = _SLASHES.sub("/", path).rstrip("/") or "/"
    return _VERSIONED.sub("/v1", path, count=1) if _VERSIONED.match(path) else path
