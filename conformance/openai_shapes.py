"""
What OpenAI's wire shapes demand, said as the first problem found.

Written apart from the schemas in contracts/, so that neither can hide a mistake of the other.
Each function returns an empty string when there is nothing to say.
"""

from typing import Any, TypeGuard

from conformance import sse
from conformance.client import Exchange, read_json

DONE = "[DONE]"
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")


def first(*problems: tuple[bool, str]) -> str:
    """Return the text of the first pair whose condition is true."""
    return next((text for is_problem, text in problems if is_problem), "")


def is_count(value: object) -> TypeGuard[int]:
    """Whether *value* is an integer of zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def envelope_problem(answer: Exchange) -> str:
    """Look for OpenAI's error envelope, as JSON and with all of its four keys."""
    error = answer.fields().get("error")
    if not isinstance(error, dict):
        return "no JSON object with an error object in it"
    missing = [key for key in ("message", "type", "param", "code") if key not in error]
    return first(
        (bool(missing), f"error has no {', '.join(missing)}"),
        (not isinstance(error.get("message"), str), "error.message is not text"),
        (not error.get("message"), "error.message is empty"),
        (not isinstance(error.get("type"), str), "error.type is not text"),
        (not isinstance(error.get("param"), str | None), "error.param is neither text nor null"),
        (not isinstance(error.get("code"), str | None), "error.code is neither text nor null"),
        (answer.media_type != "application/json", "content type is not application/json"),
    )


def usage_problem(usage: object) -> str:
    """Look for the three counts."""
    if not isinstance(usage, dict):
        return "no usage object"
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return first(*((not is_count(usage.get(name)), f"usage.{name} is no count") for name in names))


def sum_problem(usage: object) -> str:
    """Look whether the total is the sum of its parts."""
    if problem := usage_problem(usage):
        return problem
    assert isinstance(usage, dict)
    parts = usage["prompt_tokens"] + usage["completion_tokens"]
    total = usage["total_tokens"]
    return "" if total == parts else f"total_tokens {total}, the parts make {parts}"


def completion_problem(answer: Exchange) -> str:
    """Look for one choice with an assistant's message, and the fields around it."""
    body = answer.fields()
    choices = body.get("choices")
    if answer.status != 200 or not isinstance(choices, list) or len(choices) != 1:
        return f"status {answer.status}, expected 200 and one choice"
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    return first(
        (answer.media_type != "application/json", "content type is not application/json"),
        (body.get("object") != "chat.completion", 'object is not "chat.completion"'),
        (not isinstance(body.get("id"), str) or not body["id"], "id is not text"),
        (not is_count(body.get("created")), "created is not Unix seconds"),
        (not isinstance(body.get("model"), str), "model is not text"),
        (choice.get("index") != 0, "choices[0].index is not 0"),
        (message.get("role") != "assistant", 'message.role is not "assistant"'),
        ("content" not in message, "message has no content"),
        (not isinstance(message.get("content"), str | None), "message.content is not text"),
        (choice.get("finish_reason") not in FINISH_REASONS, "finish_reason is none of OpenAI's"),
        (bool(problem := usage_problem(body.get("usage"))), problem),
    )


def chunks(answer: Exchange) -> list[dict[str, Any]]:
    """Return a stream's JSON objects, in order."""
    bodies = (read_json(data) for data in sse.data_of(answer.body) if data != DONE)
    return [body for body in bodies if isinstance(body, dict)]


def framing_problem(answer: Exchange) -> str:
    """Look for JSON events, and exactly one [DONE] after all of them."""
    events = sse.data_of(answer.body)
    others = [data for data in events if data != DONE]
    return first(
        (answer.status != 200, f"status {answer.status}"),
        (answer.media_type != "text/event-stream", "content type is not text/event-stream"),
        (events.count(DONE) != 1, f"[DONE] came {events.count(DONE)} times"),
        (events[-1:] != [DONE], "[DONE] is not the last event"),
        (not others, "no chunk before [DONE]"),
        (len(chunks(answer)) != len(others), "an event's data is not a JSON object"),
    )


def chunk_problem(answer: Exchange) -> str:
    """Look for fields that each chunk has, and for those that all chunks share."""
    found = chunks(answer)
    return first(
        (any("error" in chunk for chunk in found), "an error event"),
        (
            any(chunk.get("object") != "chat.completion.chunk" for chunk in found),
            'object is not always "chat.completion.chunk"',
        ),
        (len({str(chunk.get("id")) for chunk in found}) != 1, "chunks don't share one id"),
        (not all(isinstance(chunk.get("id"), str) for chunk in found), "id is not text"),
        (len({str(chunk.get("model")) for chunk in found}) != 1, "chunks don't share one model"),
        (not all(is_count(chunk.get("created")) for chunk in found), "created is not seconds"),
        (
            not all(isinstance(chunk.get("choices"), list) for chunk in found),
            "a chunk has no choices",
        ),
    )


def choice_problem(answer: Exchange) -> str:
    """Look for the role first, text deltas after it, and one finish reason at the end."""
    choices = [choice for chunk in chunks(answer) for choice in chunk.get("choices", [])]
    if not choices or not all(isinstance(choice, dict) for choice in choices):
        return "no choice in any chunk"
    deltas = [choice.get("delta") for choice in choices]
    if not all(isinstance(delta, dict) for delta in deltas):
        return "a choice has no delta"
    reasons = [choice.get("finish_reason") for choice in choices]
    n_finished = sum(reason is not None for reason in reasons)
    texts = [delta.get("content") for delta in deltas]
    return first(
        (deltas[0].get("role") != "assistant", "the first delta has no role assistant"),
        (
            any(text is not None and not isinstance(text, str) for text in texts),
            "a delta's content is not text",
        ),
        (n_finished != 1, f"finish_reason came {n_finished} times"),
        (reasons[-1] not in FINISH_REASONS, "the last choice's finish_reason is none of OpenAI's"),
    )


def usage_chunk_problem(answer: Exchange) -> str:
    """Look for the usage in a last chunk of its own, without choices."""
    last = chunks(answer)[-1]
    if last.get("choices") != []:
        return "the last chunk has choices; the usage belongs into one without"
    return usage_problem(last.get("usage"))
