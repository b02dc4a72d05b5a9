"""
The items of responses, and the turns of a chat that they are.

An item is a message, a call of a tool, the call's output, or thoughts. Those of a request get the
id and the state that they lack, and from then on are like those that a response has put out: they can be
kept, listed and referred to.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import chat, custom_tools
from service.openai.images import Images, unreadable
from service.protocol import ToolCall, Turn

Item = dict[str, Any]

MAX_LISTED = 100
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


class Memory(Protocol):
    """What is kept of earlier responses."""

    def conversation(self, response_id: str) -> list[Item] | None:
        """Return all that led to a response and what it said, oldest first; None: it isn't kept."""

    def item(self, item_id: str) -> Item | None:
        """Return one item of a response's output; None: it isn't kept."""


def new_id(kind: str) -> str:
    """Return an id for an item of type *kind*."""
    return f"{_PREFIXES[kind]}_{secrets.token_hex(12)}"


def known_name(name: str, namespace: str | None) -> str:
    """Return the name under which the model knows a tool of a *namespace*; None: it is in none."""
    return name if namespace is None else f"{namespace}__{name}"


def received(given: str | Sequence[Item], memory: Memory) -> list[Item]:
    """
    Return the items of a request's `input`, whole; a text is the user's message.

    Raises:
        UnsupportedParameter: one is of a type that is not implemented.
        InvalidRequest: one refers to an item that isn't kept.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_whole(item, f"input.{i}", memory) for i, item in enumerate(given)]


def _whole(item: Item, where: str, memory: Memory) -> Item:
    kind = "message" if item.get("type") is None else item["type"]
    if kind == "item_reference":
        found = memory.item(item["id"])
        if found is None:
            raise InvalidRequest(
                "No item of that id is kept.", param=f"{where}.id", code="item_not_found"
            )
        return found
    if kind not in _PREFIXES:
        raise UnsupportedParameter(
            "Items of this type are not supported by this server.", param=f"{where}.type"
        )
    added = {
        "type": kind,
        "id": item.get("id") or new_id(kind),
        "status": item.get("status") or "completed",
    }
    if kind == "message":
        added["content"] = _parts(item)
    return item | added


def _parts(message: Item) -> list[Item]:
    """Return a message's content as parts, with no more of what the model said than its text."""
    content = message["content"]
    if isinstance(content, str):
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return [
        {"type": "output_text", "text": part["text"], "annotations": []}
        if part["type"] == "output_text"
        else part
        for part in content
    ]


def turns(earlier: Sequence[Item], given: Sequence[Item], images: Images) -> tuple[Turn, ...]:
    """
    Return the turns that the items of a conversation are, those of the request last; images to *images*.

    Thoughts belong to what the model says or calls next.

    Raises:
        InvalidRequest: there are too many, none at all, content that is not text, or a call whose
            arguments are no JSON object.
    """
    if len(earlier) + len(given) > chat.MAX_MESSAGES:
        raise InvalidRequest(
            f"There are over {chat.MAX_MESSAGES} items, earlier ones included.", param="input"
        )
    found: list[Turn] = []
    thoughts = ""
    for i, item in enumerate([*earlier, *given], -len(earlier)):
        where = f"input.{i}"
        if item["type"] == "reasoning":
            thoughts += _thoughts(item)
            continue
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            found.append(Turn(role, _text(item["content"], f"{where}.content", images)))
        elif item["type"] in {"function_call", "custom_tool_call"}:
            _add_call(item, where, found, is_new=bool(thoughts))
        elif item["type"] in {"function_call_output", "custom_tool_call_output"}:
            output = _text(item["output"], f"{where}.output", images)
            found.append(Turn("tool", output, tool_call_id=item["call_id"]))
        if thoughts and found[-1].role == "assistant":
            found[-1] = replace(found[-1], reasoning=thoughts)
        thoughts = ""
    if not found:
        raise InvalidRequest("There is nothing to answer.", param="input", code="invalid_prompt")
    return tuple(found)


def _thoughts(item: Item) -> str:
    """Return the thoughts of an item, or their summary where only that is told."""
    return "".join(part.get("text") or "" for part in item.get("content") or item["summary"])


def _add_call(item: Item, where: str, found: list[Turn], *, is_new: bool) -> None:
    """Add a call to the assistant's turn that it belongs to, or to a new one."""
    if item["type"] == "custom_tool_call":
        arguments = custom_tools.arguments_of(item["input"])
    else:
        arguments = chat.arguments(item["arguments"], f"{where}.arguments")
    name = known_name(item["name"], item.get("namespace"))
    call = ToolCall(item["call_id"], name, arguments)
    if is_new or not found or found[-1].role != "assistant":
        found.append(Turn("assistant"))
    found[-1] = replace(found[-1], tool_calls=(*found[-1].tool_calls, call))


def _text(content: str | Sequence[Item], where: str, images: Images) -> str:
    """Return *content* as one text; parts follow each other with nothing between them."""
    if isinstance(content, str):
        return content
    texts = []
    for k, part in enumerate(content):
        match part["type"]:
            case "input_text" | "output_text":
                texts.append(part["text"])
            case "refusal":
                texts.append(part["refusal"])
            case "input_image":
                texts.append(images.add(part.get("image_url"), f"{where}.{k}.image_url"))
            case _:
                raise unreadable(f"{where}.{k}.type")
    return "".join(texts)


def page(found: Sequence[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the part of a list of items that *query* asks for, by `limit`, `order` and `after`.

    Raises:
        InvalidRequest: a limit out of range, an order that is none, an item that isn't there.
    """
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not (limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MAX_LISTED):
        raise InvalidRequest(f"limit must be 1 to {MAX_LISTED}.", param="limit")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("order must be asc or desc.", param="order")
    items = list(found if order == "asc" else reversed(found))
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidRequest(
                "No item of that id is in the list.", param="after", code="item_not_found"
            )
        items = items[ids.index(after) + 1 :]
    shown = items[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(shown) < len(items),
    }
