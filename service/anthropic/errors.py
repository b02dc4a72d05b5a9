"""Anthropic's error envelope."""

from __future__ import annotations

from typing import Any

from service.errors import PromptTooLong, ServiceError

# What the status alone tells; the others are told apart by whose fault they are.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def envelope(error: ServiceError, request_id: str | None) -> dict[str, Any]:
    """
    Return the body of an error, which is its event as well; `param` and `code` are our own addition.

    Args:
        error: what went wrong.
        request_id: of the request that it went wrong with; None: outside of any.
    """
    ours_or_theirs = "api_error" if error.status >= 500 else "invalid_request_error"
    message = error.message
    if isinstance(
        error, PromptTooLong
    ):  # in Anthropic's own words, which agents read the numbers from
        message = f"prompt is too long: {error.n_tokens} tokens > {error.max_tokens} maximum"
    return {
        "type": "error",
        "error": {
            "type": _TYPES.get(error.status, ours_or_theirs),
            "message": message,
            "param": error.param,
            "code": error.code,
        },
        "request_id": request_id,
    }
