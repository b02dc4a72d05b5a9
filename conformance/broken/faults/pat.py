"""What breaks a client's pattern and hardly anything else."""

from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import MODEL_ID, Asked, Miniature, Refused


@breaks("PAT-1", also={"DISC-15", "PAT-4"})
class TagChatIsMissing(Miniature):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "chat"]


@breaks("PAT-2", also={"HEALTH-6", "PAT-4", "SHAPE-3"})
class WarmupCompletedIsNull(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"warmup_completed": None}


@breaks("PAT-3")
class FamilyIsNoName(Miniature):
    def find_model(self, body: dict[str, Any]) -> None:
        if body.get("model") != MODEL_ID:
            raise Refused(404, "no such model", "model_not_found", "model")
        super().find_model(body)


@breaks("PAT-4", also={"RID-1", "RID-6"})
class HealthIgnoresTheId(Miniature):
    def given_ids(self, asked: Asked) -> list[str]:
        return [] if asked.path == "/health" else super().given_ids(asked)
