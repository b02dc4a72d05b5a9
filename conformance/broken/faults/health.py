"""Wrong answers about health."""

import time
from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import (
    LOADING_S,
    MODEL_ID,
    WARMING_S,
    Asked,
    Miniature,
    Refused,
    Reply,
)


@breaks("HEALTH-1", also={"HEALTH-7", "SHAPE-3"})
class StatusIsTrue(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"status": True}


@breaks("HEALTH-1", also={"HEALTH-7", "SHAPE-3"})
class StatusIsMissingAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return {name: value for name, value in super().health_loading().items() if name != "status"}


@breaks("HEALTH-2", also={"HEALTH-12", "PAT-2", "SHAPE-3"})
class ModelIdIsMissing(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return {
            name: value for name, value in super().health_loaded().items() if name != "model_id"
        }


@breaks("HEALTH-2", also={"HEALTH-10", "SHAPE-3"})
class ModelIdIsMissingAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return {
            name: value for name, value in super().health_loading().items() if name != "model_id"
        }


@breaks("HEALTH-3", also={"HEALTH-9", "HEALTH-10", "HEALTH-11", "HEALTH-14", "PAT-2", "SHAPE-3"})
class ModelStatusIsReady(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"model_status": "ready"}


@breaks("HEALTH-3", also={"SHAPE-3"})
class ModelStatusIsLoading(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"model_status": "loading"}


@breaks("HEALTH-4", also={"HEALTH-8", "HEALTH-11", "HEALTH-14", "HEALTH-18", "PAT-4", "SHAPE-3"})
class HealthyIsText(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"models_healthy": "true"}


@breaks("HEALTH-4", also={"SHAPE-3"})
class HealthyIsNullAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"models_healthy": None}


@breaks("HEALTH-5", also={"PAT-4", "SHAPE-3"})
class WarmupEnabledIsText(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"warmup_enabled": "true"}


@breaks("HEALTH-5", also={"HEALTH-10", "SHAPE-3"})
class WarmupEnabledIsTextAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"warmup_enabled": "unknown"}


@breaks("HEALTH-6", also={"PAT-4", "SHAPE-3"})
class WarmupCompletedIsANumber(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"warmup_completed": 1}


@breaks("HEALTH-6", also={"HEALTH-10", "SHAPE-3"})
class WarmupCompletedIsTextAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"warmup_completed": "no"}


@breaks("HEALTH-7", also={"SHAPE-3"})
class StatusIsReady(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"status": "ready"}


@breaks("HEALTH-7", also={"SHAPE-3"})
class StatusIsDownAt503(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"status": "down"}


@breaks("HEALTH-8", also={"HEALTH-10", "HEALTH-14", "HEALTH-17", "HEALTH-18", "PAT-2"})
class HealthyWith503(Miniature):
    def health(self) -> Reply:
        return Reply(503, super().health().body)


@breaks("HEALTH-9", also={"HEALTH-8", "HEALTH-13"})
class UninitializedWith200(Miniature):
    def health(self) -> Reply:
        return Reply(200, super().health().body)


@breaks("HEALTH-10", also={"SHAPE-3"})
class ModelNamedWhileLoading(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"model_id": MODEL_ID}


@breaks("HEALTH-11", also={"HEALTH-8", "SHAPE-3"})
class HealthyWhileUninitialized(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"models_healthy": True}


@breaks("HEALTH-11", also={"HEALTH-9", "HEALTH-10", "HEALTH-14", "PAT-2", "SHAPE-3"})
class UninitializedForEver(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"model_status": "uninitialized"}


@breaks("HEALTH-12")
class ModelIdIsAPath(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        return super().health_loaded() | {"model_id": f"/models/{MODEL_ID}"}


@breaks("HEALTH-13")
class PortOpensLate(Miniature):
    def before_listening(self) -> None:
        time.sleep(LOADING_S)


@breaks("HEALTH-14", also={"HEALTH-8", "HEALTH-10", "HEALTH-17"})
class WarmingUpWith503(Miniature):
    def health(self) -> Reply:
        reply = super().health()
        return Reply(503, reply.body) if self.state() == "warming" else reply


@breaks("HEALTH-15")
class WarmingUpTwice(Miniature):
    def state(self) -> str:
        since_s = self.age_s() - LOADING_S - WARMING_S
        return "warming" if WARMING_S * 0.2 < since_s < WARMING_S * 0.6 else super().state()


@breaks("HEALTH-16", also={"HEALTH-19"})
class HealthTakesSeconds(Miniature):
    def health(self) -> Reply:
        if self.n_generating:
            time.sleep(5.5)
        return super().health()


@breaks("HEALTH-16")
class ThreeStreamsBlockEverything(Miniature):
    blocked_until_s = 0.0
    n_crowded = 0

    def answer(self, asked: Asked) -> Reply:
        time.sleep(max(0.0, self.blocked_until_s - time.monotonic()))
        return super().answer(asked)

    def tick(self) -> None:
        self.n_crowded += self.n_generating > 2
        if self.n_crowded > 30 and not self.blocked_until_s:
            self.blocked_until_s = time.monotonic() + 12
        time.sleep(max(0.0, self.blocked_until_s - time.monotonic()))
        super().tick()


@breaks("HEALTH-18")
class BusyIs503(Miniature):
    def health(self) -> Reply:
        reply = super().health()
        return Reply(503, reply.body) if self.n_generating else reply


@breaks("HEALTH-18")
class FullIsUnhealthy(Miniature):
    def health(self) -> Reply:
        return Reply(503, self.health_loading()) if self.n_waiting else super().health()


@breaks("HEALTH-19")
class HealthWaitsForGeneration(Miniature):
    def health(self) -> Reply:
        with self.lock:
            self.lock.wait_for(lambda: not self.n_generating)
        return super().health()


@breaks("HEALTH-19")
class WholeAnswersBlockHealth(Miniature):
    n_whole = 0

    def health(self) -> Reply:
        while self.n_whole:
            time.sleep(0.001)
        return super().health()

    def complete(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        self.n_whole += 1
        try:
            return super().complete(asked, body)
        finally:
            self.n_whole -= 1


@breaks("HEALTH-20")
class HealthTakesAWhile(Miniature):
    def health(self) -> Reply:
        if self.n_generating:
            time.sleep(0.52)
        return super().health()


@breaks("HEALTH-17")
class RoutesOpenWhileLoading(Miniature):
    def not_ready(self, asked: Asked) -> Reply:
        return self.models()


@breaks("HEALTH-17")
class NoRetryAfterWhileLoading(Miniature):
    def not_ready(self, asked: Asked) -> Reply:
        raise Refused(503, "still loading", "model_not_ready")
