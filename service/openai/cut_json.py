"""JSON that is cut: the arguments of a call that a limit of tokens ended."""

from __future__ import annotations

import re

from service.errors import InvalidRequest
from service.openai.body import decode

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\],]', re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
_HALF_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$")


def mended(text: str) -> str | None:
    """
    Return the JSON object that *text* is the beginning of, with all of it that says something.

    None: it is not the beginning of an object, or is a whole one and more.
    """
    text = text.lstrip()
    if not text.startswith("{"):
        return None
    is_in_text, nested, ends = False, "", ["{}"]
    for piece in _PIECE.finditer(text):
        match piece[0]:
            case "{" | "[" as opening:
                nested = _CLOSING[opening] + nested
                ends.append(text[: piece.end()] + nested)
            case "}" | "]" as closing:
                if not nested.startswith(closing):
                    return None
                nested = nested[1:]
            case ",":
                ends.append(text[: piece.start()] + nested)
            case '"':
                is_in_text = True
                break  # it is the rest
    if not nested:
        return None
    whole = _HALF_ESCAPE.sub(r"\1", text) + '"' if is_in_text else text
    return next((each for each in (whole + nested, *ends[:-3:-1]) if _is_object(each)), None)


def _is_object(text: str) -> bool:
    try:
        decode(text.encode())
    except (InvalidRequest, UnicodeEncodeError):
        return False
    return True
