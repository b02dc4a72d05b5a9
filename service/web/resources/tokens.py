"""`POST /v1/tokenize`, `/v1/detokenize` and `/v1/estimate`; nothing is generated."""

from __future__ import annotations

from falcon.asgi import Request, Response

from service.errors import InvalidRequest
from service.openai import models, tokens
from service.web.intake import Intake


class Tokenize:
    """Tells the tokens of a text or a chat."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask the engine, whose tokenizer it is."""
        body = await self._intake.read(req, "tokenize-request")
        card = self._intake.card(body.get("model"), models.KINDS)
        found = await self._intake.tokenize(card, tokens.prompt(body, card))
        with_texts = bool(body.get("return_token_strs"))
        self._intake.send(resp, tokens.token_list(card, found, with_texts=with_texts))


class Detokenize:
    """Tells the text of tokens."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Ask the engine; what it calls a prompt are the request's tokens."""
        body = await self._intake.read(req, "detokenize-request")
        card = self._intake.card(body.get("model"), models.KINDS)
        try:
            text = await self._intake.detokenize(card, tuple(map(int, body["tokens"])))
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param="tokens", code=error.code) from error
        self._intake.send(resp, tokens.token_text(card, text))


class Estimate:
    """Tells what a chat or a completion would take, before it is sent."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_post(self, req: Request, resp: Response) -> None:
        """Count the tokens of each prompt."""
        body = await self._intake.read(req, "estimate-request")
        card = self._intake.card(body.get("model"))
        jobs = tokens.planned(body, card)
        found = [await self._intake.tokenize(card, job.prompt) for job in jobs]
        lengths = [len(each.ids) for each in found]
        self._intake.send(resp, tokens.estimate(card, jobs[0].max_tokens, lengths))
