"""
The choices of a chat or a completion, the same whether they came whole or streamed.

A stream is put together as clients do it: by index, text after text, call after call. What isn't
of the right type counts as not there; the shapes of OAI tell that.
"""

from dataclasses import dataclass, field
from typing import Any

from conformance.client import Exchange
from conformance.openai_shapes import chunks, envelope_problem, first, is_count


@dataclass
class Choice:
    """
    One choice.

    Attributes:
        finish_reason: empty where there is none.
        reasoning: what was thought before the text.
        calls: the tool calls, each with `id`, `type` and `function`.
        entries: of `logprobs.content`; None where the choice has no such list.
    """

    text: str = ""
    finish_reason: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] | None = None


def mapping(value: object) -> dict[str, Any]:
    """Return *value* if it is an object, or else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """Return the objects in *value* if it is a list, or else none."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def text(value: object) -> str:
    """Return *value* if it is text, or else none."""
    return value if isinstance(value, str) else ""


def is_streamed(answer: Exchange) -> bool:
    """Whether the answer came as a stream."""
    return answer.media_type == "text/event-stream"


def choices_of(answer: Exchange) -> dict[int, Choice]:
    """Return the choices by index; none where the answer is a refusal."""
    if answer.status != 200:
        return {}
    bodies = chunks(answer) if is_streamed(answer) else [answer.fields()]
    found: dict[int, Choice] = {}
    for body in bodies:
        for part in mappings(body.get("choices")):
            if is_count(index := part.get("index")):
                add(found.setdefault(index, Choice()), part)
    return found


def choice_of(answer: Exchange) -> Choice:
    """Return the first choice; an empty one where there is none."""
    return choices_of(answer).get(0, Choice())


def add(choice: Choice, part: dict[str, Any]) -> None:
    """Add to *choice* what a whole choice or a chunk's choice says."""
    said = mapping(part.get("message", part.get("delta")))
    choice.text += text(said.get("content", part.get("text")))
    choice.reasoning += thought(said)
    choice.finish_reason = text(part.get("finish_reason")) or choice.finish_reason
    entries = mapping(part.get("logprobs")).get("content")
    if isinstance(entries, list):
        choice.entries = (choice.entries or []) + mappings(entries)
    for call in mappings(said.get("tool_calls")):
        add_call(choice.calls, call)


def thought(said: dict[str, Any]) -> str:
    """Return the reasoning in a message or a delta, by either of its names."""
    return text(said.get("reasoning_content")) or text(said.get("reasoning"))


def add_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    """Add a whole call, or a delta to the call with its index."""
    index = call.get("index")
    if not is_count(index) or index > len(calls):
        calls.append(call)
        return
    if index == len(calls):
        calls.append({"function": {"arguments": ""}})
    whole, function = calls[index], mapping(call.get("function"))
    whole |= {name: call[name] for name in ("id", "type") if call.get(name)}
    told = mapping(whole.get("function"))
    name = function.get("name") or told.get("name")
    arguments = text(told.get("arguments")) + text(function.get("arguments"))
    whole["function"] = {"name": name, "arguments": arguments}


def usage_of(answer: Exchange) -> dict[str, Any]:
    """Return the token counts; an empty object where there are none."""
    bodies = chunks(answer) if is_streamed(answer) else [answer.fields()]
    return next((mapping(body["usage"]) for body in bodies[::-1] if body.get("usage")), {})


def refusal_problem(answer: Exchange, *statuses: int) -> str:
    """Look for a status of the client's mistake, 400 if none is given, and the envelope."""
    allowed = statuses or (400,)
    problem = envelope_problem(answer)
    wanted = " or ".join(str(status) for status in allowed)
    return first(
        (answer.status not in allowed, f"status {answer.status}, expected {wanted}"),
        (bool(problem), problem),
    )


def param_of(answer: Exchange) -> str:
    """Return the parameter that an error names; empty where it names none."""
    return text(mapping(answer.fields().get("error")).get("param"))
