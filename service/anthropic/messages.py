"""
`POST /v1/messages`: the body into a job.

Pure translation, as in `openai/`, whose `request_fields` it shares. A message is a list of blocks here, which
become turns: the result of a tool is a turn of its own, and what then follows in the same role is one turn.
An assistant's message at the end is an answer that was begun, and is gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import request_fields
from service.openai.chat import MAX_MESSAGES
from service.openai.images import Images, source_of
from service.protocol import Chat, Job, ModelCard, Sampling, Tool, ToolCall, Turn

# Documented fields that are not implemented, with the values at which they change nothing.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "compaction": (),
    "container": (),
    "mcp_servers": ([],),
    "output_format": (),
    "thread": (),
}
# An edit of the context that changes nothing: chat templates leave out thoughts of earlier turns anyway.
HARMLESS_EDITS = frozenset({"clear_thinking_20251015"})
BETWEEN = "\n\n"  # of two blocks
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_FORM = "output_config.format.schema"


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """
    What a request for a message asks for.

    Attributes:
        job: the one answer.
        priority: its turn in the queue; smaller is earlier.
        is_stream: answer as server-sent events.
        ignored: its fields that change nothing of the answer.
    """

    job: Job
    priority: int
    is_stream: bool
    ignored: tuple[str, ...] = ()


def parse(body: Mapping[str, Any], card: ModelCard) -> MessageRequest:
    """
    Read *body*, which has passed the contract `messages-request`, for the model of *card*.

    Raises:
        UnsupportedParameter: as `prompt`; or a field that is not implemented would change the answer.
        InvalidRequest: as `prompt`, or its form can't be.
    """
    request_fields.refuse(body, NOT_IMPLEMENTED)
    for i, edit in enumerate((body.get("context_management") or {}).get("edits") or ()):
        if edit["type"] not in HARMLESS_EDITS:
            raise UnsupportedParameter(
                "This edit of the context is not supported by this server.",
                param=f"context_management.edits.{i}.type",
            )
    read = prompt(body, card)
    if read.turns[-1].tool_calls:
        raise InvalidRequest("The last calls have no results yet.", param="messages")
    _, must_call = request_fields.chosen(_choice(body), read.tools)
    form = (body.get("output_config") or {}).get("format")
    job = Job(
        prompt=read,
        sampling=Sampling(
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            top_k=request_fields.limit(body.get("top_k")),
        ),
        max_tokens=request_fields.whole(body["max_tokens"]),
        stop=request_fields.stops(body, "stop_sequences"),
        constraint=None
        if form is None
        else request_fields.schema_constraint(form["schema"], _FORM),
        must_call=must_call,
        parallel_tool_calls=not (body.get("tool_choice") or {}).get("disable_parallel_tool_use"),
    )
    return MessageRequest(
        job,
        request_fields.priority(body),
        is_stream=bool(body.get("stream")),
        ignored=(
            *_ignored_thinking(body, card),
            *request_fields.ignored_effort("output_config.effort", _effort(body), card),
        ),
    )


def prompt(body: Mapping[str, Any], card: ModelCard) -> Chat:
    """
    Return what the model of *card* is to read; *body* has passed `message-tokens-request` at least.

    Raises:
        UnsupportedParameter: it asks a model that can't for tools, or brings a tool that
            the server would have to know.
        InvalidRequest: over MAX_MESSAGES, blocks that this model can't read, two tools of one name, a
            demand for a tool that is not offered, or a schema that can't be.
    """
    offered, _ = request_fields.chosen(_choice(body), _tools(body.get("tools") or ()))
    images = Images(card)
    turns = _turns(body, images)
    switches = {
        "chat_template_kwargs": _switches(body, card),
        "continue_final_message": turns[-1].role == "assistant" and not turns[-1].tool_calls,
    }
    return request_fields.chat(turns, offered, switches, card, images)


def _choice(body: Mapping[str, Any]) -> str:
    """Return which tools may or must be called, in the words of `request_fields`."""
    choice = body.get("tool_choice") or {"type": "auto"}
    return f":{choice['name']}" if choice["type"] == "tool" else _CHOICES[choice["type"]]


def _tools(given: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    return request_fields.distinct([_tool(tool, f"tools.{i}") for i, tool in enumerate(given)])


def _tool(given: Mapping[str, Any], where: str) -> Tool:
    if given.get("type") not in {None, "custom"}:
        raise UnsupportedParameter(
            "Tools that the server itself would know are not supported.", param=f"{where}.type"
        )
    schema = given["input_schema"]
    if given.get("input_examples"):  # for these, too, JSON Schema has a place
        schema = schema | {"examples": given["input_examples"]}
    return Tool(
        name=given["name"],
        description=given.get("description"),
        parameters=request_fields.checked_schema(schema, f"{where}.input_schema"),
        strict=bool(given.get("strict")),
    )


def _switches(body: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """Return what the chat template is told of thinking; `adaptive` leaves it to the model."""
    found: dict[str, Any] = {}
    kind, effort = (body.get("thinking") or {}).get("type"), _effort(body)
    if kind == "disabled" or (kind == "enabled" and card.knows_thinking):
        found["enable_thinking"] = kind == "enabled"
    if effort is not None and card.knows_thinking:
        found["reasoning_effort"] = effort
    return found


def _ignored_thinking(body: Mapping[str, Any], card: ModelCard) -> tuple[str, ...]:
    """Return the name of the wish that the model think, if it can't: its answer is the same without."""
    is_wanted = (body.get("thinking") or {}).get("type") == "enabled"
    return ("thinking",) if is_wanted and not card.knows_thinking else ()


def _effort(body: Mapping[str, Any]) -> str | None:
    effort: str | None = (body.get("output_config") or {}).get("effort")
    return effort


def _turns(body: Mapping[str, Any], images: Images) -> tuple[Turn, ...]:
    """Return the system's text and all messages as turns, adjoining ones of the same role as one."""
    if len(body["messages"]) > MAX_MESSAGES:
        raise InvalidRequest(f"There are over {MAX_MESSAGES} messages.", param="messages")
    system = _text(body.get("system") or (), "system")
    found = [Turn("system", system)] if system else []
    for i, message in enumerate(body["messages"]):
        where = f"messages.{i}.content"
        for turn in _message(message["role"], message["content"], where, images):
            last = found[-1] if found else None
            if last is not None and last.role == turn.role != "tool":
                found[-1] = replace(
                    last,
                    content=images.joined(last.content, turn.content, BETWEEN)
                    if last.content and turn.content
                    else turn.content or last.content,
                    tool_calls=last.tool_calls + turn.tool_calls,
                    reasoning=_joined(filter(None, (last.reasoning, turn.reasoning))) or None,
                )
            else:
                found.append(turn)
    if not found:
        raise InvalidRequest("Nothing in the messages is for the model to read.", param="messages")
    return tuple(found)


def _message(
    role: str, content: str | Sequence[Mapping[str, Any]], where: str, images: Images
) -> Iterator[Turn]:
    """Yield a turn for each block that the model reads."""
    if isinstance(content, str):
        yield Turn(role, content)
        return
    for k, block in enumerate(content):
        match role, block["type"]:
            case _, "text":
                yield Turn(role, block["text"])
            case "user", "image":
                yield Turn(role, _image(block, f"{where}.{k}", images))
            case "assistant", "thinking":
                yield Turn(role, reasoning=block.get("thinking"))
            case "assistant", "redacted_thinking":
                pass
            case "assistant", "tool_use":
                call = ToolCall(block["id"], block["name"], json.dumps(block["input"]))
                yield Turn(role, tool_calls=(call,))
            case "user", "tool_result":
                text = _text(block.get("content") or (), f"{where}.{k}.content", images)
                text = f"Error: {text}" if block.get("is_error") else text
                yield Turn("tool", text, tool_call_id=block["tool_use_id"])
            case _:
                raise _unreadable(block["type"], f"{where}.{k}.type")


def _image(block: Mapping[str, Any], where: str, images: Images) -> str:
    """Return what stands for the image of *block* in a turn's content."""
    if not images.are_taken:
        raise _unreadable("image", f"{where}.type")
    kind, given = source_of(block)
    add = images.add_base64 if kind == "base64" else images.add
    return add(given, f"{where}.source")


def _text(
    content: str | Sequence[Mapping[str, Any]], where: str, images: Images | None = None
) -> str:
    """Return *content* as one text, with *images* in it where any can stand."""
    if isinstance(content, str):
        return content
    found = ""
    for k, block in enumerate(content):
        if block["type"] == "text":
            text = block["text"]
        elif block["type"] == "image" and images is not None:
            text = _image(block, f"{where}.{k}", images)
        else:
            raise _unreadable(block["type"], f"{where}.{k}.type")
        between = BETWEEN if k else ""
        found = images.joined(found, text, between) if images else found + between + text
    return found


def _joined(texts: Iterable[str]) -> str:
    """Return *texts* as one; blocks are paragraphs, and their borders must not be lost."""
    return BETWEEN.join(texts)


def _unreadable(kind: str, where: str) -> InvalidRequest:
    """Return the refusal of a block; the contract has seen to it that its kind is a known word."""
    return InvalidRequest(
        f"This model can't read a block of the type {kind} here.",
        param=where,
        code="unsupported_content",
    )
