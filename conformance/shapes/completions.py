"""Completions of bare texts, whole and streamed, and the older form of log probabilities."""

from collections import Counter
from typing import Any

from conformance.client import Exchange
from conformance.openai_shapes import chunks, first, is_count, sum_problem
from conformance.shapes.choices import mappings, text
from conformance.shapes.logprobs import LOST, TOLERANCE, is_logprob

OBJECT = "text_completion"
FINISH_REASONS = ("stop", "length", "content_filter")
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
ESCAPED = "bytes:"


def completion_problem(answer: Exchange) -> str:
    """Look for one choice with its text, and the fields around it."""
    body = answer.fields()
    choices = mappings(body.get("choices"))
    if answer.status != 200 or len(choices) != 1:
        return f"status {answer.status}, expected 200 and one choice"
    (choice,) = choices
    problem = sum_problem(body.get("usage"))
    return first(
        (answer.media_type != "application/json", "content type is not application/json"),
        (body.get("object") != OBJECT, f'object is not "{OBJECT}"'),
        (not text(body.get("id")), "id is not text"),
        (not is_count(body.get("created")), "created is not Unix seconds"),
        (not text(body.get("model")), "model is not text"),
        (choice.get("index") != 0, "choices[0].index is not 0"),
        (not isinstance(choice.get("text"), str), "choices[0].text is not text"),
        (choice.get("finish_reason") not in FINISH_REASONS, "finish_reason is none of OpenAI's"),
        (bool(problem), problem),
    )


def chunk_problem(answer: Exchange) -> str:
    """Look for pieces of text under one id, each choice ended once."""
    found = chunks(answer)
    choices = [choice for chunk in found for choice in mappings(chunk.get("choices"))]
    ends = Counter(choice.get("index") for choice in choices if choice.get("finish_reason"))
    return first(
        (any(chunk.get("object") != OBJECT for chunk in found), f'object is not always "{OBJECT}"'),
        (len({str(chunk.get("id")) for chunk in found}) != 1, "chunks don't share one id"),
        (not choices, "no choice in any chunk"),
        (any(not isinstance(each.get("text"), str) for each in choices), "a choice without text"),
        (
            set(ends.values()) != {1} or set(ends) != {each.get("index") for each in choices},
            "a choice doesn't end just once",
        ),
    )


def lists_problem(logprobs: dict[str, Any]) -> str:
    """Look for the four lists, of equal length, with tokens and offsets in them."""
    lists = [logprobs.get(name) for name in LISTS]
    lengths = [len(each) for each in lists if isinstance(each, list)]
    if len(lengths) < len(LISTS):
        return f"logprobs doesn't have the lists {', '.join(LISTS)}"
    return first(
        (len(set(lengths)) != 1, f"the lists' lengths are {lengths}"),
        (not any(lengths), "the lists are empty"),
        (not all(isinstance(each, str) for each in logprobs["tokens"]), "a token is not text"),
        (not all(map(is_count, logprobs["text_offset"])), "an offset is no count"),
    )


def likelihood_problem(logprob: object, top: object, token: str, most: int) -> str:
    """Look for a token's log probability, and for as likely a one among at most *most* and itself."""
    likely = top if isinstance(top, dict) else {}
    told = likely.get(token, logprob)
    return first(
        (not is_logprob(logprob), f"{token!r}: log probability {logprob}"),
        (not likely, f"{token!r}: no alternatives"),
        (len(likely) > most + 1, f"{token!r}: {len(likely)} alternatives, asked for {most}"),
        (not all(map(is_logprob, likely.values())), f"{token!r}: alternatives {likely}"),
        (
            is_logprob(told) and abs(told - logprob) > TOLERANCE,
            f"{token!r}: {logprob}, among its alternatives {told}",
        ),
    )


def offset_problem(logprobs: dict[str, Any], said: str, base: int) -> str:
    """Look whether each token stands where its offset says, from *base* on."""
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        at = offset - base
        is_readable = LOST not in token and not token.startswith(ESCAPED)
        if at < 0 or (is_readable and not said.startswith(token, at)):
            return f"{token!r} doesn't stand at {offset}"
    return ""
