"""
What becomes of each field that OpenAI and Anthropic document, as `contracts/fields.md` tells it.

    python -m tests.fields

writes that table anew. The fields are those of the makers' own Python packages, found by their types; what
becomes of each is seen by reading the smallest request that has it, and the same request without it. What
is refused or left out is not looked into further.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    Required,
    Union,
    get_args,
    get_origin,
)
from unittest.mock import patch

from anthropic.types.beta.message_create_params import (
    MessageCreateParamsBase as BetaMessageParams,
)
from anthropic.types.message_create_params import MessageCreateParamsBase as MessageParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams
from typing_extensions import get_type_hints, is_typeddict

from service import contracts
from service.anthropic import messages
from service.errors import InvalidRequest
from service.openai import chat, completions, responses
from service.openai.response_items import Item
from service.protocol import ModelCard
from tests.live import ROOT

TABLE = ROOT / "contracts" / "fields.md"
PACKAGES = ("openai", "anthropic")
CARD = ModelCard("org/m", "gemma", "", 4096, 1, knows_tools=True, knows_thinking=True)
MAX_DEPTH = 6
HEAD = """\
# Every documented field

What becomes of each field of a request that OpenAI and Anthropic document, with a model that knows tools
and thinks. A test compares this table with what happens; `python -m tests.fields` writes it.

| what happens | meaning |
|---|---|
| honoured | it does what it says |
| harmless | the answer is the same with it and without it, and is as it asks |
| told | it can't be followed, the answer is the same without it, and the header `X-Ignored-Fields` names it |
| refused | 400, and `param` names it |

In a field's name, `[]` is any element of a list, and the word in parentheses the type or role that it has
there. Fields inside of what is refused, told or harmless are not listed.
"""
# Values that tell what becomes of a field, or that it can have at all, where the first of its type doesn't.
TELLING: dict[str, Any] = {
    "arguments": "{}",
    "background": True,
    "best_of": 2,
    "budget_tokens": 1024,
    "effort": "low",
    "frequency_penalty": 0.5,
    "include": ["message.output_text.logprobs"],
    "logit_bias": {"5": 1},
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "previous_response_id": "resp_1",
    "reasoning_effort": "low",
    "store": False,
    "truncation": "auto",
    "verbosity": "low",
}


class Memory:
    """A memory that has one response and any item."""

    def conversation(self, response_id: str) -> list[Item] | None:
        """Return what is kept as `resp_1`."""
        said = {"type": "message", "id": "m", "role": "user", "content": "Hello"}
        return [said] if response_id == "resp_1" else None

    def item(self, item_id: str) -> Item | None:
        """Return an item."""
        return {"type": "message", "id": item_id, "role": "user", "content": "Hello"}


@dataclasses.dataclass(frozen=True)
class Interface:
    """
    One route as its maker documents it.

    Attributes:
        title: the route.
        kinds: types of its requests.
        read: reads a request as the service does.
        beside: what some fields need beside them to mean anything.
        behind: what the elements of some lists need behind them.
    """

    title: str
    kinds: tuple[Any, ...]
    read: Callable[[dict[str, Any]], Any]
    beside: Mapping[str, dict[str, Any]]
    behind: Mapping[str, list[Any]] = dataclasses.field(default_factory=dict)

    def fate(self, name: str, body: dict[str, Any], bare: dict[str, Any] | None) -> str:
        """
        Return what becomes of a field.

        Args:
            name: of the field of the request that it is, or is in.
            body: a request that has it.
            bare: the same without it; None: there is none, it is needed.
        """
        if name == "model":  # which one is meant is settled before a request is read
            return "honoured"
        try:
            found = self.read(body)
        except InvalidRequest as error:
            root = (error.param or "").partition(".")[0]
            return "refused" if root == name else f"refused, blaming {error.param}"
        if bare is None:
            return "honoured"
        without = self.read(bare)
        seen, seen_without = dataclasses.asdict(found), dataclasses.asdict(without)
        ignored = seen.pop("ignored", ()) != seen_without.pop("ignored", ())
        if seen != seen_without:
            return "honoured"
        return "told" if ignored else "harmless"


def _read(contract: str, parse: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def read(body: dict[str, Any]) -> Any:
        contracts.check(contract, body)
        with patch("secrets.token_hex", return_value="0"), responses.own_names():
            return parse(body)

    return read


_CHAT_TOOL = {"type": "function", "function": {"name": "x"}}
_TOOL = {"type": "function", "name": "x"}
_MESSAGE_TOOL = {"name": "x", "input_schema": {}}
INTERFACES = (
    Interface(
        "/v1/chat/completions",
        (ChatParams,),
        _read("chat-request", lambda body: chat.parse(body, CARD)),
        {
            "function_call": {"functions": [{"name": "x"}]},
            "stream_options": {"stream": True},
            "tool_choice": {"tools": [_CHAT_TOOL]},
            "top_logprobs": {"logprobs": True},
        },
    ),
    Interface(
        "/v1/completions",
        (CompletionParams,),
        _read("completion-request", completions.parse),
        {"stream_options": {"stream": True}},
    ),
    Interface(
        "/v1/responses",
        (ResponseParams,),
        _read("response-request", lambda body: responses.parse(body, CARD, Memory())),
        {
            "": {"input": "Hello"},
            "stream_options": {"stream": True},
            "tool_choice": {"tools": [_TOOL]},
        },
        {"input": [{"role": "user", "content": "x"}]},
    ),
    Interface(
        "/v1/messages",
        (MessageParams, BetaMessageParams),
        _read("messages-request", lambda body: messages.parse(body, CARD)),
        {"tool_choice": {"tools": [_MESSAGE_TOOL]}},
        {"messages": [{"role": "user", "content": "x"}]},
    ),
)

Wrap = Callable[[Any], Any]


def fields(interface: Interface) -> dict[str, str]:
    """Return what becomes of each field that is documented for an interface, by its path."""
    found: dict[str, str] = {}
    for kind in interface.kinds:
        least = _least(kind) | interface.beside.get("", {})
        for path, fate in _walk(interface, kind, least, lambda body: body, "", ""):
            found.setdefault(path, fate)
    return found


def _walk(
    interface: Interface, kind: Any, least: dict[str, Any], wrap: Wrap, path: str, root: str
) -> Iterator[tuple[str, str]]:
    """Yield path and fate of each field of *kind*, an object that *wrap* puts into a request."""
    if path.count(".") >= MAX_DEPTH:
        return
    for name, hint in _hints(kind).items():
        top, where = root or name, f"{path}.{name}" if path else name
        beside = interface.beside.get(name, {}) if not root else {}
        behind = interface.behind.get(name, []) if not root else []
        seen: set[str] = set()
        for label, value, inner, nest in _forms(name, hint, behind):
            if label in seen:
                continue
            seen.add(label)
            body = wrap(least | beside | {name: value})
            bare = None if _is_required(hint) else wrap(least | beside)
            fate = interface.fate(top, body, bare)
            yield where + label, fate
            if inner is not None and (fate == "honoured" or (fate == "harmless" and not value)):
                deeper = _nested(wrap, least | beside, name, nest)
                yield from _walk(interface, inner, _least(inner), deeper, where + label, top)


def _nested(wrap: Wrap, least: dict[str, Any], name: str, nest: Wrap) -> Wrap:
    return lambda fragment: wrap(least | {name: nest(fragment)})


def _forms(name: str, hint: Any, behind: Sequence[Any]) -> Iterator[tuple[str, Any, Any, Wrap]]:
    """Yield the forms of a field: how the path tells it, a value, its type if it has fields, how it nests."""
    for each in _alternatives(hint):
        if is_typeddict(each):
            yield f"({_kind(each)})" if _kind(each) else "", _least(each), each, lambda one: one
        elif _element(each) is not None and any(map(is_typeddict, _alternatives(_element(each)))):
            for one in _alternatives(_element(each)):
                if is_typeddict(one):
                    label = f"[]({_kind(one)})" if _kind(one) else "[]"
                    yield label, [_least(one), *behind], one, lambda inner: [inner, *behind]
        else:
            yield "", _sample(name, each), None, lambda one: one


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_required(hint: Any) -> bool:
    return get_origin(hint) is Required


def _alternatives(hint: Any) -> list[Any]:
    """Return the types that a field can have, but for None."""
    origin = get_origin(hint)
    if origin is Annotated or origin is Required:
        return _alternatives(get_args(hint)[0])
    if origin is Union or origin is types.UnionType:
        return [one for each in get_args(hint) for one in _alternatives(each)]
    return [] if hint is type(None) else [hint]


def _element(hint: Any) -> Any:
    """Return the type of a list's elements; None: it is no list."""
    origin = get_origin(hint)
    if not isinstance(origin, type) or issubclass(origin, Mapping):
        return None
    return get_args(hint)[0] if issubclass(origin, Iterable) else None


def _kind(kind: Any) -> str:
    """Return the type or role that an object says it has; nothing if it says none."""
    for name in ("type", "role"):
        hint = _hints(kind).get(name)
        for each in _alternatives(hint) if hint is not None else ():
            if get_origin(each) is Literal:
                return str(get_args(each)[0])
    return ""


def _least(kind: Any) -> dict[str, Any]:
    """Return the smallest object of a type."""
    return {
        name: _sample(name, _alternatives(hint)[0])
        for name, hint in _hints(kind).items()
        if _is_required(hint)
        or name == "call_id"
        or (name == "type" and _kind(kind) == "item_reference")
    }


def _sample(name: str, hint: Any) -> Any:
    """Return a value for a field."""
    if name in TELLING:
        return TELLING[name]
    if is_typeddict(hint):
        return _least(hint)
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if _element(hint) is not None:
        one = _sample("", _alternatives(_element(hint))[0])
        return [one] if one != {} else []
    return {str: "x", int: 1, float: 0.5, bool: True}.get(hint, {})


def table() -> str:
    """Return the table as it should be."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    parts = [HEAD, f"Documented in {versions}.\n"]
    for interface in INTERFACES:
        rows = [f"| `{path}` | {fate} |" for path, fate in sorted(fields(interface).items())]
        parts.append("\n".join([f"## {interface.title}\n", "| field | |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    TABLE.write_text(table(), "utf-8")
