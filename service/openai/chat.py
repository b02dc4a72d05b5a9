"""
`POST /v1/chat/completions`: the body into a job, deltas into chunks or one completion.

Pure translation: no I/O, no framework, no model. The body has passed its contract before it comes here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai.body import decode
from service.protocol import Delta, Job, Sampling, ToolCall, Turn

MAX_MESSAGES = 4096

# Documented fields that are not implemented, with the values at which they change nothing.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    What a chat request asks for.

    Attributes:
        model: the name it gives, not resolved yet.
        job: what the engine is to do.
        is_stream: answer as server-sent events.
        include_usage: end the stream with a chunk that counts tokens.
    """

    model: str
    job: Job
    is_stream: bool
    include_usage: bool


def parse(body: dict[str, Any]) -> ChatRequest:
    """
    Read *body*, which has passed the contract `chat-request`.

    Raises:
        UnsupportedParameter: a documented field that is not implemented would change the answer.
        InvalidRequest: over MAX_MESSAGES, content that is not text, or a tool call whose arguments are
            no JSON object.
    """
    for name, harmless in NOT_IMPLEMENTED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise UnsupportedParameter(f"{name} is not supported by this server.", param=name)
    if len(body["messages"]) > MAX_MESSAGES:
        raise InvalidRequest(f"There are over {MAX_MESSAGES} messages.", param="messages")
    stop = body.get("stop") or ()
    return ChatRequest(
        model=body["model"],
        job=Job(
            turns=tuple(_turn(message, i) for i, message in enumerate(body["messages"])),
            sampling=Sampling(
                temperature=body.get("temperature"),
                top_p=body.get("top_p"),
                top_k=_whole(body.get("top_k")),
                min_p=body.get("min_p"),
                seed=_whole(body.get("seed")),
            ),
            max_tokens=_whole(body.get("max_completion_tokens") or body.get("max_tokens")),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=bool(body.get("ignore_eos")),
        ),
        is_stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def _whole(number: float | None) -> int | None:
    """Return *number* as an int: to JSON Schema, 2.0 is an integer."""
    return None if number is None else int(number)


def _turn(message: dict[str, Any], i: int) -> Turn:
    role = message["role"]
    return Turn(
        role="system" if role == "developer" else role,
        content=_text(message.get("content"), f"messages.{i}.content"),
        name=message.get("name"),
        tool_calls=tuple(
            _tool_call(call, f"messages.{i}.tool_calls.{k}")
            for k, call in enumerate(message.get("tool_calls") or ())
        ),
        tool_call_id=message.get("tool_call_id"),
    )


def _text(content: str | list[dict[str, Any]] | None, where: str) -> str | None:
    """Return *content* as one text; parts follow each other with nothing between them."""
    if content is None or isinstance(content, str):
        return content
    for k, part in enumerate(content):
        if part["type"] != "text":
            raise InvalidRequest(
                "This model reads text only.", param=f"{where}.{k}.type", code="unsupported_content"
            )
    return "".join(part["text"] for part in content)


def _tool_call(call: dict[str, Any], where: str) -> ToolCall:
    function = call["function"]
    arguments = function["arguments"] or "{}"
    try:
        decode(arguments.encode())
    except InvalidRequest:
        raise InvalidRequest(
            "The arguments of a tool call must be a JSON object, written as a string.",
            param=f"{where}.function.arguments",
        ) from None
    return ToolCall(call["id"], function["name"], arguments)


def _new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """
    One answer on its way out, whole or in chunks.

    Attributes:
        model: id of the model that answers.
        n_prompt_tokens: tokens of the templated prompt.
        include_usage: each chunk carries `usage`, null until the last.
    """

    model: str
    n_prompt_tokens: int
    include_usage: bool = False
    id: str = field(default_factory=_new_id)
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Return the whole answer as one body; *deltas* are all of it, the last one finished."""
        last = deltas[-1]
        message = {"role": "assistant", "content": "".join(delta.text for delta in deltas)}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": last.finish_reason,
            "logprobs": None,
        }
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage(last)}

    def opening(self) -> dict[str, Any]:
        """Return the first chunk: the role, and no text yet."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """Return the chunk for *delta*."""
        return self._chunk({"content": delta.text} if delta.text else {}, delta.finish_reason)

    def closing(self, last: Delta) -> dict[str, Any]:
        """Return the chunk that counts tokens and has no choice; only for `include_usage`."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage(last)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def _usage(self, last: Delta) -> dict[str, int]:
        return {
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": last.n_completion_tokens,
            "total_tokens": self.n_prompt_tokens + last.n_completion_tokens,
        }
