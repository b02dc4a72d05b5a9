"""Where requests come in: the model they mean, a permit, a ticket, and all of it given back."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.catalog.resolve import Names
from service.errors import EngineDied, ModelNotFound, ModelNotReady, QueueFull
from service.fleet.admission import Admission
from service.fleet.fleet import Fleet
from service.fleet.lifecycle import Lifecycle
from service.fleet.served_model import ServedModel
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.protocol import (
    Accepted,
    Budget,
    Delta,
    Job,
    ModelCard,
    Prompt,
    Text,
    Tokenized,
)
from service.telemetry import Metrics
from service.web import sse
from service.web.image_fetch import ImageFetch
from service.web.intake import Intake, collect
from service.web.journal import Visit

CARD = ModelCard("org/gemma-3-4b", "gemma", "A model.", 8192, 1)
JOBS = (Job(Text("a")), Job(Text("b")))


class Engine:
    """
    What an intake needs of a supervisor.

    Attributes:
        lifecycle: the model's states.
        closed: numbers of the jobs that were given back.
        n_asked: questions about tokens that came.
        error: what submitting raises; None: nothing.
    """

    def __init__(self) -> None:
        self.lifecycle = Lifecycle(warmup_enabled=False)
        self.lifecycle.loading()
        self.lifecycle.warming(CARD, Budget(1, 1, 1, 1, 1))
        self.closed: list[int] = []
        self.n_asked = 0
        self.error: ModelNotReady | None = None

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """Hand out a ticket whose jobs are accepted, each with a longer prompt."""
        if self.error is not None:
            raise self.error
        ticket = Ticket(range(len(jobs)), self.closed.append)
        for number in ticket.numbers:
            ticket.put(Accepted(number, number + 3))
        return ticket

    async def tokenize(self, prompt: Prompt) -> Tokenized:  # noqa: ARG002
        """Never answer."""
        self.n_asked += 1
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class Case:
    """An intake with one permit and one place in its queue, and what it works with."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Engine()
        self.metrics = Metrics()
        self.model = ServedModel(
            cast(Supervisor, self.engine), Admission(1, 1, 5.0), Admission(1, 1, 5.0)
        )
        self.intake = Intake(
            Fleet([self.model], Names({"gpt-4": CARD.id})), self.metrics, ImageFetch(())
        )

    @property
    def n_permits_in_use(self) -> int:
        """How many requests hold one."""
        return self.model.admission.n_in_use


def request() -> Any:
    """Return a request as far as an intake looks at it."""
    exchange = SimpleNamespace(leaving=ExitStack(), visit=Visit("POST", "/v1/x", 0.0))
    return SimpleNamespace(path="/v1/x", scope={"exchange": exchange})


def leave(req: Any) -> None:
    """End *req*."""
    req.scope["exchange"].leaving.close()


def test_card_by_any_of_its_names() -> None:
    """The model that is meant, as long as there is one."""
    case = Case()

    assert CARD == case.intake.card("gemma") == case.intake.card(CARD.id)
    assert CARD == case.intake.card("gpt-4") == case.intake.card(None)
    with pytest.raises(ModelNotFound):
        case.intake.card("llama")
    case.engine.lifecycle.failed("gone")
    with pytest.raises(ModelNotReady):
        case.intake.card("gemma")


def test_submit_holds_a_permit_until_the_request_ends() -> None:
    """All answers of a request share one permit; its end gives back the permit and every job."""
    case, req = Case(), request()

    async def scenario() -> None:
        ticket, lengths = await case.intake.submit(req, CARD, JOBS, 0).accepted()
        assert (range(2), 1) == (ticket.numbers, case.n_permits_in_use)
        assert (3, 4) == lengths
        assert 0 <= ticket.waited_s < 1
        leave(req)

    asyncio.run(scenario())

    assert ([0, 1], 0) == (case.engine.closed, case.n_permits_in_use)


def test_submit_waits_for_its_turn() -> None:
    """The second waits, and its ticket knows how long; the third is turned away."""
    case, first, second = Case(), request(), request()

    async def scenario() -> float:
        await case.intake.submit(first, CARD, JOBS, 0).accepted()
        waiting = case.intake.submit(second, CARD, JOBS, 0)
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull):
            await case.intake.submit(request(), CARD, JOBS, -1).accepted()
        leave(first)
        return (await waiting.accepted())[0].waited_s

    assert 0.04 < asyncio.run(scenario()) < 5
    leave(second)
    assert 0 == case.n_permits_in_use


def test_questions_are_asked_one_after_another() -> None:
    """They keep no place before those who generate, and whoever leaves makes room."""
    case = Case()

    async def scenario() -> None:
        asked = [asyncio.create_task(case.intake.tokenize(CARD, Text("a"))) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert 1 == case.engine.n_asked
        with pytest.raises(QueueFull):
            await asked[2]
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        await asyncio.sleep(0.01)
        assert (2, 0) == (case.engine.n_asked, case.n_permits_in_use)
        asked[1].cancel()

    asyncio.run(scenario())


def test_submit_when_the_engine_is_gone() -> None:
    """The permit that was taken goes back with the request."""
    case, req = Case(), request()
    case.engine.error = ModelNotReady("gone")

    async def scenario() -> None:
        with pytest.raises(ModelNotReady):
            await case.intake.submit(req, CARD, JOBS, 0).accepted()
        assert 1 == case.n_permits_in_use
        leave(req)
        assert (0, []) == (case.n_permits_in_use, case.engine.closed)

    asyncio.run(scenario())


def test_stream_begins_at_once_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted, or refused, is known before a stream begins, however soon pings would come."""
    monkeypatch.setattr(sse, "PING_S", 0.0)
    case, req = Case(), request()

    async def scenario() -> None:
        submission = case.intake.submit(req, CARD, JOBS, 0)
        await asyncio.sleep(0)
        await submission.begin_stream()
        assert [] == [ping async for ping in submission.pings()]
        await case.intake.submit(request(), CARD, JOBS, 0).begin_stream()  # the one place is taken
        full = case.intake.submit(request(), CARD, JOBS, 0)
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await full.begin_stream()
        leave(req)

    asyncio.run(scenario())


def test_stream_begins_and_pings_when_it_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clients give up when they hear nothing: the stream is open while its request is in the queue."""
    monkeypatch.setattr(sse, "PING_S", 0.02)
    case, first, second = Case(), request(), request()

    async def scenario() -> int:
        await case.intake.submit(first, CARD, JOBS, 0).accepted()
        waiting = case.intake.submit(second, CARD, JOBS, 0)
        await waiting.begin_stream()
        n_pings = 0
        async for ping in waiting.pings():
            assert ping is None
            n_pings += 1
            if n_pings == 3:
                leave(first)
        await waiting.accepted()
        leave(second)
        return n_pings

    assert 3 == asyncio.run(scenario())
    assert 0 == case.n_permits_in_use


def test_place_in_the_queue_is_free_when_its_client_leaves() -> None:
    """Who gives up waiting takes no permit and leaves its place to the next."""
    case, first, second, third = Case(), request(), request(), request()

    async def scenario() -> None:
        await case.intake.submit(first, CARD, JOBS, 0).accepted()
        case.intake.submit(second, CARD, JOBS, 0)
        await asyncio.sleep(0)
        leave(second)
        await asyncio.sleep(0.01)
        waiting = case.intake.submit(third, CARD, JOBS, 0)
        leave(first)
        await waiting.accepted()
        leave(third)

    asyncio.run(scenario())

    assert 0 == case.n_permits_in_use


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
