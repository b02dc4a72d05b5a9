"""Wrong tokens."""

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.rules import Rule
from conformance.broken.seeing import Body


@breaks("TOK-1", also={"TOK-3"})
class CountHasOneMore(Capable):
    def n_ids(self, ids: list[int]) -> int:
        return super().n_ids(ids) + 1


@breaks("TOK-1", also={"TOK-2"})
class TokensAreText(Capable):
    def ids(self, body: Body) -> list[int]:
        return [str(each) for each in super().ids(body)]  # type: ignore[misc]  # the fault


@breaks("TOK-2")
class TextIsAsciiOnly(Capable):
    def text_of(self, ids: list[int]) -> str:
        return super().text_of(ids).encode("ascii", "ignore").decode()


@breaks("TOK-3")
class TemplateIsNotCounted(Capable):
    def ids(self, body: Body) -> list[int]:
        return super().ids(body)[: 1 if body.get("messages") else None]


@breaks("TOK-4")
class NothingHasNoTokens(Capable):
    def demand_text(self, body: Body) -> None:
        super().demand_text({"prompt": ""} | body)

    def ids(self, body: Body) -> list[int]:
        return super().ids({"prompt": ""} | body)


@breaks("TOK-4")
class UnknownTokensAreNoText(Capable):
    def token_rules(self) -> dict[str, Rule]:
        return {"tokens": lambda value: isinstance(value, list)}

    def text_of(self, ids: list[int]) -> str:
        return super().text_of([each for each in ids if 0 <= each < 256])
