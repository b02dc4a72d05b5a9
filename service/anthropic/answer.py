"""
The answer to `POST /v1/messages`: deltas into events or one message.

A message is a list of blocks. In a stream each is begun, filled and ended by events of its own, in the
order in which the model makes them; only one is open at a time.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from service.openai.usage import Usage
from service.protocol import Delta, FinishReason

PING = {"type": "ping"}
_STOP_REASONS: dict[FinishReason | None, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


@dataclass(slots=True)
class MessageAnswer:
    """
    One answer on its way out, whole or as events.

    Attributes:
        model: id of the model that answers.
        usage: what is counted, and brought up to date by the last delta.
    """

    model: str
    usage: Usage
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    _index: int = -1
    _kind: str | None = None

    def message(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Return the whole answer as one body; *deltas* are all of them."""
        content: list[dict[str, Any]] = []
        blocks = (block for delta in deltas for block in _blocks(delta))
        for kind, alike in groupby(blocks, key=itemgetter("type")):
            if kind == "tool_use":
                content += alike
            else:
                content.append(_block(kind, "".join(block[kind] for block in alike)))
        self.usage.add(0, deltas[-1])
        return self._head() | {"content": content} | _ending(deltas[-1])

    def opening(self) -> dict[str, Any]:
        """Return the first event: the message without anything in it yet."""
        return {"type": "message_start", "message": self._head()}

    def events(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """Yield the events for *delta*; the last delta ends block and message."""
        for block in _blocks(delta):
            if block["type"] == "tool_use" or block["type"] != self._kind:
                yield from self._closed()
                yield self._opened(block)
            added = _addition(block)
            yield {"type": "content_block_delta", "index": self._index, "delta": added}
        if delta.finish_reason is not None:
            yield from self._closed()
            self.usage.add(0, delta)
            yield {"type": "message_delta", "delta": _ending(delta), "usage": self._counts()}
            yield {"type": "message_stop"}

    def _opened(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a block of *block*'s kind with nothing in it."""
        self._index += 1
        self._kind = kind = block["type"]
        empty: dict[str, Any] = {"input": {}} if kind == "tool_use" else {kind: ""}
        begun = {**block, **empty}
        return {"type": "content_block_start", "index": self._index, "content_block": begun}

    def _closed(self) -> Iterator[dict[str, Any]]:
        """End the block that is open, if one is."""
        if self._kind is not None:
            self._kind = None
            yield {"type": "content_block_stop", "index": self._index}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._counts(),
        }

    def _counts(self) -> dict[str, int]:
        """Return the tokens counted so far; what came from a cache is no input here."""
        n_cached_tokens = self.usage.n_cached_tokens
        return {
            "input_tokens": self.usage.n_prompt_tokens - n_cached_tokens,
            "output_tokens": self.usage.n_completion_tokens,
            "cache_read_input_tokens": n_cached_tokens,
            "cache_creation_input_tokens": 0,
        }


def _blocks(delta: Delta) -> Iterator[dict[str, Any]]:
    """Yield what *delta* adds, each piece as a block of its own; a call that was cut has no place here."""
    if delta.reasoning:
        yield _block("thinking", delta.reasoning)
    if delta.text:
        yield _block("text", delta.text)
    for call in delta.tool_calls:
        if call.is_cut:
            continue
        arguments = json.loads(call.arguments)
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _block(kind: str, text: str) -> dict[str, Any]:
    block = {"type": kind, kind: text}
    return block | {"signature": ""} if kind == "thinking" else block


def _addition(block: Mapping[str, Any]) -> dict[str, str]:
    """Return what is in *block* as an addition to an empty one."""
    kind = block["type"]
    if kind == "tool_use":
        arguments = json.dumps(block["input"], ensure_ascii=False)
        return {"type": "input_json_delta", "partial_json": arguments}
    return {"type": f"{kind}_delta", kind: block[kind]}


def _ending(last: Delta) -> dict[str, str | None]:
    """Return why the answer ended, by its last delta."""
    reason = _STOP_REASONS[last.finish_reason]
    if reason == "end_turn" and last.stop_text is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": last.stop_text}
    return {"stop_reason": reason, "stop_sequence": None}
