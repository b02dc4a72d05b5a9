"""What a request's fields may be: the capable server's own rules, apart from the contracts'."""

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], bool]

ROLES = {"developer", "system", "user", "assistant", "tool"}


def number(low: float, high: float) -> Rule:
    """Return what demands a number from *low* to *high*."""
    return lambda value: type(value) in {int, float} and low <= value <= high


def whole(low: int, high: int = 2**31 - 1) -> Rule:
    """Return what demands a whole number from *low* to *high*."""
    return lambda value: type(value) is int and low <= value <= high


def boolean(value: object) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def texts(value: object) -> bool:
    """Whether it is a text, or a list of some."""
    found = [value] if isinstance(value, str) else value
    return isinstance(found, list) and all(isinstance(each, str) and each for each in found)


def turns(value: object) -> bool:
    """Whether it is a list of messages, at least one."""
    return isinstance(value, list) and bool(value) and all(is_turn(each) for each in value)


def is_turn(value: object) -> bool:
    """Whether it is a message."""
    return (
        isinstance(value, dict)
        and value.get("role") in ROLES
        and isinstance(value.get("content"), str | list | None)
    )


def text_or_turns(value: object) -> bool:
    """Whether it is a text, or a list of messages."""
    return turns(value) or (isinstance(value, str) and bool(value))


CHAT_RULES: dict[str, Rule] = {
    "messages": turns,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_tokens": whole(1),
    "max_completion_tokens": whole(1),
    "n": whole(1, 8),
    "stop": texts,
    "seed": whole(0),
    "stream": boolean,
    "logprobs": boolean,
    "top_logprobs": whole(0, 20),
}
RESPONSE_RULES: dict[str, Rule] = {
    "input": text_or_turns,
    "temperature": number(0, 2),
    "max_output_tokens": whole(1),
    "stream": boolean,
    "store": boolean,
}


def broken_by(body: Mapping[str, Any], rules: Mapping[str, Rule], needed: str) -> str:
    """Return the first field that breaks its rule, or is *needed* and not there; empty for none."""
    given = {name: body.get(name) for name in rules if body.get(name) is not None}
    if needed not in given:
        return needed
    return next((name for name, value in given.items() if not rules[name](value)), "")
