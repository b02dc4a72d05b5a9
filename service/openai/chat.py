"""
`POST /v1/chat/completions`: the body into jobs, deltas into chunks or one completion.

Pure translation: no I/O, no framework, no model. The body has passed its contract before it comes here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.errors import InvalidRequest
from service.openai import custom_tools, cut_json, request_fields
from service.openai.body import decode
from service.openai.images import Images, unreadable
from service.openai.logprobs import entry
from service.openai.usage import Usage
from service.protocol import Delta, Job, ModelCard, TokenLogprob, Tool, ToolCall, Turn

MAX_MESSAGES = 4096

# Documented fields that are not implemented, with the values at which they change nothing.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "grammar": ("",),
    "modalities": (["text"],),
    "moderation": (),
    "web_search_options": (),
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    What a chat request asks for.

    Attributes:
        jobs: one for each answer that it wants.
        priority: its turn in the queue; smaller is earlier.
        is_stream: answer as server-sent events.
        include_usage: end the stream with a chunk that counts tokens.
        custom_tools: names of the tools that take a text instead of arguments.
        in_older_form: a call is given as `function_call`, since its tools came as `functions`.
        ignored: its fields that change nothing of the answer.
    """

    jobs: tuple[Job, ...]
    priority: int
    is_stream: bool
    include_usage: bool
    custom_tools: frozenset[str] = frozenset()
    in_older_form: bool = False
    ignored: tuple[str, ...] = ()


def parse(body: dict[str, Any], card: ModelCard) -> ChatRequest:
    """
    Read *body*, which has passed the contract `chat-request`, for the model of *card*.

    Raises:
        UnsupportedParameter: a documented field that is not implemented, or not by this model, would
            change the answer.
        InvalidRequest: over MAX_MESSAGES, content that is not text, a tool call whose arguments are no
            JSON object, a demand for a tool that is not offered, or a form that can't be.
    """
    request_fields.refuse(body, NOT_IMPLEMENTED)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    functions = _functions(body)
    if functions:
        choice = _function_choice(body)
        offered, must_call = request_fields.chosen(choice, functions, "function_call")
    else:
        offered, must_call = request_fields.chosen(_tool_choice(body), _tools(body))
    images = Images(card)
    said = turns(body["messages"], images)
    max_tokens = request_fields.limit(body.get("max_completion_tokens") or body.get("max_tokens"))
    job = Job(
        prompt=request_fields.chat(said, offered, body, card, images),
        sampling=request_fields.sampling(body),
        max_tokens=max_tokens,
        min_tokens=request_fields.min_tokens(body, max_tokens),
        stop=request_fields.stops(body),
        ignore_eos=bool(body.get("ignore_eos")),
        top_logprobs=int(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        constraint=request_fields.constraint(body),
        must_call=must_call,
        parallel_tool_calls=body.get("parallel_tool_calls") is not False and not functions,
    )
    return ChatRequest(
        jobs=request_fields.several(job, request_fields.whole(body.get("n")) or 1),
        priority=request_fields.priority(body),
        is_stream=bool(body.get("stream")),
        include_usage=request_fields.include_usage(body),
        custom_tools=frozenset(
            entry["custom"]["name"]
            for entry in body.get("tools") or ()
            if entry["type"] == "custom"
        ),
        in_older_form=bool(functions),
        ignored=(
            *request_fields.ignored_effort("reasoning_effort", body.get("reasoning_effort"), card),
            *request_fields.ignored_verbosity("verbosity", body.get("verbosity")),
        ),
    )


def _tools(body: dict[str, Any]) -> tuple[Tool, ...]:
    """Return what the model may call: all tools of the request, or those that `allowed_tools` names."""
    found = []
    for i, given in enumerate(body.get("tools") or ()):
        kind = given["type"]
        make = custom_tools.tool if kind == "custom" else request_fields.tool
        found.append(make(given[kind], f"tools.{i}.{kind}"))
    tools, choice = request_fields.distinct(found), body.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        named = [entry[entry["type"]]["name"] for entry in choice["allowed_tools"]["tools"]]
        return request_fields.among(named, tools)
    return tools


def _tool_choice(body: dict[str, Any]) -> str | None:
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return choice
    chosen = choice[choice["type"]]
    return str(chosen["mode"]) if choice["type"] == "allowed_tools" else f":{chosen['name']}"


def _functions(body: dict[str, Any]) -> tuple[Tool, ...]:
    """Return what the model may call in the older form."""
    given = body.get("functions") or ()
    if given and body.get("tools"):
        raise InvalidRequest(
            "functions are the older form of tools; give one of them.", param="functions"
        )
    if not given and isinstance(body.get("function_call"), dict):
        raise InvalidRequest(
            "function_call demands a function that is not offered.", param="function_call"
        )
    found = [request_fields.tool(each, f"functions.{i}") for i, each in enumerate(given)]
    return request_fields.distinct(found, "functions")


def _function_choice(body: dict[str, Any]) -> str | None:
    choice = body.get("function_call")
    return f":{choice['name']}" if isinstance(choice, dict) else choice


def turns(messages: Sequence[dict[str, Any]], images: Images) -> tuple[Turn, ...]:
    """
    Return the turns of a chat in OpenAI's form; its images are added to *images*.

    Raises:
        InvalidRequest: over MAX_MESSAGES, content that is not text, or a tool call whose arguments are
            no JSON object.
    """
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"There are over {MAX_MESSAGES} messages.", param="messages")
    found: list[Turn] = []
    call_id = (
        "call_function"  # of the last call in the older form, which a function's message answers
    )
    for i, message in enumerate(messages):
        if message.get("function_call"):
            call_id = f"call_function_{i}"
        found.append(_turn(message, f"messages.{i}", call_id, images))
    return tuple(found)


# What a role is called in turns, where that is something else; `function` is the older name of `tool`.
_ROLES = {"developer": "system", "function": "tool"}


def _turn(message: dict[str, Any], where: str, call_id: str, images: Images) -> Turn:
    role = message["role"]
    calls = [
        _tool_call(call, f"{where}.tool_calls.{k}")
        for k, call in enumerate(message.get("tool_calls") or ())
    ]
    content = _text(message.get("content"), f"{where}.content", images)
    if role == "assistant":
        content = content or message.get("refusal") or content
        if message.get("function_call"):
            deprecated = {"id": call_id, "function": message["function_call"]}
            calls.append(_tool_call(deprecated, where))
    return Turn(
        role=_ROLES.get(role, role),
        content=content,
        name=message.get("name"),
        tool_calls=tuple(calls),
        tool_call_id=call_id if role == "function" else message.get("tool_call_id"),
        reasoning=_thoughts(message) if role == "assistant" else None,
    )


def _thoughts(message: dict[str, Any]) -> str | None:
    """Return what the model thought, by the names under which this and other servers give it."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else None


def _text(content: str | list[dict[str, Any]] | None, where: str, images: Images) -> str | None:
    """Return *content* as one text; parts follow each other with nothing between them."""
    if content is None or isinstance(content, str):
        return content
    texts = []
    for k, part in enumerate(content):
        match part["type"]:
            case "text" | "refusal" as kind:
                texts.append(part[kind])
            case "image_url":
                texts.append(images.add(part["image_url"]["url"], f"{where}.{k}.image_url"))
            case _:
                raise unreadable(f"{where}.{k}.type")
    return "".join(texts)


def _tool_call(call: dict[str, Any], where: str) -> ToolCall:
    if call.get("type") == "custom":
        custom = call["custom"]
        return ToolCall(call["id"], custom["name"], custom_tools.arguments_of(custom["input"]))
    function = call["function"]
    where = f"{where}.function.arguments"
    return ToolCall(call["id"], function["name"], arguments(function["arguments"], where))


def arguments(text: str, where: str) -> str:
    """
    Return the arguments of a call that was made; what there is of them, if it was cut.

    None at all are an empty object.

    Raises:
        InvalidRequest: they are no JSON object; *where* is blamed.
    """
    try:
        decode((text or "{}").encode())
    except (InvalidRequest, UnicodeEncodeError):
        begun = cut_json.mended(text)
        if begun is None:
            raise InvalidRequest(
                "The arguments of a tool call must be a JSON object, written as a string.",
                param=where,
            ) from None
        return begun
    return text or "{}"


def _new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(slots=True)
class ChatAnswer:
    """
    One request's answers on their way out, whole or in chunks.

    Attributes:
        model: id of the model that answers.
        usage: what is counted, and brought up to date as deltas come by.
        with_logprobs: each choice carries log-probabilities.
        include_usage: each chunk carries `usage`, null until the last.
        custom_tools: names of the tools that take a text instead of arguments.
        in_older_form: a call is given as `function_call`.
    """

    model: str
    usage: Usage
    with_logprobs: bool = False
    include_usage: bool = False
    custom_tools: frozenset[str] = frozenset()
    in_older_form: bool = False
    id: str = field(default_factory=_new_id)
    created: int = field(default_factory=lambda: int(time.time()))
    _n_calls: dict[int, int] = field(default_factory=dict)

    def completion(self, answers: Sequence[Sequence[Delta]]) -> dict[str, Any]:
        """Return the whole answer as one body; *answers* are each choice's deltas, all of them."""
        for i, deltas in enumerate(answers):
            self.usage.add(i, deltas[-1])
        choices = [self._choice(i, deltas) for i, deltas in enumerate(answers)]
        return self._head("chat.completion") | {"choices": choices} | self.usage.as_body()

    def _choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        calls = [call for delta in deltas for call in delta.tool_calls]
        content = "".join(delta.text for delta in deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not content else content,
            "refusal": None,
        }
        if reasoning:
            message |= _reasoning(reasoning)
        if calls and self.in_older_form:
            message["function_call"] = _function(calls[0])
        elif calls:
            message["tool_calls"] = [self._call(call) for call in calls]
        return {
            "index": index,
            "message": message,
            "finish_reason": self._finish_reason(deltas[-1]),
            "logprobs": self._logprobs(each for delta in deltas for each in delta.logprobs),
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Return the first chunk of a choice: the role, and no text yet."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the chunk for *delta*; the very last one of a stream tells the times, too."""
        found: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.reasoning:
            found |= _reasoning(delta.reasoning)
        if delta.tool_calls and self.in_older_form:
            found["function_call"] = _function(delta.tool_calls[0])
        elif delta.tool_calls:
            first = self._n_calls.get(index, 0)
            self._n_calls[index] = first + len(delta.tool_calls)
            found["tool_calls"] = [
                {"index": i, **self._call(call)} for i, call in enumerate(delta.tool_calls, first)
            ]
        chunk = self._chunk(index, found, self._finish_reason(delta), delta.logprobs)
        if delta.finish_reason is None:
            return chunk
        self.usage.add(index, delta)
        is_last = self.usage.is_complete and not self.include_usage
        return chunk | {"timings": self.usage.timings()} if is_last else chunk

    def closing(self) -> dict[str, Any]:
        """Return the chunk that counts tokens and has no choice; only for `include_usage`."""
        return self._head("chat.completion.chunk") | {"choices": []} | self.usage.as_body()

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
        }
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def _logprobs(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        return {"content": [entry(each) for each in tokens], "refusal": None}

    def _finish_reason(self, delta: Delta) -> str | None:
        is_older = self.in_older_form and delta.finish_reason == "tool_calls"
        return "function_call" if is_older else delta.finish_reason

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.name in self.custom_tools:
            custom = {"name": call.name, "input": custom_tools.text_in(call.arguments)}
            return {"id": call.id, "type": "custom", "custom": custom}
        return {"id": call.id, "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def _reasoning(text: str) -> dict[str, str]:
    """Return the two names under which clients look for thoughts."""
    return {"reasoning_content": text, "reasoning": text}
