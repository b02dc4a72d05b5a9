"""`POST /v1/embeddings`, `/v1/rerank` and `/v1/score`: what is made of texts that are only read."""

from __future__ import annotations

import asyncio

import falcon
from falcon.asgi import Request, Response

from service.openai import embeddings, ranking
from service.protocol import ModelCard, Scored
from service.web.intake import Intake


class Embeddings:
    """Makes vectors of texts."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, ask the engine, and write what it found; others get their turn between two pieces."""
        body = await self._intake.read(req, "embedding-request")
        card = self._intake.card(body.get("model"), ("embeddings",))
        asked = embeddings.parse(body)
        found = await self._intake.embed(
            req,
            card,
            asked.inputs,
            prompt_name=asked.prompt_name,
            dimensions=asked.dimensions,
            priority=asked.priority,
        )
        pieces = []
        for piece in embeddings.written(card, found, is_encoded=asked.is_encoded):
            pieces.append(piece)
            await asyncio.sleep(0)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b"".join(pieces)


class Rerank:
    """Orders documents by how well they answer a query."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, ask the engine, and put what it found in order."""
        body = await self._intake.read(req, "rerank-request")
        card = self._intake.card(body.get("model"), ("embeddings", "reranker"))
        asked = ranking.parse_rerank(body)
        found = await _scored(self._intake, req, card, asked)
        self._intake.send(resp, ranking.ranking(card, asked, found, body))


class Score:
    """Tells how well one text answers another."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Check, and ask the engine."""
        body = await self._intake.read(req, "score-request")
        card = self._intake.card(body.get("model"), ("embeddings", "reranker"))
        found = await _scored(self._intake, req, card, ranking.parse_score(body))
        self._intake.send(resp, ranking.scores(card, found))


async def _scored(
    intake: Intake, req: Request, card: ModelCard, asked: ranking.RankingRequest
) -> Scored:
    return await intake.score(
        req,
        card,
        asked.queries,
        asked.documents,
        params=asked.params,
        priority=asked.priority,
    )
