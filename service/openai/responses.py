"""
`POST /v1/responses`: the body into a job, and what its response repeats of it.

Pure translation: no I/O, no framework, no model. The body has passed its contract before it comes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import custom_tools, request_fields, response_items
from service.openai.images import Images
from service.openai.response_items import Item, Memory
from service.protocol import Constraint, Job, ModelCard, Tool, Turn

# Documented fields that are not implemented, with the values at which they change nothing.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "moderation": (),
    "prompt": (),
    "truncation": ("disabled",),
}
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty",
    "repetition_penalty",
)  # fmt: skip
LOGPROBS = "message.output_text.logprobs"
# The tools that a client runs by itself, with what a response repeats of them beside type and name.
_OWN_TOOLS = {
    "function": ("description", "parameters", "strict"),
    "custom": ("description", "format"),
    "namespace": ("description", "tools"),
}
_NAMES_IN_CHATS = {"messages": "input", "reasoning_effort": "reasoning.effort"}


@dataclass(frozen=True, slots=True)
class ClientTool:
    """
    A tool of the client's own, as the client knows it; the model knows all of them as functions.

    Attributes:
        tool: what the model is told.
        name: what the client calls it.
        namespace: what it is grouped under; the model knows both as one name.
        is_custom: it takes a text instead of arguments.
    """

    tool: Tool
    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """
    What a request for a response asks for.

    Attributes:
        job: the one answer that it wants.
        tools: those that are offered, by the names under which the model knows them.
        items: its input, each item with an id.
        settings: the request's settings, as the response repeats them.
        priority: its turn in the queue; smaller is earlier.
        is_stream: answer as server-sent events.
        is_kept: the response can be read and continued later.
        ignored: its fields that change nothing of the answer.
    """

    job: Job
    tools: dict[str, ClientTool]
    items: list[Item]
    settings: dict[str, Any]
    priority: int
    is_stream: bool
    is_kept: bool
    ignored: tuple[str, ...] = ()


def parse(body: dict[str, Any], card: ModelCard, memory: Memory) -> ResponseRequest:
    """
    Read *body*, which has passed the contract `response-request`, for the model of *card*.

    Raises:
        UnsupportedParameter: a documented field that is not implemented, or not by this model, would
            change the answer.
        InvalidRequest: it continues what isn't kept, its items can't be turns, it demands a tool that
            is not offered, or a form that can't be.
    """
    request_fields.refuse(body, NOT_IMPLEMENTED)
    request_fields.include_usage(body)
    tools = _tools(body)
    request_fields.distinct([one.tool for one in tools])
    offered, must_call = request_fields.chosen(_tool_choice(body, tools), _allowed(body, tools))
    items = response_items.received(body["input"], memory)
    images = Images(card)
    turns = _with_instructions(
        body.get("instructions"), response_items.turns(_earlier(body, memory), items, images)
    )
    effort = {"reasoning_effort": (body.get("reasoning") or {}).get("effort")}
    job = Job(
        prompt=request_fields.chat(turns, offered, effort, card, images),
        sampling=request_fields.sampling({name: body.get(name) for name in _SAMPLING}),
        max_tokens=request_fields.limit(body.get("max_output_tokens")),
        top_logprobs=_top_logprobs(body),
        constraint=_constraint(body),
        must_call=must_call,
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
    )
    return ResponseRequest(
        job=job,
        tools={one.tool.name: one for one in tools},
        items=items,
        settings=_settings(body, job),
        priority=request_fields.priority(body),
        is_stream=bool(body.get("stream")),
        is_kept=body.get("store") is not False,
        ignored=(
            *request_fields.ignored_effort("reasoning.effort", effort["reasoning_effort"], card),
            *request_fields.ignored_verbosity(
                "text.verbosity", (body.get("text") or {}).get("verbosity")
            ),
            *(
                f"tools.{i}"
                for i, entry in enumerate(body.get("tools") or ())
                if entry["type"] not in _OWN_TOOLS
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Retrieval:
    """
    How a kept response is wanted.

    Attributes:
        is_stream: by its events.
        starting_after: number of the event behind which to begin.
    """

    is_stream: bool
    starting_after: int


def retrieval(query: Mapping[str, str]) -> Retrieval:
    """
    Read the *query* of a request for a kept response. What it wants included is there if it was made so.

    Raises:
        InvalidRequest: a switch that is none, a number that is none, or a number without a stream.
    """
    stream, after = query.get("stream", "false").lower(), query.get("starting_after")
    if stream not in {"true", "false"}:
        raise InvalidRequest("stream must be true or false.", param="stream")
    if after is not None and not (after.isdecimal() and len(after) < 10):
        raise InvalidRequest("starting_after must be a whole number.", param="starting_after")
    if after is not None and stream == "false":
        raise InvalidRequest("starting_after needs stream to be true.", param="starting_after")
    return Retrieval(stream == "true", -1 if after is None else int(after))


@contextmanager
def own_names() -> Iterator[None]:
    """Let refusals that name a chat's field name the one that a response has for it."""
    try:
        yield
    except InvalidRequest as error:
        error.param = _NAMES_IN_CHATS.get(error.param or "", error.param)
        raise


def _earlier(body: dict[str, Any], memory: Memory) -> list[Item]:
    previous_id = body.get("previous_response_id")
    if previous_id is None:
        return []
    found = memory.conversation(previous_id)
    if found is None:
        raise InvalidRequest(
            "The previous response, or one before it, is not kept.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return found


def _with_instructions(instructions: str | None, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return *turns* with *instructions* first, in the first system turn: templates may take but one."""
    if not instructions:
        return turns
    first = turns[0]
    if first.role != "system":
        return (Turn("system", instructions), *turns)
    return (replace(first, content=f"{instructions}\n\n{first.content}"), *turns[1:])


def _tools(body: dict[str, Any]) -> list[ClientTool]:
    """Return the tools that the client runs; those that OpenAI would run are left out, and told as such."""
    found = []
    for i, entry in enumerate(body.get("tools") or ()):
        if entry["type"] == "namespace":
            for k, inner in enumerate(entry["tools"]):
                found.append(_tool(inner, f"tools.{i}.tools.{k}", entry["name"]))
        elif entry["type"] in _OWN_TOOLS:
            found.append(_tool(entry, f"tools.{i}"))
    return found


def _tool(entry: dict[str, Any], where: str, namespace: str | None = None) -> ClientTool:
    is_custom = entry["type"] == "custom"
    make = custom_tools.tool if is_custom else request_fields.tool
    name = response_items.known_name(entry["name"], namespace)
    return ClientTool(make(entry | {"name": name}, where), entry["name"], namespace, is_custom)


def _tool_choice(body: dict[str, Any], tools: Sequence[ClientTool]) -> str | None:
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return choice
    if choice["type"] == "allowed_tools":
        return str(choice["mode"])
    if choice["type"] not in {"function", "custom"}:
        raise UnsupportedParameter(
            "A tool that this server would have to run can't be chosen.", param="tool_choice.type"
        )
    return f":{_known(choice, tools)}"


def _allowed(body: dict[str, Any], tools: Sequence[ClientTool]) -> tuple[Tool, ...]:
    """Return all tools, or those that `allowed_tools` names; of these, too, some would be OpenAI's to run."""
    choice, all_of_them = body.get("tool_choice"), tuple(one.tool for one in tools)
    if not isinstance(choice, dict) or choice["type"] != "allowed_tools":
        return all_of_them
    named = [each for each in choice["tools"] if each["type"] in {"function", "custom"}]
    return request_fields.among([_known(each, tools) for each in named], all_of_them)


def _known(choice: dict[str, Any], tools: Sequence[ClientTool]) -> str:
    """Return the name by which the model knows a tool; its namespace may be left out where that is clear."""
    name, namespace = choice["name"], choice.get("namespace")
    found = [one.tool.name for one in tools if (one.name, one.namespace) == (name, namespace)]
    if not found and namespace is None:
        found = [one.tool.name for one in tools if one.name == name]
    return found[0] if len(found) == 1 else str(name)


def _top_logprobs(body: dict[str, Any]) -> int | None:
    """Return how many likely tokens to report at each place; None: nor the one that was chosen."""
    n_top = int(body.get("top_logprobs") or 0)
    return n_top if n_top or LOGPROBS in (body.get("include") or ()) else None


def _constraint(body: dict[str, Any]) -> Constraint | None:
    match (body.get("text") or {}).get("format"):
        case {"type": "json_object"}:
            return Constraint("json_object", "", "text.format")
        case {"type": "json_schema", "schema": schema}:
            return request_fields.schema_constraint(schema, "text.format.schema")
    return None


def _settings(body: dict[str, Any], job: Job) -> dict[str, Any]:
    """Return the settings of a response; what the request leaves to the model has OpenAI's default."""
    reasoning = body.get("reasoning") or {}
    settings = {
        "previous_response_id": body.get("previous_response_id"),
        "instructions": body.get("instructions"),
        "tools": [
            _tool_setting(entry) for entry in body.get("tools") or () if entry["type"] in _OWN_TOOLS
        ],
        "tool_choice": body.get("tool_choice") or "auto",
        "parallel_tool_calls": job.parallel_tool_calls,
        "max_tool_calls": body.get("max_tool_calls"),
        "text": {"format": _format_setting(body), "verbosity": "medium"},
        "reasoning": {name: reasoning.get(name) for name in ("effort", "summary")},
        "max_output_tokens": job.max_tokens,
        "top_logprobs": job.top_logprobs or 0,
        "truncation": "disabled",
        "background": False,
        "service_tier": "default",
        "store": body.get("store") is not False,
        "metadata": body.get("metadata") or {},
    }
    defaults = {"temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    for name, default in defaults.items():
        settings[name] = default if body.get(name) is None else body[name]
    return settings | {n: body.get(n) for n in ("user", "safety_identifier", "prompt_cache_key")}


def _tool_setting(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("type", "name", *_OWN_TOOLS[entry["type"]])}


def _format_setting(body: dict[str, Any]) -> dict[str, Any]:
    """Return the form of the text, a schema's with all its members: it is always held to."""
    wanted: dict[str, Any] = (body.get("text") or {}).get("format") or {"type": "text"}
    if wanted["type"] != "json_schema":
        return {"type": wanted["type"]}
    members = {name: wanted.get(name) for name in ("type", "name", "description", "schema")}
    return members | {"strict": wanted.get("strict") is not False}
