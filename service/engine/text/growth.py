"""
How much text an operation of a chat template makes, told before it makes it.

What a template does in Python ends with its time. One call can make any amount of memory in no time, though:
those that make more than they are given are here, by the names of Jinja's filters and of methods of texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from jinja2.exceptions import SecurityError

MAX_CHARACTERS = (
    64 << 20
)  # of what an operation or the whole template makes; four of the largest bodies
MAX_BITS = 4096  # of a number; taste
MAX_PARTS = 100_000  # as many as Jinja's own range has
_ESCAPED = 6  # the longest that one character becomes in HTML or in JSON
_PART = 64  # bytes of a short text of its own, in characters of a long one
_WIDE = re.compile(r"%[^a-zA-Z%]*\d{5}|%[^a-zA-Z%]*\*")  # a width that is no width of a column
_WIDE_FIELD = re.compile(r"[:.][^{}]*(?:\d{5}|\{)")


def too_large() -> SecurityError:
    """Return the error for what would grow too large."""
    return SecurityError("it makes too much text")


def size(value: Any) -> int:
    """
    Return about how many characters *value* has as text; what is in it twice counts twice.

    Raises:
        SecurityError: more than may be.
    """
    if isinstance(value, str):
        return len(value)
    n, left = 0, [iter((value,))]
    while left:
        for each in left[-1]:
            n += len(each) if isinstance(each, str) else 1
            if n > MAX_CHARACTERS:
                raise too_large()
            if isinstance(each, Mapping):
                left.append(chain(each, each.values()))
                break
            if isinstance(each, list | tuple | set | frozenset):
                left.append(iter(each))
                break
        else:
            left.pop()
    return n


def of_operator(operator: str, left: Any, right: Any) -> int:
    """Return how many characters or items come of *left* *operator* *right*, as far as they could be many."""
    match operator, left, right:
        case "+", str() | list() | tuple(), str() | list() | tuple():
            return len(left) + len(right)
        case "*", str() | list() | tuple(), int():
            return len(left) * right
        case "*", int(), str() | list() | tuple():
            return left * len(right)
        case "*", int(), int() if left.bit_length() + right.bit_length() > MAX_BITS:
            return MAX_CHARACTERS + 1
        case "**", int(), int() if left.bit_length() * abs(right) > MAX_BITS:
            return MAX_CHARACTERS + 1
        case "%", str(), _:
            return _formatted(left, right)
    return 0


def of_format(text: str, values: Any) -> int:
    """Return how long `text.format(values)` is at most."""
    if _WIDE_FIELD.search(text):
        return MAX_CHARACTERS + 1
    return len(text) + text.count("{") * size(values)


def _formatted(text: str, values: Any) -> int:
    if _WIDE.search(text):
        return MAX_CHARACTERS + 1
    return len(text) + text.count("%") * size(values)


def _joined(items: Any, between: Any = "", *_: Any) -> int:
    return int(size(items) + len(items) * len(str(between)))


def _replaced(text: Any, old: Any, new: Any, *_: Any) -> int:
    text = str(text)
    return int(len(text) + text.count(str(old)) * len(str(new)))


def _indented(text: Any, width: Any = 4, *_: Any) -> int:
    n = width if isinstance(width, int) else len(str(width))
    return len(str(text)) + (str(text).count("\n") + 1) * n


def _wrapped(text: Any, width: int = 79, _: Any = True, between: Any = "\n", *__: Any) -> int:
    return len(str(text)) + (len(str(text)) // max(width, 1) + 1) * len(str(between or "\n"))


def _written(value: Any, indent: Any = 0, *_: Any) -> int:
    n = indent if isinstance(indent, int) else 0
    return int(size(value) * _ESCAPED * (1 + max(n, 0)))


def _in_parts(text: Any, between: Any = None, *_: Any) -> int:
    text = str(text)
    n_parts = text.count(between) if isinstance(between, str) and between else len(text) // 2
    return len(text) + n_parts * _PART


def _listed(value: Any, *_: Any) -> int:
    return len(value) * _PART if isinstance(value, str) else size(value)


def _batched(value: Any, n: Any, *_: Any) -> int:
    return size(value) if isinstance(n, int) and n <= MAX_PARTS else MAX_CHARACTERS + 1


# What a filter makes of its value and its arguments; iterators are lists by then.
FILTERS: dict[str, Callable[..., int]] = {
    "join": _joined,
    "replace": _replaced,
    "indent": _indented,
    "center": lambda text, width=80, *_: len(str(text)) + width,
    "wordwrap": _wrapped,
    "format": lambda text, *values: _formatted(str(text), values),
    "tojson": lambda value, *rest: _written(value, max(filter(_is_number, rest), default=0)),
    "list": _listed,
    "batch": _batched,
    "slice": _batched,
    "sum": lambda value, *_: size(value),
    **dict.fromkeys(
        ("string", "pprint", "xmlattr", "urlencode", "urlize", "escape", "e", "forceescape"),
        lambda value, *_: _written(value),
    ),
}
# What a method of a text makes of the text and its arguments.
METHODS: dict[str, Callable[..., int]] = {
    "join": lambda between, items: _joined(items, between),
    "replace": _replaced,
    "split": _in_parts,
    "rsplit": _in_parts,
    "splitlines": lambda text, *_: len(text) + text.count("\n") * _PART,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


def materialized(value: Any) -> Any:
    """
    Return a *value* that can be looked at without using it up: of an iterator all that it yields.

    Raises:
        SecurityError: that is more than may be.
    """
    if not isinstance(value, Iterable) or hasattr(value, "__len__"):
        return value
    found, n = [], 0
    for each in value:
        n += size(each) + 1
        if n > MAX_CHARACTERS:
            raise too_large()
        found.append(each)
    return found
