"""A model's states move as drawn, and each tells the world the right thing."""

import asyncio
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest
from falcon.asgi import App

from service import contracts
from service.catalog.resolve import Names
from service.errors import ModelNotReady, ShuttingDown
from service.fleet import lifecycle
from service.fleet.admission import Admission
from service.fleet.fleet import Fleet
from service.fleet.lifecycle import TRANSITIONS, Lifecycle, State
from service.fleet.served_model import ServedModel
from service.fleet.supervisor import Supervisor
from service.protocol import Budget, ModelCard
from service.web.resources.probes import Health, Readiness

CARD = ModelCard("org/m", "gemma", "A model.", 4096, 1)
BUDGET = Budget(4_000_000, 9_000_000, 2048, 4096, 3)
OTHER = ModelCard("org/n", "gemma", "A model.", 4096, 2)

MOVES: dict[State, Callable[[Lifecycle], None]] = {
    State.UNLOADED: lambda model: model.unloaded("nobody asked for it"),
    State.STARTING: lambda model: (
        model.starting() if model.state is State.UNLOADED else model.starting_again()
    ),
    State.LOADING: lambda model: model.loading(),
    State.WARMING: lambda model: model.warming(CARD, BUDGET),
    State.READY: lambda model: model.warmed(None),
    State.FAILED: lambda model: model.failed("boom"),
    State.DRAINING: lambda model: model.draining(),
    State.STOPPED: lambda model: model.stopped(),
}
WAYS: dict[State, list[State]] = {
    State.UNLOADED: [State.LOADING, State.WARMING, State.READY, State.UNLOADED],
    State.STARTING: [],
    State.LOADING: [State.LOADING],
    State.WARMING: [State.LOADING, State.WARMING],
    State.READY: [State.LOADING, State.WARMING, State.READY],
    State.FAILED: [State.LOADING, State.FAILED],
    State.DRAINING: [State.LOADING, State.WARMING, State.READY, State.DRAINING],
    State.STOPPED: [State.LOADING, State.WARMING, State.READY, State.DRAINING, State.STOPPED],
}
STATUSES = {
    State(name.lower()): int(status)
    for name, status in re.findall(r"^([A-Z]+) .*\((\d{3})\)$", lifecycle.__doc__ or "", re.M)
}
HEALTHY = {State.WARMING, State.READY}


def model_in(state: State, *, warmup_enabled: bool = True) -> Lifecycle:
    """Return a model that has come to *state* by the usual way."""
    model = Lifecycle(warmup_enabled=warmup_enabled)
    for step in WAYS[state]:
        MOVES[step](model)
    assert model.state is state
    return model


def get(model: Lifecycle, path: str) -> tuple[int, dict[str, Any]]:
    """Ask the two probes about *model*; return status and body."""

    async def ask() -> tuple[int, dict[str, Any]]:
        app: Any = App()
        keeper = cast(Supervisor, SimpleNamespace(lifecycle=model))
        served = ServedModel(keeper, Admission(1, 1, 1.0), Admission(1, 1, 1.0))
        fleet = Fleet([served], Names())
        app.add_route("/health", Health(fleet))
        app.add_route("/readyz", Readiness(fleet))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get(path)
        return answer.status_code, answer.json()

    return asyncio.run(ask())


def test_drawing_lists_every_state() -> None:
    """The docstring has one line for each state, with its status."""
    assert set(State) == STATUSES.keys()


@pytest.mark.parametrize(
    ("start", "to"),
    [
        (State.STARTING, State.LOADING),
        (State.LOADING, State.WARMING),
        (State.WARMING, State.READY),
        (State.READY, State.DRAINING),
        (State.DRAINING, State.STOPPED),
        (State.LOADING, State.FAILED),
        (State.WARMING, State.FAILED),
        (State.READY, State.FAILED),
        (State.FAILED, State.STARTING),
        (State.UNLOADED, State.STARTING),
        (State.READY, State.UNLOADED),
        (State.FAILED, State.UNLOADED),
    ],
)
def test_drawn_arrow_is_in_the_table(start: State, to: State) -> None:
    """Every arrow of the drawing is a transition."""
    assert to in TRANSITIONS[start]


ENDS = {State.DRAINING, State.STOPPED}


@pytest.mark.parametrize("start", State)
@pytest.mark.parametrize("to", State)
def test_move_holds_to_the_table(start: State, to: State) -> None:
    """What the table allows happens; anything else is a bug of ours and says so."""
    model = model_in(start)
    is_repeated_end = to in ENDS and start in ENDS and start in {to, State.STOPPED}
    if to in TRANSITIONS[start]:
        MOVES[to](model)
        assert to is model.state
    elif is_repeated_end:  # asked for twice, by a second signal
        MOVES[to](model)
        assert start is model.state
    else:
        with pytest.raises(AssertionError):
            MOVES[to](model)


@pytest.mark.parametrize("start", State)
def test_end_can_be_reached_from_everywhere(start: State) -> None:
    """Whatever the model does, the server can end."""
    model = model_in(start)
    model.draining()
    if model.state is not State.STOPPED:
        model.stopped()

    assert State.STOPPED is model.state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("warmup_enabled", [True, False])
def test_health_in_each_state(state: State, warmup_enabled: bool) -> None:
    """200 exactly where the drawing says so, and always the contract's body."""
    status, body = get(model_in(state, warmup_enabled=warmup_enabled), "/health")
    contracts.check("health", body)
    is_healthy = state in HEALTHY
    expected = {
        "status": "ok",
        "model_id": "org/m" if is_healthy else None,
        "model_status": "initialized" if is_healthy else "uninitialized",
        "models_healthy": is_healthy,
        "warmup_enabled": warmup_enabled if is_healthy else None,
        "warmup_completed": (state is State.READY and warmup_enabled) if is_healthy else None,
    }

    assert (STATUSES[state], expected) == (status, body)


@pytest.mark.parametrize("state", State)
def test_readiness_in_each_state(state: State) -> None:
    """Ready is only READY; everywhere else there is a reason in words."""
    status, body = get(model_in(state), "/readyz")
    contracts.check("readiness", body)
    (entry,) = body["models"]

    assert (200 if state is State.READY else 503) == status
    assert (state is State.READY) == body["ready"]
    assert state.value == entry["state"]
    assert (state is State.READY) == (entry["reason"] is None)
    assert (state in (State.STARTING, State.LOADING) or WAYS[state][1:2] != [State.WARMING]) == (
        entry["memory"] is None
    )


def test_memory_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """By `/readyz` once the model is loaded, and by the line that says that it is ready."""
    with caplog.at_level("INFO"):
        _, body = get(model_in(State.READY), "/readyz")

    assert body["models"][0]["memory"] == {
        "weights_bytes": 4_000_000,
        "kv_cache_bytes": 9_000_000,
        "context_length": 2048,
        "model_context_length": 4096,
        "full_contexts": 3,
    }
    assert (
        "Ready, warmed up: 4 MB of weights, 9 MB for the KV cache, which holds 3 requests of 2,048 tokens."
        in caplog.messages
    )


@pytest.mark.parametrize("state", State)
def test_card_is_healthy_where_requests_are_taken(state: State) -> None:
    """The card is given while requests are taken, warm-up or not, and kept back elsewhere."""
    assert (CARD if state in HEALTHY else None) == model_in(state).healthy_card


def test_warmup_when_it_ran() -> None:
    """Completed after a real pass; ready without a reason."""
    model = model_in(State.WARMING)
    model.warmed(None)

    assert (True, True, None) == (model.warmup_completed, model.is_ready, model.reason)


def test_model_that_cannot_answer_is_not_ready_without_a_warmup() -> None:
    """Whether a warm-up was asked for or not, /readyz tells what fails."""
    model = model_in(State.WARMING, warmup_enabled=False)
    model.warmed("AttributeError")
    status, body = get(model, "/readyz")

    assert (503, False) == (status, model.is_ready)
    assert "AttributeError" in body["models"][0]["reason"]


def test_notes_are_told_of_a_model_that_is_ready(caplog: pytest.LogCaptureFixture) -> None:
    """Those of its card and those of how it answers, each once however often its engine starts."""
    noted = msgspec.structs.replace(CARD, notes=("it has no chat template",))
    model = model_in(State.LOADING)
    for _ in range(2):
        model.warming(noted, BUDGET)
        model.warmed(None, ("it answers one request at a time",))
        status, body = get(model, "/readyz")
        contracts.check("readiness", body)
        model.failed("boom")
        model.starting_again()
        model.loading()

    assert status == 200
    assert body["models"][0]["notes"] == [
        "it has no chat template",
        "it answers one request at a time",
    ]
    assert "it has no chat template" in caplog.text


def test_warmup_when_it_failed() -> None:
    """The model serves, not completed, not ready, and the reason says why."""
    model = model_in(State.WARMING)
    model.warmed("RuntimeError")

    assert (State.READY, CARD) == (model.state, model.healthy_card)
    assert (False, False) == (model.warmup_completed, model.is_ready)
    assert "RuntimeError" in (model.reason or "")


def test_warmup_when_not_asked_for() -> None:
    """Never completed without a pass, and still ready."""
    model = model_in(State.READY, warmup_enabled=False)

    assert (False, True, None) == (model.warmup_completed, model.is_ready, model.reason)


def test_second_life_begins_cold() -> None:
    """After a death the warm-up of the former life counts no more, and the reason remembers it."""
    model = model_in(State.READY)
    model.failed("killed by SIGKILL")

    assert (State.FAILED, "killed by SIGKILL") == (model.state, model.reason)
    model.starting_again()
    assert "killed by SIGKILL" in (model.reason or "")
    model.loading()
    model.warming(OTHER, BUDGET)
    assert (False, OTHER) == (model.warmup_completed, model.healthy_card)


def test_reason_is_explained_later() -> None:
    """What the engine died of replaces the first word of its death, and is no second death."""
    model = model_in(State.FAILED)
    model.explained("killed by SIGKILL")

    assert (State.FAILED, "killed by SIGKILL") == (model.state, model.reason)


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_only_a_death_is_explained(state: State) -> None:
    """Where none was told, an explanation is a bug of ours."""
    with pytest.raises(AssertionError):
        model_in(state).explained("killed by SIGKILL")


def test_reasons_do_not_pile_up() -> None:
    """However often it dies, the reason tells the last death alone."""
    model = Lifecycle(warmup_enabled=True)
    for i in range(3):
        model.failed(f"death {i}")
        model.starting_again()

    assert "death 2" in (model.reason or "")
    assert "death 1" not in (model.reason or "")


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPED])
def test_refusal_when_ending(state: State) -> None:
    """A request that comes at the end is told so."""
    error = model_in(state).refusal()

    assert isinstance(error, ShuttingDown)
    assert error.retry_after_s


@pytest.mark.parametrize("state", [State.STARTING, State.LOADING, State.FAILED])
def test_refusal_when_not_ready(state: State) -> None:
    """A request that comes too early may come again; the reason stays with the operator."""
    model = model_in(state)
    error = model.refusal()

    assert isinstance(error, ModelNotReady)
    assert (503, "model_not_ready") == (error.status, error.code)
    assert error.retry_after_s
    assert "boom" not in error.message
