"""OpenAI's error envelope."""

from __future__ import annotations

from typing import Any

from service.errors import ServiceError


def envelope(error: ServiceError) -> dict[str, Any]:
    """Return the one body that every error has, in a response or as the last event of a stream."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
