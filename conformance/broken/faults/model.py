"""Wrong answers about one model."""

from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import MODELS, Asked, Miniature, Refused, Reply


@breaks("MODEL-1", also={"MODEL-2", "MODEL-3", "MODEL-4", "SHAPE-2"})
class ModelInEnvelope(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        super().one_model(asked)
        return self.models()


@breaks("MODEL-2", also={"MODEL-5"})
class RawSlashIsLost(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        if "/" in asked.target.removeprefix(f"{MODELS}/"):
            self.other(asked)
        return super().one_model(asked)


@breaks("MODEL-3")
class EncodedSlashIsLost(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        if "%" in asked.target:
            self.other(asked)
        return super().one_model(asked)


@breaks("MODEL-4")
class DetailDiffers(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        super().one_model(asked)
        return Reply(200, self.model() | {"description": "Something else"})


@breaks("MODEL-5")
class UnknownModelWithoutCode(Miniature):
    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        reply = super().refusal(asked, refused)
        body: Any = reply.body
        if asked.path.startswith(f"{MODELS}/") and reply.status == 404:
            body["error"]["code"] = "not_found"
        return reply


@breaks("MODEL-3")
class LowerCaseDigitsAreUnknown(Miniature):
    def one_model(self, asked: Asked) -> Reply:
        if "%2f" in asked.target:
            raise Refused(404, "no such model", "model_not_found", "model")
        return super().one_model(asked)
