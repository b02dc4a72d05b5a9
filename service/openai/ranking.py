"""
`POST /v1/rerank` and `/v1/score`: bodies into queries and documents, scores into bodies.

The first is shaped as Jina's and Cohere's, the second as vLLM's. Pure translation, as `chat` is.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidRequest
from service.openai import request_fields
from service.protocol import ModelCard, Scored


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """
    What a request for scores asks for.

    Attributes:
        queries: one for each document, or one for all.
        documents: at least one.
        params: the fields that hold the two.
        priority: its turn in the queue; smaller is earlier.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    params: tuple[str, str]
    priority: int


def parse_rerank(body: dict[str, Any]) -> RankingRequest:
    """Read *body*, which has passed the contract `rerank-request`."""
    documents = body["documents"]
    return RankingRequest(
        queries=(body["query"],),
        documents=tuple(each if isinstance(each, str) else each["text"] for each in documents),
        params=("query", "documents"),
        priority=request_fields.priority(body),
    )


def parse_score(body: dict[str, Any]) -> RankingRequest:
    """
    Read *body*, which has passed the contract `score-request`.

    Raises:
        InvalidRequest: there are several first texts, and not as many second ones.
    """
    first, second = (
        (given,) if isinstance(given, str) else tuple(given)
        for given in (body["text_1"], body["text_2"])
    )
    if len(first) not in {1, len(second)}:
        raise InvalidRequest(
            f"There are {len(first)} texts to compare with {len(second)}; one would go with all.",
            param="text_1",
        )
    return RankingRequest(first, second, ("text_1", "text_2"), request_fields.priority(body))


def ranking(
    card: ModelCard, asked: RankingRequest, found: Scored, body: dict[str, Any]
) -> dict[str, Any]:
    """Return the documents in the order of their scores, the best first, as *body* wants them."""
    order = sorted(range(len(found.scores)), key=lambda i: -found.scores[i])
    most = request_fields.whole(body.get("top_n"))
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": found.scores[i]} for i in order[:most]
    ]
    if body.get("return_documents") is not False:
        for result in results:
            result["document"] = {"text": asked.documents[result["index"]]}
    return {
        "id": f"rerank-{secrets.token_hex(12)}",
        "object": "list",
        "model": card.id,
        "results": results,
        "usage": _usage(found),
    }


def scores(card: ModelCard, found: Scored) -> dict[str, Any]:
    """Return the score of each pair, in their order."""
    return {
        "id": f"score-{secrets.token_hex(12)}",
        "object": "list",
        "created": int(time.time()),
        "model": card.id,
        "data": [
            {"index": i, "object": "score", "score": score} for i, score in enumerate(found.scores)
        ],
        "usage": _usage(found),
    }


def _usage(found: Scored) -> dict[str, int]:
    return {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens}
