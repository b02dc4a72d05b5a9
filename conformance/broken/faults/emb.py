"""Wrong embeddings."""

import base64
import struct
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.embedding import N_DIMENSIONS, Input
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Refused, Reply


@breaks("EMB-1", also={"EMB-8"})
class ListIsCalledEmbeddings(Capable):
    def embed(self, asked: Asked) -> Reply:
        reply = super().embed(asked)
        body: Any = reply.body
        return Reply(reply.status, body | {"object": "embeddings"})


@breaks("EMB-1", also={"EMB-8"})
class NumbersAreText(Capable):
    def embedding(self, index: int, vector: list[float], body: dict[str, Any]) -> dict[str, Any]:
        return super().embedding(index, vector, body) | {"embedding": [str(x) for x in vector]}


@breaks("EMB-2")
class EmbeddingsAreInAnotherOrder(Capable):
    def inputs(self, given: Any) -> list[Input]:
        return super().inputs(given)[::-1]


@breaks("EMB-3")
class LongerTextsHaveLongerEmbeddings(Capable):
    def vector(self, given: Input, body: dict[str, Any]) -> list[float]:
        found = super().vector(given, body)
        return found if "dimensions" in body or len(given) > 9 else found[:-1]


@breaks("EMB-4")
class DimensionsArePassedOver(Capable):
    def n_dimensions(self, body: dict[str, Any]) -> int:
        return N_DIMENSIONS


@breaks("EMB-4")
class OtherDimensionsAreOurFault(Capable):
    def n_dimensions(self, body: dict[str, Any]) -> int:
        if "dimensions" in body:
            raise Refused(500, "no idea", "internal_error")
        return super().n_dimensions(body)


@breaks("EMB-5")
class Base64IsPassedOver(Capable):
    def embedding(self, index: int, vector: list[float], body: dict[str, Any]) -> dict[str, Any]:
        return super().embedding(index, vector, body | {"encoding_format": "float"})


@breaks("EMB-5")
class Base64OfSixtyFourBits(Capable):
    def encoded(self, vector: list[float]) -> str:
        return base64.b64encode(struct.pack(f"<{len(vector)}d", *vector)).decode()


@breaks("EMB-5")
class Base64WithTheHighestByteFirst(Capable):
    def encoded(self, vector: list[float]) -> str:
        return base64.b64encode(struct.pack(f">{len(vector)}f", *vector)).decode()


@breaks("EMB-6")
class InputIsNotCounted(Capable):
    def n_input_tokens(self, given: Input) -> int:
        return 0


@breaks("EMB-6")
class TotalHasOneMore(Capable):
    def input_usage(self, n_tokens: int) -> dict[str, int]:
        return super().input_usage(n_tokens) | {"total_tokens": n_tokens + 1}


@breaks("EMB-6")
class EachInputIsTheOnlyOne(Capable):
    def n_input_tokens(self, given: Input) -> int:
        return 5 if given == "A clock counts its ticks." else 0


@breaks("EMB-7")
class EmptyTextIsEmbedded(Capable):
    def is_input(self, given: object) -> bool:
        return given == "" or super().is_input(given)


@breaks("EMB-7")
class NumbersAreEmbedded(Capable):
    def inputs(self, given: Any) -> list[Input]:
        return [str(given)] if isinstance(given, int) else super().inputs(given)


@breaks("EMB-8")
class TokensAreOurFault(Capable):
    def is_token(self, given: object) -> bool:
        if isinstance(given, int):
            raise Refused(500, "no idea", "internal_error")
        return False


@breaks("EMB-8")
class UnknownTokensAreEmbedded(Capable):
    def is_token(self, given: object) -> bool:
        return isinstance(given, int)
