"""Messages of Anthropic's, whole and as a stream of named events."""

from collections.abc import Collection
from typing import Any

from conformance import sse
from conformance.client import Exchange, read_json
from conformance.openai_shapes import first, is_count
from conformance.shapes.choices import mapping, mappings, text

STOP_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal")
START, ENDING, STOP = "message_start", "message_delta", "message_stop"
OPENED, DELTA, CLOSED = "content_block_start", "content_block_delta", "content_block_stop"
PASSED_OVER = {"ping"}
PIECES = {"text_delta": "text", "input_json_delta": "partial_json"}
KINDS = {400: "invalid_request_error", 404: "not_found_error"}


def usage_problem(usage: object) -> str:
    """Look for the two counts."""
    counts = mapping(usage)
    names = ("input_tokens", "output_tokens")
    return first(*((not is_count(counts.get(name)), f"usage.{name} is no count") for name in names))


def message_problem(body: dict[str, Any]) -> str:
    """Look for a message that has come to its end."""
    blocks = body.get("content")
    problem = usage_problem(body.get("usage"))
    texts = [block for block in mappings(blocks) if block.get("type") == "text"]
    return first(
        (body.get("type") != "message", 'type is not "message"'),
        (not text(body.get("id")), "id is not text"),
        (body.get("role") != "assistant", 'role is not "assistant"'),
        (not text(body.get("model")), "model is not text"),
        (not isinstance(blocks, list), "content is not a list"),
        (len(mappings(blocks)) != len(blocks or []), "a block is not an object"),
        (any(not text(block.get("type")) for block in mappings(blocks)), "a block without a type"),
        (any(not isinstance(block.get("text"), str) for block in texts), "a text without text"),
        (body.get("stop_reason") not in STOP_REASONS, f"stop_reason {body.get('stop_reason')!r}"),
        ("stop_sequence" not in body, "no stop_sequence"),
        (bool(problem), problem),
    )


def events_of(answer: Exchange) -> list[dict[str, Any]]:
    """Return a stream's events without pings; what isn't a JSON object becomes an empty one."""
    found = [mapping(read_json(event.data)) for event in sse.events_of(answer.body)]
    return [event for event in found if event.get("type") not in PASSED_OVER]


def message_of(answer: Exchange) -> dict[str, Any]:
    """Return the message, put together as clients do it where it was streamed."""
    if answer.status != 200:
        return {}
    if answer.media_type != "text/event-stream":
        return answer.fields()
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for event in events_of(answer):
        at = event.get("index")
        if event.get("type") == START:
            message = dict(mapping(event.get("message")))
        elif event.get("type") == OPENED and is_count(at):
            blocks[at] = {**mapping(event.get("content_block")), "pieces": ""}
        elif event.get("type") == DELTA and is_count(at) and at in blocks:
            blocks[at]["pieces"] += piece_of(event)
        elif event.get("type") == ENDING:
            usage = mapping(message.get("usage")) | mapping(event.get("usage"))
            message |= mapping(event.get("delta")) | {"usage": usage}
    return message | {"content": [closed(blocks[at]) for at in sorted(blocks)]}


def piece_of(event: dict[str, Any]) -> str:
    """Return what a delta adds to its block."""
    delta = mapping(event.get("delta"))
    return text(delta.get(PIECES.get(text(delta.get("type")), "")))


def closed(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block with its pieces put in their place."""
    pieces = block.pop("pieces")
    if block.get("type") == "tool_use":
        return block | {"input": read_json(pieces or "{}")}
    return block | {"text": text(block.get("text")) + pieces}


def text_of(answer: Exchange) -> str:
    """Return what a message says."""
    return "".join(text(block.get("text")) for block in mappings(message_of(answer).get("content")))


def uses_of(answer: Exchange) -> list[dict[str, Any]]:
    """Return the blocks that use a tool."""
    blocks = mappings(message_of(answer).get("content"))
    return [block for block in blocks if block.get("type") == "tool_use"]


def uses_problem(answer: Exchange, names: Collection[str]) -> str:
    """Look for uses of tools called *names*, each with id and input, and for the end they make."""
    uses, reason = uses_of(answer), message_of(answer).get("stop_reason")
    strangers = [each.get("name") for each in uses if each.get("name") not in list(names)]
    return first(
        (answer.status != 200, f"status {answer.status}"),
        (not uses, "no block of tool_use"),
        (any(not text(each.get("id")) for each in uses), "a tool_use without an id"),
        (bool(strangers), f"a use of {strangers}"),
        (any(not isinstance(each.get("input"), dict) for each in uses), "an input is no object"),
        (reason != "tool_use", f"stop_reason {reason!r}"),
    )


def framing_problem(answer: Exchange) -> str:
    """Look for events that are named as their data says."""
    named = sse.events_of(answer.body)
    events = [mapping(read_json(event.data)) for event in named]
    return first(
        (answer.status != 200, f"status {answer.status}"),
        (answer.media_type != "text/event-stream", "content type is not text/event-stream"),
        (not all(events), "an event's data is not a JSON object"),
        (
            any(name != each.get("type") for (name, _), each in zip(named, events, strict=True)),
            "an event isn't named as its data's type",
        ),
    )


def order_problem(answer: Exchange) -> str:
    """Look for one block after the other between the message's start and end, each well closed."""
    events = events_of(answer)
    types = [event.get("type") for event in events]
    end = types.index(ENDING) if ENDING in types else len(types)
    if types[:1] != [START] or types[-1:] != [STOP] or set(types[end:-1]) != {ENDING}:
        return f"the events are {', '.join(str(each) for each in dict.fromkeys(types))}"
    is_open, at = False, -1
    for event in events[1:end]:
        kind = event.get("type")
        at += kind == OPENED
        if event.get("index") != at or (kind == OPENED) == is_open:
            return (
                f"{kind} of block {event.get('index')}, {at} is {'open' if is_open else 'closed'}"
            )
        is_open = kind != CLOSED
    return first((is_open, "the last block isn't closed"), (at < 0, "no block"))


def ending_problem(answer: Exchange) -> str:
    """Look for a message that is empty at first, and whole when its events are put together."""
    opening = mapping((events_of(answer) or [{}])[0].get("message"))
    problem = usage_problem(opening.get("usage")) or message_problem(message_of(answer))
    return first(
        (opening.get("content") != [], f"{START} has content {opening.get('content')}"),
        (opening.get("stop_reason") is not None, f"{START} has a stop_reason"),
        (bool(problem), problem),
    )


def error_problem(answer: Exchange, status: int) -> str:
    """Look for a status and Anthropic's envelope of its error."""
    error = mapping(answer.fields().get("error"))
    return first(
        (answer.status != status, f"status {answer.status}, expected {status}"),
        (answer.media_type != "application/json", "content type is not application/json"),
        (answer.fields().get("type") != "error", 'type is not "error"'),
        (error.get("type") != KINDS[status], f"error.type {error.get('type')!r}"),
        (not text(error.get("message")), "error.message is not text"),
    )
