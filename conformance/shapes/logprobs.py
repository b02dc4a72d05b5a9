"""Log probabilities of tokens."""

import math
import re
from typing import Any

from conformance.openai_shapes import first
from conformance.shapes.choices import mappings, text

TOLERANCE = 1e-3
LOST = "\ufffd"


def is_logprob(value: object) -> bool:
    """Whether *value* is a finite logarithm of a probability."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value <= 0  # type: ignore[operator,arg-type]  # a number


def is_bytes(value: object) -> bool:
    """Whether *value* is a list of bytes."""
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 256 for each in value)


def entry_problem(entry: dict[str, Any]) -> str:
    """Look for a token, its log probability, and its bytes."""
    content = entry.get("bytes")
    return first(
        (not isinstance(entry.get("token"), str), "token is not text"),
        (not is_logprob(entry.get("logprob")), f"logprob {entry.get('logprob')}"),
        ("bytes" not in entry, "no bytes"),
        (content is not None and not is_bytes(content), "bytes are not a list of 0 to 255"),
    )


def entries_problem(entries: list[dict[str, Any]] | None) -> str:
    """Look for a list of entries, each with its shape."""
    if not entries:
        return "no list of logprobs.content"
    return next((problem for entry in entries if (problem := entry_problem(entry))), "")


def top_problem(entry: dict[str, Any], most: int) -> str:
    """Look for 1 to *most* alternatives, the likeliest first, that are probabilities together."""
    top = mappings(entry.get("top_logprobs"))
    problem = entries_problem(top)
    if problem:
        return f"top_logprobs: {problem}"
    logprobs = [each["logprob"] for each in top]
    total = sum(math.exp(each) for each in logprobs)
    return first(
        (len(top) > most, f"{len(top)} alternatives, asked for {most}"),
        (logprobs != sorted(logprobs, reverse=True), "the alternatives aren't sorted"),
        (total > 1 + TOLERANCE, f"the probabilities make {total:.3f}"),
    )


def chosen_problem(entry: dict[str, Any]) -> str:
    """Look for the token among its alternatives: as likely there, and none likelier."""
    top = mappings(entry.get("top_logprobs"))
    token, logprob = entry["token"], entry["logprob"]
    # Different tokens can look alike where their bytes are no whole character.
    same = [each["logprob"] for each in top if each["token"] == token]
    near = [each for each in same if abs(each - logprob) <= TOLERANCE]
    likeliest = max(each["logprob"] for each in top)
    return first(
        (bool(same) and not near, f"{token!r}: {logprob}, among its alternatives {same}"),
        (likeliest > logprob + TOLERANCE, f"{token!r}: {logprob}, another has {likeliest}"),
    )


def joined(entries: list[dict[str, Any]]) -> str:
    """Return the text that the entries' bytes make, as far as it is whole characters."""
    pieces = [
        bytes(entry["bytes"]) if entry.get("bytes") is not None else text(entry["token"]).encode()
        for entry in entries
    ]
    return plain(b"".join(pieces).decode("utf-8", "replace"))


def plain(said: str) -> str:
    """Return *said* with one sign for whatever bytes were lost in a row, and none at its end."""
    return re.sub(f"{LOST}+", LOST, said).rstrip(LOST)
