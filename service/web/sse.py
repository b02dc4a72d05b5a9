"""
Server-sent events: JSON chunks on a response that stays open.

A stream ends in `data: [DONE]` exactly once; if something broke, an event with the error envelope comes
before it. While nothing comes, comments keep the connection awake.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from service.errors import InternalError, ServiceError
from service.openai.errors import envelope

_log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
PING_S = 10.0
_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def event(body: dict[str, Any]) -> bytes:
    """Return *body* as one event; JSON holds no raw line break, so one `data` line is all it takes."""
    return b"data: " + _encoder.encode(body) + b"\n\n"


async def stream(
    chunks: AsyncIterator[dict[str, Any] | None], note_broken: Callable[[str], None]
) -> AsyncIterator[bytes]:
    """
    Yield *chunks* as events, None as a comment; what they raise becomes the last event.

    Args:
        chunks: bodies to send; they may raise, a ServiceError if all is well with us.
        note_broken: told the code of an error, since the status was sent long before it.
    """
    try:
        async for chunk in chunks:
            yield _PING if chunk is None else event(chunk)
    except ServiceError as error:
        _log.warning("The stream ends with an error: %s", error.code)
        note_broken(error.code)
        yield event(envelope(error))
    except Exception:
        _log.exception("The stream broke")
        bug = InternalError("The server failed on this request.")
        note_broken(bug.code)
        yield event(envelope(bug))
    yield _DONE
