"""Responses, whole and as a stream of typed events."""

from typing import Any

from conformance import sse
from conformance.client import Exchange, read_json
from conformance.openai_shapes import DONE, first, is_count
from conformance.shapes.choices import mapping, mappings, text

STATUSES = ("completed", "incomplete")
CREATED, DELTA = "response.created", "response.output_text.delta"
ENDS = [f"response.{status}" for status in STATUSES]
ITEM_ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"
TEXT_DONE = "response.output_text.done"
AROUND_TEXT = [ITEM_ADDED, PART_ADDED, DELTA, TEXT_DONE, PART_DONE, ITEM_DONE]


def usage_problem(usage: object) -> str:
    """Look for the three counts, and whether the last is the sum of the others."""
    counts = mapping(usage)
    names = ("input_tokens", "output_tokens", "total_tokens")
    if not all(is_count(counts.get(name)) for name in names):
        return "usage lacks a count"
    n_in, n_out, n_total = (counts[name] for name in names)
    return first((n_in + n_out != n_total, f"total_tokens {n_total}, the parts {n_in + n_out}"))


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the output's messages."""
    return [item for item in mappings(body.get("output")) if item.get("type") == "message"]


def parts_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of all messages."""
    return [part for item in messages_of(body) for part in mappings(item.get("content"))]


def text_of(body: dict[str, Any]) -> str:
    """Return what a response says."""
    return "".join(text(part.get("text")) for part in parts_of(body))


def response_problem(body: dict[str, Any]) -> str:
    """Look for a response that has come to its end, with a message unless it was cut before one."""
    is_whole = body.get("status") == "completed"
    messages, parts = messages_of(body), parts_of(body)
    problem = usage_problem(body.get("usage"))
    return first(
        (body.get("object") != "response", 'object is not "response"'),
        (not text(body.get("id")), "id is not text"),
        (not isinstance(body.get("created_at"), int | float), "created_at is no time"),
        (not text(body.get("model")), "model is not text"),
        (body.get("status") not in STATUSES, f"status {body.get('status')!r}"),
        (body.get("error") is not None, "an error beside an answer"),
        (is_whole and not messages, "no message in output"),
        (any(not text(item.get("id")) for item in messages), "a message's id is not text"),
        (any(item.get("role") != "assistant" for item in messages), "a role is not assistant"),
        (any(item.get("status") not in STATUSES for item in messages), "a message's status"),
        (is_whole and not parts, "a message without content"),
        (any(part.get("type") != "output_text" for part in parts), "a part is not output_text"),
        (any(not isinstance(part.get("text"), str) for part in parts), "a part without text"),
        (
            any(not isinstance(part.get("annotations"), list) for part in parts),
            "a part's annotations are no list",
        ),
        (bool(problem), problem),
    )


def events_of(answer: Exchange) -> list[dict[str, Any]]:
    """Return a stream's events, in order; what isn't a JSON object becomes an empty one."""
    found = [data for data in sse.data_of(answer.body) if data != DONE]
    return [mapping(read_json(data)) for data in found]


def final_of(answer: Exchange) -> dict[str, Any]:
    """Return the response itself, from the last event where it was streamed."""
    if answer.media_type != "text/event-stream":
        return answer.fields()
    return mapping((events_of(answer) or [{}])[-1].get("response"))


def framing_problem(answer: Exchange) -> str:
    """Look for typed events, numbered upwards, from the creation to the end."""
    events = events_of(answer)
    types = [text(event.get("type")) for event in events]
    numbers = [event.get("sequence_number") for event in events]
    counts = [number for number in numbers if is_count(number)]
    return first(
        (answer.status != 200, f"status {answer.status}"),
        (answer.media_type != "text/event-stream", "content type is not text/event-stream"),
        (not all(types), "an event without a type"),
        (types[:1] != [CREATED], f"the first event is not {CREATED}"),
        (not types or types[-1] not in ENDS, "the last event doesn't end the response"),
        (len(counts) < len(events), "an event without sequence_number"),
        (counts != sorted(set(counts)), "the numbers don't grow"),
    )


def order_problem(answer: Exchange) -> str:
    """Look for an item and a part that open before the text and close after it."""
    types = [event.get("type") for event in events_of(answer)]
    missing = [name for name in AROUND_TEXT if name not in types]
    if missing:
        return f"no {missing[0]}"
    opened = [types.index(name) for name in (ITEM_ADDED, PART_ADDED, DELTA)]
    last_delta = len(types) - 1 - types[::-1].index(DELTA)
    closed = [types.index(name) for name in (TEXT_DONE, PART_DONE, ITEM_DONE)]
    is_ordered = opened == sorted(opened) and [last_delta, *closed] == sorted([last_delta, *closed])
    return "" if is_ordered else f"the order is {', '.join(str(each) for each in types)}"


def delta_problem(answer: Exchange) -> str:
    """Look whether the deltas make the text that the last events tell."""
    events = events_of(answer)
    deltas = "".join(text(event.get("delta")) for event in events if event.get("type") == DELTA)
    dones = "".join(text(event.get("text")) for event in events if event.get("type") == TEXT_DONE)
    final = text_of(final_of(answer))
    return first(
        (deltas != dones, f"the deltas make {deltas!r}, {TEXT_DONE} says {dones!r}"),
        (deltas != final, f"the deltas make {deltas!r}, the response says {final!r}"),
    )
