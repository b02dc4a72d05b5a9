"""
A response on its way out: deltas into items, and the events that tell of them.

    response.created, response.in_progress
    for each item                               response.output_item.added
        a message or thoughts:                      response.content_part.added
                                                    response.output_text.delta ...     or reasoning_text
                                                    response.output_text.done
                                                    response.content_part.done
        a call:                                     response.function_call_arguments.delta, .done
        a call of a custom tool:                    response.custom_tool_call_input.delta, .done
                                                response.output_item.done
    response.completed, response.incomplete or response.failed

Events are numbered from 0. A response that isn't streamed goes the same way and leaves its events unsaid.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.errors import ServiceError
from service.openai import custom_tools, logprobs
from service.openai.response_items import Item, new_id
from service.openai.responses import ResponseRequest
from service.openai.usage import Usage
from service.protocol import Delta, TokenLogprob, ToolCall

Event = dict[str, Any]
# How the text of an item came: for each piece its characters, and its tokens where they were told.
Pieces = list[tuple[int, int]]
Status = Literal["in_progress", "completed", "incomplete", "cancelled", "failed"]

# A cut answer is told as such, whoever cut it: there is no event of its own for one that was cancelled.
_LAST_EVENTS: dict[Status, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}
_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}
# What an item that has only begun has, by its type.
_EMPTY: dict[str, Item] = {
    "message": {"status": "in_progress", "content": []},
    "reasoning": {"status": "in_progress", "content": []},
    "function_call": {"status": "in_progress", "arguments": ""},
    "custom_tool_call": {"status": "in_progress", "input": ""},
}


@dataclass(slots=True)
class _Draft:
    """An item that is being written, its text piece by piece. Its kind is message or reasoning."""

    kind: str
    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self) -> Item:
        text = "".join(self.pieces)
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": list(self.logprobs),
        }

    def item(self, status: str, content: list[Item]) -> Item:
        own: Item = {"role": "assistant"} if self.kind == "message" else {"summary": []}
        return {"type": self.kind, "id": self.id, "status": status, "content": content} | own


def _new_id() -> str:
    return f"resp_{secrets.token_hex(12)}"


@dataclass(slots=True)
class ResponseAnswer:
    """
    One response, as far as it has come.

    Attributes:
        model: id of the model that answers.
        asked: the request.
        usage: what is counted, and brought up to date as deltas come by.
        status: `in_progress` until it has ended, by whatever way.
        output: its items so far; one that is being written is replaced when it is done.
    """

    model: str
    asked: ResponseRequest
    usage: Usage = field(default_factory=lambda: Usage(0))
    id: str = field(default_factory=_new_id)
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: Status = "in_progress"
    output: list[Item] = field(default_factory=list)
    _completed_at: int | None = None
    _error: dict[str, str] | None = None
    _draft: _Draft | None = None
    _pieces: list[Pieces] = field(default_factory=list)
    _textless: list[TokenLogprob] = field(default_factory=list)
    _n_events: int = 0

    def body(self) -> dict[str, Any]:
        """Return the response itself, with what is said already of an item that is being written."""
        output, draft = list(self.output), self._draft
        if draft is not None:
            output[-1] = draft.item("in_progress", [draft.part()])
        is_cut = self.status == "incomplete"
        found = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": self._completed_at,
            "status": self.status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self.model,
            "output": output,
            "usage": None,
        } | self.asked.settings
        if self.status != "in_progress":
            found |= {"usage": self._counts(), "timings": self.usage.timings()}
        return found

    @property
    def pieces(self) -> list[Pieces]:
        """For each item of the output, how its text came; a call comes whole."""
        return self._pieces

    def opening(self) -> list[Event]:
        """Return the events that come before anything is said."""
        return [self._whole("response.created"), self._whole("response.in_progress")]

    def add(self, delta: Delta) -> list[Event]:
        """Take what was said next; return the events that tell of it."""
        self.usage.add(0, delta)
        return list(self._said(delta))

    def end(self, status: Status) -> list[Event]:
        """End the response, whatever is being written; return the events that tell of it."""
        events = list(self._close("completed" if status == "completed" else "incomplete"))
        self.status = status
        self._completed_at = int(time.time()) if status == "completed" else None
        return [*events, self._whole(_LAST_EVENTS[status])]

    def trouble(self, error: ServiceError) -> Event:
        """Return the event at which clients raise *error*; what it did to the response comes after."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def failed(self, error: ServiceError) -> Event:
        """End the response with *error*, in the words that responses have; return the last event."""
        self._error = {"code": "server_error", "message": error.message}
        return self.end("failed")[-1]

    def _said(self, delta: Delta) -> Iterator[Event]:
        self._textless += delta.logprobs
        if delta.reasoning:
            yield from self._write("reasoning", delta.reasoning)
        if delta.text:
            yield from self._write("message", delta.text)
        for call in delta.tool_calls:
            yield from self._call(call)
        if delta.finish_reason is None:
            return
        if delta.finish_reason == "length":
            yield from self.end("incomplete")
            return
        if all(item["type"] == "reasoning" for item in self.output):  # it chose to say nothing
            yield from self._write("message", "")
        yield from self.end("completed")

    def _write(self, kind: str, text: str) -> Iterator[Event]:
        """Add *text* to the item of *kind* that is being written; begin one if none is."""
        draft = self._draft
        if draft is None or draft.kind != kind:
            yield from self._close("completed")
            draft = self._draft = _Draft(kind, new_id(kind))
            yield self._begin(draft.item("in_progress", []))
            yield self._part_event("response.content_part.added", draft, part=draft.part())
        draft.pieces.append(text)
        found: dict[str, Any] = {}
        if kind == "message":
            found["logprobs"] = self._take_logprobs()
            draft.logprobs += found["logprobs"]
        self._pieces[-1].append((len(text), len(found.get("logprobs", ()))))
        yield self._part_event(f"response.{_PARTS[kind]}.delta", draft, delta=text, **found)

    def _close(self, status: str) -> Iterator[Event]:
        """End the item that is being written, if any."""
        draft, self._draft = self._draft, None
        if draft is None:
            return
        found = {}
        if draft.kind == "message":
            draft.logprobs += self._take_logprobs()
            found["logprobs"] = draft.logprobs
        part = draft.part()
        done = f"response.{_PARTS[draft.kind]}.done"
        yield self._part_event(done, draft, text=part["text"], **found)
        yield self._part_event("response.content_part.done", draft, part=part)
        yield self._finish(draft.item(status, [part]))

    def _call(self, call: ToolCall) -> Iterator[Event]:
        yield from self._close("completed")
        self._textless.clear()
        tool = self.asked.tools.get(call.name)
        name = call.name if tool is None else tool.name
        item: Item = {"status": "in_progress", "call_id": call.id, "name": name}
        if tool is not None and tool.namespace is not None:
            item["namespace"] = tool.namespace
        named: dict[str, str] = {"name": name}
        kind, place, said = "function_call", "arguments", call.arguments
        event = "response.function_call_arguments"
        if tool is not None and tool.is_custom:
            kind, place, said = "custom_tool_call", "input", custom_tools.text_in(call.arguments)
            event, named = "response.custom_tool_call_input", {}
        item |= {"type": kind, "id": new_id(kind), place: ""}
        yield self._begin(item)
        where = self._place(item["id"])
        yield self._event(f"{event}.delta", **where, delta=said)
        yield self._event(f"{event}.done", **where, **named, **{place: said})
        status = "incomplete" if call.is_cut else "completed"
        yield self._finish(item | {"status": status, place: said})

    def _begin(self, item: Item) -> Event:
        self.output.append(item)
        self._pieces.append([])
        return self._item_event("response.output_item.added")

    def _finish(self, item: Item) -> Event:
        self.output[-1] = item
        return self._item_event("response.output_item.done")

    def _take_logprobs(self) -> list[dict[str, Any]]:
        """Return the tokens since the last text; one that is part of a character waits for the rest."""
        found = [logprobs.entry(each) for each in self._textless]
        self._textless.clear()
        return found

    def _counts(self) -> dict[str, Any]:
        """Return the counts as responses name them. What was written to a cache is not counted here."""
        n_input, n_output = self.usage.n_prompt_tokens, self.usage.n_completion_tokens
        n_cached = self.usage.n_cached_tokens
        return {
            "input_tokens": n_input,
            "input_tokens_details": {"cached_tokens": n_cached, "cache_write_tokens": 0},
            "output_tokens": n_output,
            "output_tokens_details": {"reasoning_tokens": self.usage.n_reasoning_tokens},
            "total_tokens": n_input + n_output,
        }

    def _whole(self, kind: str) -> Event:
        return self._event(kind, response=self.body())

    def _item_event(self, kind: str) -> Event:
        return self._event(kind, output_index=len(self.output) - 1, item=self.output[-1])

    def _part_event(self, kind: str, draft: _Draft, **fields: Any) -> Event:
        return self._event(kind, **self._place(draft.id), content_index=0, **fields)

    def _place(self, item_id: str) -> dict[str, Any]:
        return {"item_id": item_id, "output_index": len(self.output) - 1}

    def _event(self, kind: str, **fields: Any) -> Event:
        self._n_events += 1
        return {"type": kind, "sequence_number": self._n_events - 1, **fields}


def replay(body: dict[str, Any], pieces: Sequence[Pieces]) -> Iterator[Event]:
    """
    Yield the events of a response that has ended, with the numbers that they had.

    Args:
        body: the response.
        pieces: how the text of each of its items came.
    """
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> Event:
        return {"type": kind, "sequence_number": next(numbers), **fields}

    unsaid = {"completed_at": None, "error": None, "incomplete_details": None, "usage": None}
    begun = {name: value for name, value in body.items() if name != "timings"}
    begun |= unsaid | {"status": "in_progress", "output": []}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, (item, its_pieces) in enumerate(zip(body["output"], pieces, strict=True)):
        for kind, fields in _retold(item, its_pieces):
            place = {} if "item" in fields else {"item_id": item["id"]}
            yield event(kind, **place, output_index=index, **fields)
    yield event(_LAST_EVENTS[body["status"]], response=body)


def _retold(item: Item, pieces: Pieces) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of one item, by type, without its place."""
    yield "response.output_item.added", {"item": item | _EMPTY[item["type"]]}
    if item["type"] in _PARTS:
        yield from _retold_part(item["type"], item["content"][0], pieces)
    elif item["type"] == "custom_tool_call":
        yield "response.custom_tool_call_input.delta", {"delta": item["input"]}
        yield "response.custom_tool_call_input.done", {"input": item["input"]}
    else:
        said = {"name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.delta", {"delta": item["arguments"]}
        yield "response.function_call_arguments.done", said
    yield "response.output_item.done", {"item": item}


def _retold_part(kind: str, part: Item, pieces: Pieces) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of the one part that an item of *kind* has."""
    place = {"content_index": 0}
    text, tokens = part["text"], part.get("logprobs", [])

    def told(some: list[Item]) -> dict[str, Any]:
        return {"logprobs": some} if kind == "message" else {}

    yield "response.content_part.added", {**place, "part": part | {"text": "", **told([])}}
    for n_characters, n_tokens in pieces:
        said = {"delta": text[:n_characters], **told(tokens[:n_tokens])}
        yield f"response.{_PARTS[kind]}.delta", place | said
        text, tokens = text[n_characters:], tokens[n_tokens:]
    whole = {"text": part["text"], **told(part.get("logprobs", []))}
    yield f"response.{_PARTS[kind]}.done", place | whole
    yield "response.content_part.done", {**place, "part": part}
