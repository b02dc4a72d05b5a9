"""What a request's fields may be: the capable server's own rules, apart from the contracts'."""

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], bool]

N_VOCABULARY = 256
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


def spoken(value: object) -> bool:
    """Whether it is a list of turns between a user and the model alone."""
    return turns(value) and all(each["role"] in {"user", "assistant"} for each in value)  # type: ignore[attr-defined]  # a list of messages


def text_or_blocks(value: object) -> bool:
    """Whether it is a text, or a list of blocks."""
    return isinstance(value, str | list)


def tokens(value: object) -> bool:
    """Whether it is a list of token ids, at least one."""
    return isinstance(value, list) and bool(value) and all(is_token(each) for each in value)


def is_token(value: object) -> bool:
    """Whether it is a token's id."""
    return type(value) is int and 0 <= value < N_VOCABULARY


def prompts(value: object) -> bool:
    """Whether it is a text or token ids, or a list of either."""
    if isinstance(value, str) or tokens(value):
        return True
    return isinstance(value, list) and bool(value) and (texts(value) or all(map(tokens, value)))


def text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def biases(value: object) -> bool:
    """Whether it is biases by token ids."""
    is_bias = number(-100, 100)
    return isinstance(value, dict) and all(
        key.isdigit() and is_token(int(key)) and is_bias(bias) for key, bias in value.items()
    )


CHAT_RULES: dict[str, Rule] = {
    "messages": turns,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_tokens": whole(1),
    "max_completion_tokens": whole(1),
    "n": whole(1, 8),
    "frequency_penalty": number(-2, 2),
    "logit_bias": biases,
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
COMPLETION_RULES: dict[str, Rule] = {
    "prompt": prompts,
    "temperature": number(0, 2),
    "max_tokens": whole(0),
    "n": whole(1, 8),
    "stop": texts,
    "logprobs": whole(0, 5),
    "echo": boolean,
    "stream": boolean,
}
MESSAGE_RULES: dict[str, Rule] = {
    "messages": spoken,
    "system": text_or_blocks,
    "temperature": number(0, 1),
    "max_tokens": whole(1),
    "stop_sequences": texts,
    "stream": boolean,
}
TOKENIZE_RULES: dict[str, Rule] = {"prompt": text, "messages": turns}
DETOKENIZE_RULES: dict[str, Rule] = {"tokens": tokens}


def broken_by(body: Mapping[str, Any], rules: Mapping[str, Rule], *needed: str) -> str:
    """Return the first field that is *needed* and not there, or breaks its rule; empty for none."""
    given = {name: body.get(name) for name in rules if body.get(name) is not None}
    missing = [name for name in needed if name not in given]
    return next(iter([*missing, *(name for name in given if not rules[name](given[name]))]), "")
