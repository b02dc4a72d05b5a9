"""Embeddings: of a text's hash, which is as good as any without a model."""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any

from conformance.broken.miniature import Asked, Miniature, Refused, Reply

EMBEDDINGS = "/v1/embeddings"
N_DIMENSIONS = 8
N_VOCABULARY = 256

Input = str | list[int]


class Embedding(Miniature):
    """The miniature, with embeddings."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "embeddings"]

    def other(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.path != EMBEDDINGS:
            return super().other(asked)
        self.demand_method(asked, "POST")
        return self.embed(asked)

    def embed(self, asked: Asked) -> Reply:
        """Answer POST /v1/embeddings."""
        body = self.read(asked)
        self.find_model(body)
        self.log_processing(asked)
        inputs = self.inputs(body.get("input"))
        vectors = [self.vector(each, body) for each in inputs]
        data = [self.embedding(index, vector, body) for index, vector in enumerate(vectors)]
        usage = self.input_usage(sum(self.n_input_tokens(each) for each in inputs))
        found = {"object": "list", "data": data, "model": body["model"], "usage": usage}
        return Reply(200, found)

    def inputs(self, given: Any) -> list[Input]:
        """Return what is to be embedded, one by one."""
        if self.is_input(given):
            return [given]
        if isinstance(given, list) and given and all(self.is_input(each) for each in given):
            return given
        raise Refused(400, "there is nothing to embed", "invalid_value", "input")

    def is_input(self, given: object) -> bool:
        """Whether it is a text or token ids, and not empty."""
        if isinstance(given, list):
            return bool(given) and all(self.is_token(each) for each in given)
        return isinstance(given, str) and bool(given)

    def is_token(self, given: object) -> bool:
        """Whether it is a token's id."""
        return type(given) is int and 0 <= given < N_VOCABULARY

    def n_input_tokens(self, given: Input) -> int:
        """Return how many tokens it has."""
        return len(given.split() if isinstance(given, str) else given)

    def input_usage(self, n_tokens: int) -> dict[str, int]:
        """Return the counts."""
        return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}

    def vector(self, given: Input, body: dict[str, Any]) -> list[float]:
        """Return the embedding, of length one, in numbers that 32 bits can hold."""
        digest = hashlib.sha256(str(given).encode()).digest()
        numbers = [byte - 127.5 for byte in digest[: self.n_dimensions(body)]]
        length = math.hypot(*numbers)
        return self.narrowed([number / length for number in numbers])

    def n_dimensions(self, body: dict[str, Any]) -> int:
        """Return how long embeddings are to be."""
        wanted = body.get("dimensions") or N_DIMENSIONS
        if wanted not in range(1, N_DIMENSIONS + 1):
            raise Refused(400, "there is no such length", "invalid_value", "dimensions")
        return int(wanted)

    def narrowed(self, numbers: Sequence[float]) -> list[float]:
        """Return the nearest numbers of 32 bits."""
        return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))

    def embedding(self, index: int, vector: list[float], body: dict[str, Any]) -> dict[str, Any]:
        """Return one embedding as it is sent."""
        is_encoded = body.get("encoding_format") == "base64"
        content = self.encoded(vector) if is_encoded else vector
        return {"object": "embedding", "index": index, "embedding": content}

    def encoded(self, vector: list[float]) -> str:
        """Return an embedding's bytes as base64."""
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
