"""What Schemathesis is told beyond its settings; it loads this in a process of its own."""

from __future__ import annotations

from typing import Any

import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

from service.contracts import schemas

ITEMS = "GET /v1/responses/{response_id}/input_items"
KEPT_RESPONSE = "GET /v1/responses/{response_id}"
MAX_TOKENS = 4
LIMIT = Draft202012Validator(schemas()["chat-request"]["properties"]["max_tokens"])
REFUSALS = {
    "unsupported_model_type",
    "unsupported_parameter",
    "unsupported_content",
    "invalid_json_schema",
    "invalid_grammar",
    "invalid_token",
    "template_not_allowed",
    "template_refused",
    "invalid_prompt",
    "previous_response_not_found",
    "item_not_found",
    "response_ended",
}
# Fields that are right by themselves, and refused for what stands, or does not stand, in another.
RELATED = {
    "function_call",
    "functions",
    "json_schema",
    "starting_after",
    "stream_options",
    "tool_choice",
    "tools",
    "top_logprobs",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "n",
    "max_tokens",
    "min_tokens",
    "prompt",
    "add_generation_prompt",
    "continue_final_message",
}


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """
    Keep answers short, and let lists begin at their first item.

    Any limit that holds, none at all included, is made small. The id of an item, after which a list
    may begin, can't be guessed: with one that is well formed every list would be refused. Nor may a kept
    response begin in its middle but as a stream.
    """
    meta = case.meta
    if case.operation.label == ITEMS and meta is not None and meta.generation.mode.is_positive:
        case.query.pop("after", None)
    if (
        case.operation.label == KEPT_RESPONSE
        and meta is not None
        and meta.generation.mode.is_positive
    ):
        case.query.pop("starting_after", None)
    body: Any = case.body
    if not isinstance(body, dict):
        return
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = body.get(name)
        if LIMIT.is_valid(limit):
            body[name] = min(limit, MAX_TOKENS) if limit and limit > 0 else MAX_TOKENS


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """
    Tell whether *failure* counts.

    What a schema cannot say may be refused although the schema holds: a field that is described but
    not built yet, an endpoint for models of
    another kind, content that this model cannot read, a form that no answer can be held to, fields
    that contradict each other, a tool call whose arguments are no JSON, and a chat in which nothing is said.
    """
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    error = response.json()["error"]
    param = str(error["param"])
    is_related = param.partition(".")[0] in RELATED or param.endswith(".arguments")
    is_related |= param == "messages"  # nothing in any of them is said
    return error["code"] not in REFUSALS and not is_related
