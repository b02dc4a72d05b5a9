"""What breaks a schema and no other check."""

from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Miniature, Refused, Reply


@breaks("SHAPE-1", also={"SHAPE-2"})
class TagsAreRepeated(Miniature):
    def tags(self) -> list[str]:
        return [*super().tags(), "local"]


@breaks("SHAPE-2", also={"MODEL-4"})
class TagsOfOneModelAreRepeated(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        super().one_model(asked)
        return Reply(200, self.model() | {"tags": [*self.tags(), "local"]})


@breaks("SHAPE-3", also={"WARM-8"})
class CompletedThoughDisabled(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"warmup_enabled": False, "warmup_completed": True}


@breaks("SHAPE-3", also={"HEALTH-10", "WARM-8"})
class WarmupEnabledTwiceAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"warmup_enabled": True, "warmup_completed": True}


@breaks("SHAPE-4")
class RefusalIsANumber(Miniature):
    def complete(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        found = super().complete(asked, body)
        found["choices"][0]["message"]["refusal"] = 7
        return found


@breaks("SHAPE-5")
class LogprobsOfChunksAreANumber(Miniature):
    def choice(self, delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
        found = super().choice(delta, end)
        found["choices"][0]["logprobs"] = 7
        return found


@breaks("SHAPE-6", also={"MSG-9"})
class ErrorTypeIsEmpty(Miniature):
    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        reply = super().refusal(asked, refused)
        body: Any = reply.body
        body["error"]["type"] = ""
        return reply
