"""
Custom tools: they take a text where functions take arguments.

The model knows them as functions of one argument, which is the text. On the way back the text is taken out
of the arguments, and put into them where a client gives a call back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service.errors import UnsupportedParameter
from service.openai import request_fields
from service.protocol import Tool

_INPUT = "input"


def tool(given: Mapping[str, Any], where: str) -> Tool:
    """
    Return a custom tool as the function that the model knows; *where* is its place in the request.

    Raises:
        UnsupportedParameter: its text shall keep a grammar, which no JSON Schema can say.
        InvalidRequest: the expression for its text can't be.
    """
    text: dict[str, Any] = {"type": "string", "description": "The whole input, as text."}
    wanted = given.get("format") or {"type": "text"}
    grammar = wanted.get("grammar", wanted)  # chats nest it, responses don't
    if wanted["type"] == "grammar":
        if grammar["syntax"] != "regex":
            raise UnsupportedParameter(
                "The input of a custom tool can be held to a regex, but not to a grammar.",
                param=f"{where}.format",
            )
        text["pattern"] = f"^(?:{grammar['definition']})$"
    schema = {
        "type": "object",
        "properties": {_INPUT: text},
        "required": [_INPUT],
        "additionalProperties": False,
    }
    return Tool(
        name=given["name"],
        description=given.get("description"),
        parameters=request_fields.checked_schema(schema, f"{where}.format"),
        strict="pattern" in text,
    )


def text_in(arguments: str) -> str:
    """
    Return the text of a call that the model made, or its beginning, where the call is cut.

    Arguments that aren't as they should be are the text.
    """
    for ending in ("", '"}'):
        try:
            found = json.loads(arguments + ending)
        except ValueError:
            continue
        text = found.get(_INPUT) if isinstance(found, dict) else None
        return text if isinstance(text, str) else arguments
    return arguments


def arguments_of(text: str) -> str:
    """Return the arguments of a call that was made with *text*."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)
