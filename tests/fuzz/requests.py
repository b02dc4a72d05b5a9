"""Requests that are nearly right, each made of its number alone, so that any of them can be sent again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [USER], "temperature": 1, "seed": 1, "stop": ["x"], "n": 1,
                              "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "system", "content": "a"}, USER], "stream": True,
                              "stream_options": {"include_usage": True}, "tools": [TOOL]}),
    ("/v1/chat/completions", {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}),
    ("/v1/completions", {"prompt": "Hello", "echo": True, "logprobs": 1, "best_of": 1}),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "stream": True}),
    ("/v1/responses", {"input": "Hello", "store": False, "instructions": "Be brief."}),
    ("/v1/responses", {"input": [USER], "stream": True, "text": {"format": {"type": "text"}}}),
    ("/v1/messages", {"messages": [USER], "system": "a", "stop_sequences": ["x"]}),
    ("/v1/messages/count_tokens", {"messages": [USER]}),
    ("/v1/tokenize", {"prompt": "Hello"}),
    ("/v1/detokenize", {"tokens": [5, 6]}),
    ("/v1/estimate", {"messages": [USER]}),
]  # fmt: skip
MAX_TOKENS = {"/v1/responses": "max_output_tokens"}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**40, "", "a",
    "\x00", "\u2028", "\ud83d\ude00", "<start_of_turn>", "{{7*7}}", "x" * 5000, "../../etc/passwd",
    "http://169.254.169.254/", [], [[]], [None], [1, "a"], ["a"] * 100, {}, {"": ""}, {"type": "x"},
    {"$ref": "#"}, {"a": {"a": {"a": {"a": {}}}}}, [{"role": "user"}], [{"role": "x", "content": []}],
    [{"type": "text", "text": "a"}], [{"type": "image_url", "image_url": {"url": "x"}}], "gemma",
]  # fmt: skip
KEYS = ["model", "messages", "prompt", "input", "tools", "tool_choice", "stream", "max_tokens", "stop",
        "response_format", "guided_regex", "guided_json", "guided_choice", "structured_outputs", "priority",
        "chat_template_kwargs", "previous_response_id", "reasoning_effort", "thinking", "metadata", "user",
        "top_p", "top_k", "min_p", "frequency_penalty", "include", "ignore_eos"]  # fmt: skip


def request(number: int, seed: int) -> bytes:
    """Return a whole HTTP request."""
    dice = random.Random(f"{seed}/{number}")
    path, good = dice.choice(GOOD)
    n_tokens = dice.choice([1, 1, 1, 1, 3])  # few, so that there can be many requests
    body = copy.deepcopy(good) | {"model": "gemma", MAX_TOKENS.get(path, "max_tokens"): n_tokens}
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        dice.choice([_replace, _replace, _add, _remove, _repeat])(body, dice)
    content = json.dumps(body).encode()
    if dice.random() < 0.1:
        content = _broken(content, dice)
    request = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path.encode()
    )
    request += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content)
    if dice.random() < 0.05:
        request = _broken(request, dice, may_end=False)  # or it would be waited for
    return request + content


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return every place in *node*, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    inner: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        found.append((node, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


def _replace(body: dict[str, Any], dice: random.Random) -> None:
    holder, key = dice.choice(_places(body) or [(body, "model")])
    holder[key] = copy.deepcopy(dice.choice(ODD))


def _add(body: dict[str, Any], dice: random.Random) -> None:
    body[dice.choice(KEYS)] = copy.deepcopy(dice.choice(ODD))


def _remove(body: dict[str, Any], dice: random.Random) -> None:
    holder, key = dice.choice(_places(body) or [(body, "model")])
    holder.pop(key, None) if isinstance(holder, dict) else holder.pop(key)


def _repeat(body: dict[str, Any], dice: random.Random) -> None:
    lists = [holder for holder, _ in _places(body) if isinstance(holder, list)]
    if lists:
        chosen = dice.choice(lists)
        chosen += copy.deepcopy(chosen) * dice.choice([1, 7])


def _broken(data: bytes, dice: random.Random, *, may_end: bool = True) -> bytes:
    """Return *data* with a few bytes wrong."""
    at = dice.randrange(len(data))
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :],
        lambda: data[:at] + dice.randbytes(3) + data[at:],
        lambda: data[:at] + data[at // 2 :],
    ]
    if may_end:
        ways.append(lambda: data[:at])
    return dice.choice(ways)()
