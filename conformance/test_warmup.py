"""WARM: warm-up, as far as it can be seen from outside."""

import pytest

from conformance.catalogue import Requirement
from conformance.client import Exchange, Server
from conformance.launch import Launched, Launcher, Turned
from conformance.start import Start
from conformance.trials import ample_s, begun, started
from conformance.verdicts import check, inapplicable, not_tested, requirement

TYPES_WITHOUT = ("embeddings", "whisper")
OFF = {
    "WARM-2": Turned(environment={"MLX_WARMUP": "false"}),
    "WARM-3": Turned(flags={"--mlx-warmup": "false"}),
}


def fields_of(health: Exchange) -> tuple[object, object]:
    """Return whether warm-up is enabled and completed; leave the check open where it isn't told."""
    fields = health.fields()
    if not {"warmup_enabled", "warmup_completed"} <= set(fields):
        not_tested("/health doesn't tell of warm-up")
    if fields.get("model_status") == "initialized" and fields["warmup_enabled"] is None:
        inapplicable("this kind of model has no warm-up")
    return fields["warmup_enabled"], fields["warmup_completed"]


def check_sane(demand: Requirement, health: Exchange) -> None:
    """Demand that warm-up is told of, and is over only where it is on and a model is there."""
    fields = health.fields()
    missing = [name for name in ("warmup_enabled", "warmup_completed") if name not in fields]
    is_unloaded = health.status == 503 and fields.get("model_status") == "uninitialized"

    check(demand, not missing, f"no {', '.join(missing)}", health)
    if fields["warmup_completed"] is True:
        check(demand, bool(fields["warmup_enabled"]), "completed, but not enabled", health)
        check(demand, not is_unloaded, "completed, but nothing is loaded", health)


def is_loaded(health: Exchange) -> bool:
    """Whether there is a model, warm or not."""
    return health.status == 200 and health.fields().get("model_status") == "initialized"


def health_as(demand: Requirement, launcher: Launcher, model_type: str) -> Exchange | None:
    """Return the first health of an instance that serves its model as *model_type*, if it does."""
    with begun(demand, launcher, Turned(environment={"MODEL_TYPE": model_type})) as launched:
        moments = launched.start.moments

        def has_loaded() -> bool:
            return bool(moments) and is_loaded(moments[-1].health)

        launched.start.watch(ample_s(launcher), lambda: launched.has_ended() or has_loaded())
        return moments[-1].health if has_loaded() else None


@requirement("WARM-1", profile="managed")
def test_warm_up_is_on_by_default(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """A server that isn't told anything warms up."""
    if launcher.value_of("MLX_WARMUP"):
        launched = started(demand, launcher, Turned(unset=("MLX_WARMUP",)))
    health = launched.server.get("/health")

    check(demand, fields_of(health) == (True, True), "not enabled and completed", health)


@requirement(*OFF, profile="managed")
def test_warm_up_can_be_turned_off(demand: Requirement, launcher: Launcher) -> None:
    """Where it is off, it is never said to be on, let alone to be over."""
    launched = started(demand, launcher, OFF[demand.id])
    healths = [*(each.health for each in launched.start.moments), launched.server.get("/health")]
    for health in healths:
        is_enabled, is_completed = fields_of(health)
        seen = f"warmup_enabled {is_enabled}, completed {is_completed}, with {OFF[demand.id]}"
        check(demand, not is_enabled and not is_completed, seen, health)


@pytest.mark.parametrize("model_type", TYPES_WITHOUT)
@requirement("WARM-7", profile="managed")
def test_other_types_have_no_warm_up(
    demand: Requirement, launcher: Launcher, model_type: str
) -> None:
    """What generates no text has nothing to warm up in this way."""
    health = health_as(demand, launcher, model_type)
    if health is None:
        inapplicable(f"it doesn't serve its model as {model_type}")
    if health_as(demand, launcher, "no-such-type"):
        not_tested("it serves its model whatever MODEL_TYPE says")
    told = [health.fields().get(name) for name in ("warmup_enabled", "warmup_completed")]

    seen = f"warmup_enabled and completed {told}, with MODEL_TYPE={model_type}"
    check(demand, not any(told), seen, health)


@requirement("WARM-8")
def test_health_tells_of_warm_up(demand: Requirement, server: Server) -> None:
    """Whoever waits for warm-up finds out about it."""
    check_sane(demand, server.get("/health"))


@requirement("WARM-8", profile="startup")
def test_health_tells_of_warm_up_from_the_start(demand: Requirement, start: Start) -> None:
    """What is told fits what is loaded, in every state of a start."""
    for moment in start.moments:
        check_sane(demand, moment.health)
