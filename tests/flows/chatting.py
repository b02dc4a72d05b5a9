"""Chats with the default server: asked, checked against their contracts, and put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from service.contracts import check

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
# To this the model has no answer by heart, so that chance shows.
STRANGE = [{"role": "user", "content": "zxqv 17 ][ blorp"}]


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    """Post a small chat with *fields* on top."""
    body = {"model": "gemma", "messages": HELLO, "max_tokens": 16}
    return client.post(CHAT, json=body | fields)


def completion(client: httpx.Client, **fields: Any) -> Any:
    """Return the body of an answer that was given."""
    response = ask(client, **fields)
    assert response.status_code == 200, response.text
    check("chat-completion", response.json())
    return response.json()


def choice(client: httpx.Client, **fields: Any) -> Any:
    """Return the one choice of an answer."""
    (found,) = completion(client, **fields)["choices"]
    return found


def text(client: httpx.Client, **fields: Any) -> str:
    """Return what the one choice of an answer says."""
    content: str = choice(client, **fields)["message"]["content"]
    return content


def texts(client: httpx.Client, **fields: Any) -> list[str]:
    """Return what each choice of an answer says."""
    return [each["message"]["content"] for each in completion(client, **fields)["choices"]]


def chunks(response: httpx.Response) -> list[Any]:
    """Return the chunks of a finished stream."""
    assert response.status_code == 200, response.text
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert last == "[DONE]"
    found = [json.loads(event) for event in events if not event.startswith(":")]
    for chunk in found:
        check("chat-completion-chunk", chunk)
    return found


def streamed(client: httpx.Client, **fields: Any) -> list[Any]:
    """Return the choices of a stream as they would have come whole."""
    found: dict[int, Any] = {}
    for part in _parts(chunks(ask(client, stream=True, **fields))):
        index, delta = part["index"], part["delta"]
        message = {"role": "assistant", "content": "", "refusal": None}
        blank = {"index": index, "message": message, "finish_reason": None, "logprobs": None}
        built = found.setdefault(index, blank)
        built["message"]["content"] += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            calls = built["message"].setdefault("tool_calls", [])
            assert call.pop("index") == len(calls)
            calls.append(call)
        if part["logprobs"]:
            entries = part["logprobs"]["content"]
            built["logprobs"] = built["logprobs"] or {"content": [], "refusal": None}
            built["logprobs"]["content"] += entries
        built["finish_reason"] = part["finish_reason"] or built["finish_reason"]
    return [found[index] for index in sorted(found)]


def _parts(stream: Iterable[Any]) -> Iterable[Any]:
    return (part for chunk in stream for part in chunk["choices"])


def refusal(client: httpx.Client, **fields: Any) -> Any:
    """Return the error of a chat that is refused with 400."""
    response = ask(client, **fields)
    assert response.status_code == 400, response.text
    check("error", response.json())
    return response.json()["error"]


def last_token_of(client: httpx.Client, words: str) -> int:
    """Return the id of the token that *words* end in."""
    body = {"model": "gemma", "prompt": words}
    *_, found = client.post("/v1/tokenize", json=body).json()["tokens"]
    return int(found)


def counts(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tokens came and went; how many were in the prefix cache depends on who asked before."""
    return usage["prompt_tokens"], usage["completion_tokens"]
