"""Wrong lists of models."""

import time
from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import Miniature, Reply


@breaks(
    "DISC-1",
    also={"DISC-12", "HEALTH-12", "OAI-1", "OAI-2", "PAT-1", "PAT-3", "PAT-4", "RID-9", "SHAPE-1"},
)
class ListWithoutEnvelope(Miniature):
    def models(self) -> Reply:
        return Reply(200, [self.model()])


@breaks("DISC-2", also={"HEALTH-12", "MODEL-1", "MODEL-3", "OAI-1", "OAI-2", "RID-9", "SHAPE-1"})
class IdIsANumber(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"id": 7}


@breaks("DISC-3", also={"MODEL-1", "SHAPE-1", "SHAPE-2"})
class ObjectIsList(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"object": "list"}


@breaks("DISC-4")
class CreatedIsNow(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"created": int(time.time())}


@breaks("DISC-4")
class CreatedInMilliseconds(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"created": self.created * 1000}


@breaks("DISC-5", also={"SHAPE-1", "SHAPE-2"})
class OwnerIsOpenai(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"owned_by": "openai"}


@breaks("DISC-6", also={"SHAPE-1", "SHAPE-2"})
class DescriptionIsBlank(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"description": " "}


@breaks("DISC-7", also={"PAT-4", "SHAPE-1", "SHAPE-2"})
class ContextLengthIsText(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"context_length": "8192"}


@breaks("DISC-8", also={"PAT-1", "PAT-3", "SHAPE-1", "SHAPE-2"})
class FamilyIsNull(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"family": None}


@breaks("DISC-9", also={"DISC-15", "PAT-1", "PAT-4", "SHAPE-1", "SHAPE-2"})
class TagsAreText(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"tags": "local,chat"}


@breaks("DISC-10", also={"SHAPE-1", "SHAPE-2"})
class TierIsANumber(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"tier": 3}


@breaks("DISC-11", also={"DISC-10", "PAT-1", "PAT-4", "SHAPE-1", "SHAPE-2"})
class TierIsMissing(Miniature):
    def model(self) -> dict[str, Any]:
        return {name: value for name, value in super().model().items() if name != "tier"}


@breaks("DISC-12", also={"HEALTH-12", "OAI-1", "OAI-2", "PAT-1", "PAT-3", "PAT-4", "RID-9"})
class NothingListed(Miniature):
    def models(self) -> Reply:
        return Reply(200, {"object": "list", "data": []})


@breaks("DISC-13")
class ListedTwice(Miniature):
    def models(self) -> Reply:
        return Reply(200, {"object": "list", "data": [self.model(), self.model()]})


@breaks("DISC-14", also={"CFG-3", "CFG-11", "CFG-19"})
class ContextLengthIsFixed(Miniature):
    def model(self) -> dict[str, Any]:
        return super().model() | {"context_length": 8192}


@breaks("DISC-15", also={"PAT-4"})
class TagLocalIsMissing(Miniature):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "local"]
