"""PAT: what the guide's four client patterns do, done here in the suite's own words."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Server, tags_of
from conformance.openai_shapes import completion_problem
from conformance.verdicts import check, inapplicable, not_tested, requirement

REGISTERED = ("family", "context_length", "description", "tier")
NINE = (
    *("id", "object", "created", "owned_by"),
    *("description", "context_length", "family", "tags", "tier"),
)
STEP_S = 0.05


def registry(server: Server) -> dict[str, dict[str, Any]]:
    """Pattern 1: what a client can offer its users, found by tag alone."""
    chatting = [model for model in server.models() if "chat" in tags_of(model)]
    return {
        str(model.get("id")): {name: model.get(name) for name in REGISTERED} for model in chatting
    }


def is_up(health: Exchange) -> bool:
    """Say what the gate of section 3 says: 200, healthy, and warm where warm-up is enabled."""
    fields = health.fields()
    is_warm = bool(not fields.get("warmup_enabled") or fields.get("warmup_completed"))
    return health.status == 200 and bool(fields.get("models_healthy")) and is_warm


def is_up_with_model(health: Exchange) -> bool:
    """Say what the gate of pattern 2 says, which looks at the model's status as well."""
    fields = health.fields()
    has_model = fields.get("model_status") == "initialized" and bool(fields.get("model_id"))
    return is_up(health) and has_model


GATES = {"section-3": is_up, "pattern-2": is_up_with_model}


def wait_for(server: Server, is_open: Callable[[Exchange], bool]) -> Exchange | None:
    """Poll /health until the gate is open; None if it isn't within the time of one exchange."""
    deadline = time.monotonic() + server.timeout_s
    while time.monotonic() < deadline:
        try:
            health = server.get("/health")
            if is_open(health):
                return health
        except NoAnswer:
            pass  # not there yet; the pattern's client tries again, too
        time.sleep(STEP_S)
    return None


def family_name(server: Server) -> str:
    """Return what pattern 3 calls its model: gemma where that is served, or else what is."""
    known = {str(model.get("id")): str(model.get("family")) for model in server.models()}
    family = "gemma" if "gemma" in known.values() else known.get(server.model, "")
    # A family names a model only where just one has it.
    return family if list(known.values()).count(family) == 1 else server.model


def tracked_call(server: Server) -> Exchange:
    """Pattern 3: a chat without any option, under an id of the client's own."""
    return server.chat(
        "Hello", [("X-Request-ID", f"tier2-{uuid.uuid4()}")], model=family_name(server)
    )


@requirement("PAT-1")
def test_registry_can_be_built(demand: Requirement, server: Server) -> None:
    """Filtering by tag finds a model, and all that is shown of it is there."""
    found = registry(server)
    gaps = [
        f"{model}: {name}"
        for model, entry in found.items()
        for name, value in entry.items()
        if value in (None, "")
    ]

    check(demand, bool(found), "no model is tagged chat", server.get("/v1/models"))
    check(demand, not gaps, f"without a value: {', '.join(gaps)}")


@pytest.mark.parametrize("gate", GATES)
@requirement("PAT-2")
def test_waiting_ends(demand: Requirement, server: Server, gate: str) -> None:
    """A client that waits for the server by either rule gets through."""
    found = wait_for(server, GATES[gate])

    check(demand, found is not None, f"{gate}: not open within {server.timeout_s:g} s")


@requirement("PAT-3")
def test_tracked_call_is_answered(demand: Requirement, server: Server) -> None:
    """The plainest of calls brings text, its own id, and its time."""
    answer = tracked_call(server)
    sent = dict(answer.request.headers)["X-Request-ID"].decode()
    times = answer.values("x-process-time")

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    problem = completion_problem(answer)
    check(demand, not problem, problem, answer)
    check(demand, answer.request_id == sent, f"X-Request-ID: {answer.request_id}", answer)
    check(demand, len(times) == 1, f"X-Process-Time: {times}", answer)


def metadata(server: Server) -> bool:
    """Item 1: the list has all fields."""
    models = server.models()
    return bool(models) and all(set(NINE) <= set(each) for each in models)


def healthy(server: Server) -> bool:
    """Item 2: /health says so."""
    return server.get("/health").fields().get("models_healthy") is True


def propagated(server: Server) -> bool:
    """Item 3: the id comes back."""
    return server.get("/health", [("X-Request-ID", "tier2-check")]).request_id == "tier2-check"


def warmed_up(server: Server) -> bool:
    """Item 4: warm-up is enabled and completed."""
    fields = server.get("/health").fields()
    return fields.get("warmup_enabled") is True and fields.get("warmup_completed") is True


def long_enough(server: Server) -> bool:
    """Item 5: there is a context length to compare with."""
    models = server.models()
    return bool(models) and all(isinstance(each.get("context_length"), int) for each in models)


def tagged(server: Server) -> bool:
    """Item 6: the tags find a model."""
    return any({"chat", "local"} <= tags_of(model) for model in server.models())


def timed(server: Server) -> bool:
    """Item 7: there is a time to watch."""
    return len(server.get("/v1/models").values("x-process-time")) == 1


CHECKLIST = {
    "metadata": metadata,
    "healthy": healthy,
    "propagated": propagated,
    "warmed-up": warmed_up,
    "context-length": long_enough,
    "tags": tagged,
    "latency": timed,
}


@pytest.mark.parametrize("item", CHECKLIST)
@requirement("PAT-4")
def test_checklist_item(demand: Requirement, server: Server, item: str) -> None:
    """Each item of the integration checklist holds."""
    if item == "warmed-up":
        health = server.get("/health").fields()
        if health.get("warmup_enabled") is False:
            not_tested("warm-up is switched off on this server")
        told = [health.get(name, "missing") for name in ("warmup_enabled", "warmup_completed")]
        if told == [None, None]:
            inapplicable("this kind of model has no warm-up")

    check(demand, CHECKLIST[item](server), f"{item} can't be ticked")
