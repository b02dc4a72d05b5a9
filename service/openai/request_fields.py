"""
The request fields that all endpoints share: how to sample, when to stop, which tools, what form.

Pure translation, like all of this folder; the bodies have passed their contracts before they come here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai.body import MAX_DEPTH, decode
from service.openai.images import Images
from service.protocol import Chat, Constraint, ConstraintKind, Job, ModelCard, Sampling, Tool, Turn

MAX_FORM_BYTES = 64 * 1024  # taste
MAX_SCHEMA_DEPTH = 32  # taste
MAX_SEED = (
    2**64 - 1
)  # protocol: 64 bits; a negative one counts as the unsigned one of the same bits
# Names by which a chat template gets its essentials, and those by which the tokenizer is told how to
# render it; a request may not put its own in their place.
RESERVED = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
     "continue_final_message", "tokenize", "return_dict", "bos_token", "eos_token", "self",
     "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors",
     "return_assistant_tokens_mask", "tokenizer_kwargs",
     # What templates call: their own, and those of Jinja.
     "raise_exception", "strftime_now", "dict", "namespace", "range", "lipsum", "cycler", "joiner"}
)  # fmt: skip
# vLLM's older names for the members of `structured_outputs`.
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def refuse(body: Mapping[str, Any], not_implemented: Mapping[str, tuple[Any, ...]]) -> None:
    """
    See that *body* asks for nothing in *not_implemented*, names with the values that change nothing.

    Raises:
        UnsupportedParameter: it does; to leave it out silently would change the answer.
    """
    for name, harmless in not_implemented.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise UnsupportedParameter(f"{name} is not supported by this server.", param=name)


def whole(number: float | None) -> int | None:
    """Return *number* as an int: to JSON Schema, 2.0 is an integer."""
    return None if number is None else int(number)


def limit(number: float | None) -> int | None:
    """Return *number* as an int; -1, by which some clients say that there is no limit, is None."""
    return None if number is None or number == -1 else int(number)


def sampling(body: Mapping[str, Any]) -> Sampling:
    """Return how the next token is to be chosen."""
    seed, top_k = body.get("seed"), body.get("top_k")
    return Sampling(
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=0 if top_k == -1 else whole(top_k),
        min_p=body.get("min_p"),
        seed=None if seed is None else int(seed) & MAX_SEED,
        frequency_penalty=body.get("frequency_penalty") or 0.0,
        presence_penalty=body.get("presence_penalty") or 0.0,
        repetition_penalty=body.get("repetition_penalty"),
        logit_bias=tuple((int(i), bias) for i, bias in (body.get("logit_bias") or {}).items()),
    )


def stops(body: Mapping[str, Any], name: str = "stop") -> tuple[str, ...]:
    """Return the texts at which the answer ends."""
    given = body.get(name) or ()
    return (given,) if isinstance(given, str) else tuple(given)


def min_tokens(body: Mapping[str, Any], max_tokens: int | None) -> int:
    """
    Return how many tokens an answer must have before the model may end it, by vLLM's extra field.

    Raises:
        InvalidRequest: it may not have so many.
    """
    least = whole(body.get("min_tokens")) or 0
    if max_tokens is not None and least > max_tokens:
        raise InvalidRequest(
            f"An answer of at most {max_tokens} tokens can't have {least}.", param="min_tokens"
        )
    return least


def priority(body: Mapping[str, Any]) -> int:
    """Return the request's turn in the queue, by vLLM's extra field; smaller is earlier."""
    return whole(body.get("priority")) or 0


def several(job: Job, n: int) -> tuple[Job, ...]:
    """Return *job* as often as its answer is wanted; a seed is another one for each but the first."""
    seed = job.sampling.seed
    if seed is None:
        return (job,) * n
    seeds = [(seed + i) & MAX_SEED for i in range(n)]
    samplings = [replace(job.sampling, seed=each) for each in seeds]
    return tuple(replace(job, sampling=each) for each in samplings)


def chat(
    turns: Sequence[Turn],
    tools: Sequence[Tool],
    body: Mapping[str, Any],
    card: ModelCard,
    images: Images | None = None,
) -> Chat:
    """
    Return the prompt that *turns* and *tools* are, with the switches that *body* gives its template.

    Args:
        turns: the chat, with marks where *images* stand.
        tools: what the model may call.
        body: the request, or what of it concerns the template.
        card: of the model.
        images: of the request; None: it has none.

    Raises:
        UnsupportedParameter: it asks a model that can't for tools.
        InvalidRequest: it brings a template, or would put something in the place of what the model's
            own gets anyway; or what it says of the prompt's end can't be.
    """
    if tools and not card.knows_tools:
        raise UnsupportedParameter("This model's chat template takes no tools.", param="tools")
    options = dict(body.get("chat_template_kwargs") or {})
    reserved = [f"chat_template_kwargs.{name}" for name in sorted(RESERVED & options.keys())]
    if body.get("chat_template") is not None:
        reserved.append("chat_template")
    if reserved:
        raise InvalidRequest(
            f"{reserved[0]} can't be set by a request.",
            param=reserved[0],
            code="template_not_allowed",
        )
    thinking = options.pop("enable_thinking", None)
    effort = body.get("reasoning_effort")
    if effort == "none" or (effort is not None and card.knows_thinking):
        options["reasoning_effort"] = effort
        thinking = effort != "none"
    goes_on = bool(body.get("continue_final_message"))
    opens = body.get("add_generation_prompt")
    if goes_on and opens:
        raise InvalidRequest(
            "An answer can't both be begun and go on with the final message.",
            param="add_generation_prompt",
        )
    if goes_on and turns[-1].tool_calls:
        raise InvalidRequest(
            "A message that calls tools has ended.", param="continue_final_message"
        )
    if goes_on and len(turns) > 1 and not (turns[-1].content or turns[-1].reasoning):
        turns, goes_on = turns[:-1], False  # nothing was begun
        opens = True
    return Chat(
        turns=tuple(turns),
        tools=tuple(tools),
        thinking=None if thinking is None else bool(thinking),
        template_options=json.dumps(options),
        add_generation_prompt=opens is not False and not goes_on,
        continue_final_message=goes_on,
        images=tuple(images.files) if images else (),
        image_mark=images.mark if images and images.files else "",
    )


def ignored_effort(name: str, effort: str | None, card: ModelCard) -> tuple[str, ...]:
    """Return the *name* of the hint how long to think, if the model doesn't think and is asked to."""
    return () if effort in (None, "none") or card.knows_thinking else (name,)


def ignored_verbosity(name: str, verbosity: str | None) -> tuple[str, ...]:
    """Return the *name* of the hint how much to say, which no model takes, if it says anything."""
    return () if verbosity in (None, "medium") else (name,)


def constraint(body: Mapping[str, Any]) -> Constraint | None:
    """
    Return the form that the answer's text must have, by `response_format` or the fields of other servers.

    Raises:
        InvalidRequest: two forms are asked for that aren't the same, or its schema is too large, too
            deep, or refers to another document.
    """
    found = [
        *_by_format(body.get("response_format") or {}),
        *_structured(body.get("structured_outputs") or {}, "structured_outputs"),
        *_structured({_GUIDED[n]: body[n] for n in _GUIDED if body.get(n) is not None}, "guided"),
    ]
    if body.get("json_schema") is not None:  # llama.cpp's
        found.append(schema_constraint(_schema(body["json_schema"], "json_schema"), "json_schema"))
    if len({(one.kind, one.source) for one in found}) > 1:
        params = " and ".join(one.param for one in found)
        raise InvalidRequest(f"Only one of {params} can hold.", param=found[1].param)
    return found[0] if found else None


def include_usage(body: Mapping[str, Any]) -> bool:
    """
    Return whether a stream ends with the counts of its tokens.

    Raises:
        InvalidRequest: the answer is wanted whole, and says how it shall be streamed.
    """
    options = body.get("stream_options")
    if options is not None and not body.get("stream"):
        raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
    return bool((options or {}).get("include_usage"))


def _by_format(response_format: Mapping[str, Any]) -> list[Constraint]:
    match response_format.get("type"):
        case "json_object" if response_format.get("schema") is not None:
            return [schema_constraint(response_format["schema"], "response_format.schema")]
        case "json_object":
            return [Constraint("json_object", "", "response_format")]
        case "json_schema":
            schema = response_format["json_schema"].get("schema")
            return [schema_constraint(schema, "response_format.json_schema.schema")]
    return []


def schema_constraint(schema: Any, param: str) -> Constraint:
    """
    Return the constraint of a JSON Schema; without one, of any JSON object.

    Raises:
        InvalidRequest: it is too large, too deep, or refers to another document.
    """
    if schema is None:
        return Constraint("json_object", "", param)
    return Constraint("json_schema", checked_schema(schema, param), param)


def checked_schema(schema: Any, param: str) -> str:
    """
    Return *schema* as JSON text, its members in their order.

    Raises:
        InvalidRequest: as `schema_constraint`.
    """
    source = json.dumps(schema)
    if len(source) > MAX_FORM_BYTES:
        raise _bad_schema(f"The schema is over {MAX_FORM_BYTES // 1024} KB.", param)
    level, depth = [schema], 0
    while level and depth <= MAX_DEPTH:
        level = [inner for outer in level for inner in _inner(outer, param)]
        depth += 1
    if depth > MAX_SCHEMA_DEPTH:
        raise _bad_schema(f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels.", param)
    return source


def _inner(node: Any, param: str) -> list[Any]:
    """Return the objects and lists in *node*."""
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise _bad_schema("A $ref may only lead into the schema itself.", param)
        node = list(node.values())
    return [inner for inner in node if isinstance(inner, dict | list)]


def _bad_schema(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_json_schema")


def _structured(given: Mapping[str, Any], param: str) -> list[Constraint]:
    """Return what the members of vLLM's `structured_outputs` ask for."""
    found: list[Constraint] = []
    for name, value in given.items():
        place = f"guided_{name}" if param == "guided" else f"{param}.{name}"
        match name, value:
            case _, None:
                continue
            case "json", _:
                found.append(schema_constraint(_schema(value, place), place))
            case "json_object", True:
                found.append(Constraint("json_object", "", place))
            case "choice", _:
                found.append(_constraint("choice", json.dumps(value), place))
            case ("regex" | "grammar") as kind, _:
                found.append(_constraint(kind, value, place))
    return found


def _schema(given: Any, param: str) -> Any:
    """Return the JSON Schema that may be given as its text."""
    if not isinstance(given, str):
        return given
    try:
        return decode(given.encode())
    except InvalidRequest as error:
        raise _bad_schema("The schema's text is no JSON object.", param) from error


def _constraint(kind: ConstraintKind, source: str, param: str) -> Constraint:
    if len(source.encode()) > MAX_FORM_BYTES:
        raise InvalidRequest(
            f"It is over {MAX_FORM_BYTES // 1024} KB.", param=param, code="invalid_grammar"
        )
    return Constraint(kind, source, param)


def tool(function: Mapping[str, Any], where: str) -> Tool:
    """
    Return one function; *where* is its place in the request.

    Raises:
        InvalidRequest: its schema can't be.
    """
    return Tool(
        name=function["name"],
        description=function.get("description"),
        parameters=checked_schema(function.get("parameters") or {}, f"{where}.parameters"),
        strict=bool(function.get("strict")),
    )


def among(names: Collection[str], offered: Sequence[Tool]) -> tuple[Tool, ...]:
    """
    Return those of the tools *offered* that go by *names*, as `allowed_tools` chooses them.

    Raises:
        InvalidRequest: one of the names is no tool's.
    """
    if not set(names) <= {one.name for one in offered}:
        raise InvalidRequest("tool_choice allows a tool that is not offered.", param="tool_choice")
    return tuple(one for one in offered if one.name in names)


def distinct(found: Sequence[Tool], param: str = "tools") -> tuple[Tool, ...]:
    """
    Return *found*, which *param* gave, as it is.

    Raises:
        InvalidRequest: two have the same name.
    """
    names = [one.name for one in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidRequest(f"There are two tools of one name at {i}.", param=param)
    return tuple(found)


def chosen(
    choice: str | None, offered: Sequence[Tool], param: str = "tool_choice"
) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """
    Return the tools to offer, and the names of which one must be called.

    Args:
        choice: `auto`, `none`, `required`, or the name of a tool behind a colon.
        offered: those of the request.
        param: the request's field that chooses.

    Raises:
        InvalidRequest: it demands a tool that is not offered.
    """
    names = tuple(one.name for one in offered)
    if choice == "none":
        return (), ()
    if choice in {None, "auto"}:
        return tuple(offered), ()
    assert choice is not None
    demanded = names if choice == "required" else (choice.removeprefix(":"),)
    if not demanded or not set(demanded) <= set(names):
        raise InvalidRequest(f"{param} demands a tool that is not offered.", param=param)
    return tuple(offered), demanded
