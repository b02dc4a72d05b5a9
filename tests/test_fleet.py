"""Several models in one memory: who is loaded, who makes room, who waits for whom."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from service.catalog.resolve import Names
from service.errors import (
    InsufficientMemory,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    QueueTimeout,
)
from service.fleet import fleet as fleet_module
from service.fleet.admission import Admission
from service.fleet.fleet import MB, Fleet
from service.fleet.lifecycle import Lifecycle, State
from service.fleet.served_model import ServedModel, Stay
from service.fleet.supervisor import Supervisor
from service.protocol import Budget, ModelCard


class Keeper:
    """What a fleet needs of a supervisor; it loads in no time, or not at all."""

    def __init__(self, card: ModelCard, stay: Stay, *, can_load: bool) -> None:
        self.lifecycle = Lifecycle(warmup_enabled=False, is_on_demand=stay.is_on_demand)
        self.memory_bytes = 0
        self.lives = 0
        self._card = card
        self._can_load = can_load

    def start(self) -> None:
        """Load."""
        self.lives += 1
        if self.lifecycle.state is not State.STARTING:
            self.lifecycle.starting()
        self.lifecycle.loading()
        asyncio.get_running_loop().call_soon(self._loaded)

    def _loaded(self) -> None:
        if self.lifecycle.state is not State.LOADING:
            return
        if self._can_load:
            self.lifecycle.warming(self._card, Budget(1, 1, 1, 1, 1))
            self.lifecycle.warmed(None)
        else:
            self.lifecycle.failed("it holds NaN")
            self.lifecycle.given_up()

    async def stop(self) -> None:
        """Be gone for good."""
        self.lifecycle.draining()
        self.lifecycle.stopped()

    async def unload(self, reason: str) -> None:
        """Be gone."""
        self.lifecycle.unloaded(reason)
        await asyncio.sleep(0)


ON_DEMAND = Stay(is_on_demand=True, memory_bytes=400 * MB)


def served(name: str, stay: Stay = ON_DEMAND, *, can_load: bool = True) -> ServedModel:
    """Return a model that is not loaded yet."""
    card = ModelCard(name, "gemma", "A model.", 4096, 1)
    keeper = cast(Supervisor, Keeper(card, stay, can_load=can_load))
    return ServedModel(keeper, Admission(1, 1, 1.0), Admission(1, 1, 1.0), stay, card)


def loaded(fleet: Fleet) -> list[str | None]:
    """Return who is in memory."""
    return [model.id for model in fleet.models if model.has_engine]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run *scenario* to its end, which comes soon."""

    async def bounded() -> None:
        async with asyncio.timeout(5):
            await scenario()

    asyncio.run(bounded())


DEFAULT = Stay(memory_bytes=400 * MB)


def test_request_loads_what_it_asks_for() -> None:
    """At the start only those are loaded that should be up; the others can be asked for all the same."""

    async def scenario() -> None:
        fleet = Fleet([served("chat", DEFAULT), served("coder")], Names())
        fleet.start()
        await fleet.models[0].lifecycle.healthy()
        assert ["chat"] == loaded(fleet)
        assert ["chat", "coder"] == [card.id for card in fleet.cards()]
        assert fleet.is_healthy
        assert fleet.is_ready
        await fleet.bring_up(fleet.of(fleet.resolve("coder")), 1.0)
        assert ["chat", "coder"] == loaded(fleet)

    run(scenario)


def test_longest_unused_makes_room() -> None:
    """Of those that nobody needs now; never one that is pinned, in use, or to be up from the start."""

    async def scenario() -> None:
        pinned = Stay(is_on_demand=True, is_pinned=True, memory_bytes=400 * MB)
        models = [served("chat", DEFAULT), served("pinned", pinned), *map(served, "abc")]
        fleet = Fleet(models, Names(), 1600 * MB)
        fleet.start()
        for model in models[1:4]:
            fleet.take(model)
            await fleet.bring_up(model, 1.0)
        for model in (models[1], models[3], models[2]):
            fleet.leave(model)
            await asyncio.sleep(0.01)
        await fleet.bring_up(models[4], 1.0)
        assert ["chat", "pinned", "a", "c"] == loaded(fleet)

    run(scenario)


def test_request_waits_until_a_model_in_use_is_left() -> None:
    """Nothing is taken from under an answer; who comes next goes on as soon as it has ended."""

    async def scenario() -> None:
        first, second = served("a"), served("b")
        fleet = Fleet([first, second], Names(), 500 * MB)
        fleet.take(first)
        await fleet.bring_up(first, 1.0)
        with pytest.raises(QueueTimeout):
            await fleet.bring_up(second, 0.02)
        coming = asyncio.create_task(fleet.bring_up(second, 1.0))
        await asyncio.sleep(0.01)
        assert ["a"] == loaded(fleet)
        fleet.leave(first)
        await coming
        assert ["b"] == loaded(fleet)

    run(scenario)


def test_model_that_never_fits_is_refused_with_the_numbers() -> None:
    """At once, and the others are unharmed."""

    async def scenario() -> None:
        large = served("large", Stay(is_on_demand=True, memory_bytes=900 * MB))
        fleet = Fleet([served("chat", DEFAULT), large], Names(), 1000 * MB)
        fleet.start()
        with pytest.raises(InsufficientMemory, match=r"large needs 900 MB.* 1000 MB .* 400 MB"):
            await fleet.bring_up(large, 1.0)
        assert ["chat"] == loaded(fleet)

    run(scenario)


def test_what_an_engine_holds_counts_where_it_is_more_than_planned() -> None:
    """A plan is a guess from files; the process is the truth."""

    async def scenario() -> None:
        first, second = served("a"), served("b")
        fleet = Fleet([first, second], Names(), 900 * MB)
        await fleet.bring_up(first, 1.0)
        cast(Keeper, first.supervisor).memory_bytes = 600 * MB
        await fleet.bring_up(second, 1.0)
        assert ["b"] == loaded(fleet)

    run(scenario)


def test_idle_model_is_unloaded() -> None:
    """So many seconds after its last request, and loaded again by the next."""

    async def scenario() -> None:
        model = served("a", Stay(is_on_demand=True, idle_s=0.03))
        fleet = Fleet([model], Names())
        for n_lives in (1, 2):
            fleet.take(model)
            await fleet.bring_up(model, 1.0)
            await asyncio.sleep(0.06)
            assert ["a"] == loaded(fleet)
            fleet.leave(model)
            await asyncio.sleep(0.06)
            assert [] == loaded(fleet)
            assert n_lives == cast(Keeper, model.supervisor).lives

    run(scenario)


def test_model_that_cannot_be_loaded_fails_its_own_requests() -> None:
    """It is no matter of the server's health: nobody counted on it."""

    async def scenario() -> None:
        fleet = Fleet([served("chat", DEFAULT), served("broken", can_load=False)], Names())
        fleet.start()
        with pytest.raises(ModelNotReady):
            await fleet.bring_up(fleet.models[1], 1.0)
        assert fleet.is_healthy
        assert "it holds NaN" == fleet.models[1].lifecycle.reason

    run(scenario)


def test_server_is_healthy_when_all_are_up_that_should_be() -> None:
    """One of them that failed is missed, whoever else answers."""

    async def scenario() -> None:
        fleet = Fleet([served("chat", DEFAULT), served("broken", DEFAULT, can_load=False)], Names())
        fleet.start()
        await fleet.default.lifecycle.healthy()
        await asyncio.sleep(0.01)
        assert not fleet.is_healthy
        assert ["chat"] == [card.id for card in fleet.cards()]
        with pytest.raises(ModelNotReady):  # it is known, and not a name of nothing
            fleet.resolve("broken")
        with pytest.raises(ModelNotFound):
            fleet.resolve("nobody")

    run(scenario)


def test_operator_unloads_only_what_nobody_needs() -> None:
    """Neither a model in use nor one that is to be up; one that is unloaded already is so still."""

    async def scenario() -> None:
        chat, coder = served("chat", DEFAULT), served("coder")
        fleet = Fleet([chat, coder], Names({"c": "coder"}))
        fleet.start()
        await chat.lifecycle.healthy()
        assert coder is fleet.find("c")
        fleet.take(coder)
        await fleet.bring_up(coder, 1.0)
        with pytest.raises(ModelInUse, match="1 request"):
            await fleet.dismiss(coder)
        with pytest.raises(ModelInUse, match="as long as the server"):
            await fleet.dismiss(chat)
        fleet.leave(coder)
        for _ in range(2):
            await fleet.dismiss(coder)
            assert ["chat"] == loaded(fleet)

    run(scenario)


def test_operator_unpins_for_one_that_waits_for_room() -> None:
    """What is pinned keeps its room, also from one that waits already; unpinned it makes room at once."""

    async def scenario() -> None:
        first, second = served("a"), served("b")
        fleet = Fleet([first, second], Names(), 500 * MB)
        fleet.take(first)
        await fleet.bring_up(first, 1.0)
        coming = asyncio.create_task(fleet.bring_up(second, 1.0))
        await asyncio.sleep(0.01)
        first.pin()
        fleet.leave(first)
        await asyncio.sleep(0.01)
        assert ["a"] == loaded(fleet)
        with pytest.raises(QueueTimeout):
            await fleet.bring_up(second, 0.01)
        fleet.unpin(first)
        await coming
        assert ["b"] == loaded(fleet)

    run(scenario)


def test_model_that_is_served_otherwise_waits_for_the_one_before() -> None:
    """Who is answered is answered; only then the model comes anew, and what is named no longer is gone."""

    async def scenario() -> None:
        chat, old, gone = served("chat", DEFAULT), served("coder"), served("gone")
        fleet = Fleet([chat, old, gone], Names(), 1300 * MB)
        fleet.start()
        for model in (old, gone):
            fleet.take(model)
            await fleet.bring_up(model, 1.0)
        fleet.leave(gone)
        new = served("coder")
        fleet.change([chat, new], Names(), 1300 * MB)
        with pytest.raises(ModelNotFound):
            fleet.find("gone")
        coming = asyncio.create_task(fleet.bring_up(fleet.find("coder"), 1.0))
        await asyncio.sleep(0.01)
        assert [State.READY, State.STOPPED, State.UNLOADED] == [
            model.lifecycle.state for model in (old, gone, new)
        ]
        assert 800 * MB == fleet.planned_bytes
        fleet.leave(old)
        await coming
        assert (State.STOPPED, State.READY) == (old.lifecycle.state, new.lifecycle.state)
        assert ["chat", "coder"] == loaded(fleet)

    run(scenario)


def test_new_model_that_is_to_be_up_comes_at_once() -> None:
    """Nobody has to ask for it; those that stay are not touched."""

    async def scenario() -> None:
        chat = served("chat", DEFAULT)
        fleet = Fleet([chat], Names())
        fleet.start()
        await chat.lifecycle.healthy()
        critic = served("critic", ON_DEMAND)
        critic.stay = DEFAULT
        fleet.change([chat, critic], Names(), None)
        await critic.lifecycle.healthy()
        assert ["chat", "critic"] == loaded(fleet)
        assert 1 == cast(Keeper, chat.supervisor).lives

    run(scenario)


def test_model_that_waits_is_not_kept_out_by_new_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while they wait behind it; those that run end first, and then each model has its turn."""
    monkeypatch.setattr(fleet_module, "PATIENCE_S", 0.02)
    begun: list[str] = []

    async def request(fleet: Fleet, model: ServedModel, name: str) -> None:
        fleet.take(model)
        with await model.admission.acquire():
            await fleet.bring_up(model, 2.0)
            begun.append(name)
            await asyncio.sleep(0.04)
        fleet.leave(model)

    async def scenario() -> None:
        first, second = served("a"), served("b")
        first.admission = Admission(2, 9, 2.0)
        fleet = Fleet([first, second], Names(), 500 * MB)
        tasks = [asyncio.create_task(request(fleet, first, "a"))]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(request(fleet, second, "b")))
        for _ in range(6):
            await asyncio.sleep(0.01)
            tasks.append(asyncio.create_task(request(fleet, first, "a")))
        await asyncio.gather(*tasks)
        assert (7, 1) == (begun.count("a"), begun.count("b"))
        assert begun.index("b") <= 4
        assert (0, 0) == (first.n_users, second.n_users)
        assert (0, 0) == (first.admission.n_in_use, first.admission.n_waiting)

    run(scenario)


def test_model_that_was_given_up_takes_no_room_and_is_tried_again() -> None:
    """Not by each request, but after a while, or at once when an operator wants it."""

    async def scenario() -> None:
        broken, other = served("broken", can_load=False), served("other")
        fleet = Fleet([broken, other], Names(), 500 * MB)
        for _ in range(2):
            with pytest.raises(ModelNotReady):
                await fleet.bring_up(broken, 1.0)
        assert 1 == cast(Keeper, broken.supervisor).lives
        assert 0 == fleet.planned_bytes
        fleet.take(other)
        await fleet.bring_up(other, 1.0)
        assert ("failed", "it holds NaN") == (
            broken.lifecycle.state.value,
            broken.lifecycle.reason,
        )
        fleet.leave(other)
        broken.lifecycle.forgive()
        with pytest.raises(ModelNotReady):
            await fleet.bring_up(broken, 1.0)
        assert 2 == cast(Keeper, broken.supervisor).lives

    run(scenario)
