"""Tokens and their log-probabilities, in the form that chats and responses share."""

from __future__ import annotations

from typing import Any

from service.protocol import Candidate, TokenLogprob

MIN_LOGPROB = -9999.0


def entry(token: TokenLogprob) -> dict[str, Any]:
    """Return one token of an answer, with the likeliest ones in its place."""
    return candidate(token.chosen) | {"top_logprobs": [candidate(one) for one in token.top]}


def candidate(one: Candidate) -> dict[str, Any]:
    """Return one token; its text may show only part of a character, its bytes are exact."""
    return {
        "token": one.piece.decode("utf-8", "replace"),
        "logprob": MIN_LOGPROB if one.logprob is None else one.logprob,
        "bytes": list(one.piece),
    }
