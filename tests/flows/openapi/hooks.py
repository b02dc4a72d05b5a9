"""What Schemathesis is told beyond its settings; it loads this in a process of its own."""

from __future__ import annotations

from typing import Any

import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

from service.contracts import schemas

MAX_TOKENS = 4
LIMIT = Draft202012Validator(schemas()["chat-request"]["properties"]["max_tokens"])
REFUSALS = {"unsupported_parameter", "unsupported_content"}


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Keep answers short: any limit that holds, none at all included, is made small."""
    body: Any = case.body
    if not isinstance(body, dict):
        return
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if LIMIT.is_valid(limit):
            body[name] = min(limit or MAX_TOKENS, MAX_TOKENS)


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
    not built yet, content that this model cannot read, and a tool call whose arguments are no JSON.
    """
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    error = response.json()["error"]
    is_about_arguments = str(error["param"]).endswith(".function.arguments")
    return error["code"] not in REFUSALS and not is_about_arguments
