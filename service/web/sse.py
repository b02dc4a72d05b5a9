"""
Server-sent events: JSON chunks on a response that stays open.

OpenAI's chats and completions end in `data: [DONE]` exactly once; if something broke, an event with the
error comes before it. Other interfaces name their events and have no such end. While nothing comes,
comments keep the connection awake.
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
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def event(body: dict[str, Any]) -> bytes:
    """Return *body* as one event; JSON holds no raw line break, so one `data` line is all it takes."""
    return b"data: " + _encoder.encode(body) + b"\n\n"


def named_event(body: dict[str, Any]) -> bytes:
    """Return *body* as an event that is named after its `type`."""
    name: str = body["type"]
    return b"event: " + name.encode() + b"\n" + event(body)


async def stream(
    chunks: AsyncIterator[dict[str, Any] | None],
    note_broken: Callable[[str], None],
    *,
    encode: Callable[[dict[str, Any]], bytes] = event,
    explain: Callable[[ServiceError], dict[str, Any]] = envelope,
    end: bytes = DONE,
) -> AsyncIterator[bytes]:
    """
    Yield *chunks* as events, None as a comment; what they raise becomes the last event.

    Args:
        chunks: bodies to send; they may raise, a ServiceError if all is well with us.
        note_broken: told the code of an error, since the status was sent long before it.
        encode: makes an event of a body.
        explain: makes a body of an error.
        end: sent at the very end, whatever came before.
    """
    try:
        async for chunk in chunks:
            yield _PING if chunk is None else encode(chunk)
    except ServiceError as error:
        _log.warning("The stream ends with an error: %s", error.code)
        note_broken(error.code)
        yield encode(explain(error))
    except Exception:
        _log.exception("The stream broke")
        bug = InternalError("The server failed on this request.")
        note_broken(bug.code)
        yield encode(explain(bug))
    if end:
        yield end
