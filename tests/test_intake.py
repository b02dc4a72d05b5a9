"""Where requests come in: the model they mean, a permit, a ticket, and all of it given back."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.errors import EngineDied, ModelNotFound, ModelNotReady, QueueFull
from service.fleet.admission import Admission
from service.fleet.lifecycle import Lifecycle
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.protocol import Budget, Delta, Job, ModelCard, Text
from service.telemetry import Metrics
from service.web.intake import Intake, collect

CARD = ModelCard("org/gemma-3-4b", "gemma", "A model.", 8192, 1)
JOBS = (Job(Text("a")), Job(Text("b")))


class Engine:
    """
    What an intake needs of a supervisor.

    Attributes:
        lifecycle: the model's states.
        closed: numbers of the jobs that were given back.
        error: what submitting raises; None: nothing.
    """

    def __init__(self) -> None:
        self.lifecycle = Lifecycle(warmup_enabled=False)
        self.closed: list[int] = []
        self.error: ModelNotReady | None = None

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """Hand out a ticket."""
        if self.error is not None:
            raise self.error
        return Ticket(range(len(jobs)), self.closed.append)

    def be_ready(self) -> None:
        """Have the model in memory."""
        self.lifecycle.loading()
        self.lifecycle.warming(CARD, Budget(1, 1, 1, 1, 1))


class Case:
    """An intake with one permit and one place in its queue, and what it works with."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.metrics = Metrics()
        self.intake = Intake(
            cast(Supervisor, self.engine), Admission(1, 1, 5.0, self.metrics), self.metrics
        )

    @property
    def n_permits_in_use(self) -> float | None:
        """How many requests hold one."""
        return self.metrics.registry.get_sample_value("tier3a_permits_in_use")


def request() -> Any:
    """Return a request as far as an intake looks at it."""
    return SimpleNamespace(path="/v1/x", scope={"exchange": SimpleNamespace(leaving=ExitStack())})


def leave(req: Any) -> None:
    """End *req*."""
    req.scope["exchange"].leaving.close()


def test_card_by_any_of_its_names() -> None:
    """The model that is meant, once there is one."""
    case = Case()
    with pytest.raises(ModelNotReady):
        case.intake.card("gemma")
    case.engine.be_ready()

    assert CARD == case.intake.card("gemma") == case.intake.card(CARD.id)
    with pytest.raises(ModelNotFound):
        case.intake.card("llama")


def test_submit_holds_a_permit_until_the_request_ends() -> None:
    """All answers of a request share one permit; its end gives back the permit and every job."""
    case, req = Case(), request()

    async def scenario() -> None:
        ticket = await case.intake.submit(req, CARD, JOBS, 0)
        assert (range(2), 1) == (ticket.numbers, case.n_permits_in_use)
        assert 0 <= ticket.waited_s < 1
        leave(req)

    asyncio.run(scenario())

    assert ([0, 1], 0) == (case.engine.closed, case.n_permits_in_use)


def test_submit_waits_for_its_turn() -> None:
    """The second waits, and its ticket knows how long; the third is turned away."""
    case, first, second = Case(), request(), request()

    async def scenario() -> float:
        await case.intake.submit(first, CARD, JOBS, 0)
        waiting = asyncio.create_task(case.intake.submit(second, CARD, JOBS, 0))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull):
            await case.intake.submit(request(), CARD, JOBS, -1)
        leave(first)
        return (await waiting).waited_s

    assert 0.04 < asyncio.run(scenario()) < 5
    leave(second)
    assert 0 == case.n_permits_in_use


def test_submit_when_the_engine_is_gone() -> None:
    """The permit that was taken goes back with the request."""
    case, req = Case(), request()
    case.engine.error = ModelNotReady("gone")

    async def scenario() -> None:
        await case.intake.submit(req, CARD, JOBS, 0)

    with pytest.raises(ModelNotReady):
        asyncio.run(scenario())
    assert 1 == case.n_permits_in_use
    leave(req)
    assert (0, []) == (case.n_permits_in_use, case.engine.closed)


def test_broken_streams_are_counted_by_code() -> None:
    """Their status was 200, so nothing else tells of them."""
    case = Case()
    case.intake.note_broken("engine_died")
    case.intake.note_broken("engine_died")

    assert 2 == case.metrics.registry.get_sample_value(
        "tier3a_streams_broken_total", {"code": "engine_died"}
    )


def test_collect_sorts_by_job() -> None:
    """Each job's deltas in their order, whatever came between them."""
    deltas = [
        Delta(7, "a", 1), Delta(8, "c", 1, "stop"), Delta(7, "", 1), Delta(7, "b", 2, "length"),
    ]  # fmt: skip

    async def scenario() -> list[list[Delta]]:
        ticket = Ticket(range(7, 9), lambda _: None)
        for delta in deltas:
            ticket.put(delta)
        return await collect(ticket)

    assert [[deltas[0], deltas[2], deltas[3]], [deltas[1]]] == asyncio.run(scenario())


def test_collect_when_a_job_breaks() -> None:
    """One that breaks costs the request; half an answer is none."""

    async def scenario() -> None:
        ticket = Ticket(range(7, 9), lambda _: None)
        ticket.put(Delta(7, "a", 1, "stop"))
        ticket.put(EngineDied("gone"))
        await collect(ticket)

    with pytest.raises(EngineDied):
        asyncio.run(scenario())
