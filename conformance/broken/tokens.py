"""Tokens by themselves: a text's are its bytes, and a chat's are as many as it is billed for."""

from typing import Any

from conformance.broken.miniature import Asked, Reply
from conformance.broken.rules import DETOKENIZE_RULES, TOKENIZE_RULES, Rule, broken_by
from conformance.broken.seeing import Body
from conformance.broken.talking import Talking

TOKENIZE = "/v1/tokenize"
DETOKENIZE = "/v1/detokenize"
TICK = 7


class Tokenizing(Talking):
    """The talking miniature, with its tokens."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "tokenize"]

    def other(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.path not in {TOKENIZE, DETOKENIZE}:
            return super().other(asked)
        self.demand_method(asked, "POST")
        body = self.read(asked)
        answer = self.tokenized(body) if asked.path == TOKENIZE else self.detokenized(body)
        self.find_model(body)
        return Reply(200, answer)

    def tokenized(self, body: Body) -> dict[str, Any]:
        """Answer POST /v1/tokenize."""
        self.demand_text(body)
        ids = self.ids(body)
        longest = self.options["context_length"]
        return {"tokens": ids, "count": self.n_ids(ids), "max_model_len": longest}

    def demand_text(self, body: Body) -> None:
        """Refuse what has no tokens."""
        needed = "messages" if body.get("messages") else "prompt"
        if name := broken_by(body, TOKENIZE_RULES, needed):
            self.refuse_value(name)

    def ids(self, body: Body) -> list[int]:
        """Return the tokens of a text or a chat."""
        if body.get("messages"):
            return [TICK] * self.usage_of(body, 0)["prompt_tokens"]
        return list(str(body["prompt"]).encode())

    def n_ids(self, ids: list[int]) -> int:
        """Count tokens."""
        return len(ids)

    def token_rules(self) -> dict[str, Rule]:
        """Return what tokens may be."""
        return DETOKENIZE_RULES

    def detokenized(self, body: Body) -> dict[str, Any]:
        """Answer POST /v1/detokenize."""
        if name := broken_by(body, self.token_rules(), "tokens"):
            self.refuse_value(name)
        return {"prompt": self.text_of(body["tokens"])}

    def text_of(self, ids: list[int]) -> str:
        """Return the text that tokens make."""
        return bytes(ids).decode("utf-8", "replace")
