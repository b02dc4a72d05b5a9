"""
All models of the server, each with an engine process of its own, in the memory that they have together.

A model is loaded when the server starts, or on demand: by the first request that asks for it, which waits
until it is up. Where the memory is taken, the model that nobody has used for longest makes room, but never
one in use and never one that is pinned; if none can go now, the request waits for that, too. Where it has
waited for a while, no new requests begin at the others until it has room, since they could keep it out for
ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from service.catalog.resolve import Names
from service.errors import InsufficientMemory, ModelInUse, ModelNotFound, QueueTimeout
from service.fleet.lifecycle import RETRY_AFTER_S, State
from service.fleet.served_model import ServedModel
from service.protocol import ModelCard

_log = logging.getLogger(__name__)

MB = 1_000_000
PATIENCE_S = 5.0  # taste: so long the models in use go first, since each change costs a load


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What became of the models when they were read again, by id.

    Attributes:
        added: those that are new.
        changed: those that are served otherwise.
        removed: those that are served no longer.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        told = (("added", self.added), ("changed", self.changed), ("removed", self.removed))
        return "; ".join(f"{what}: {', '.join(ids)}" for what, ids in told if ids) or "as before"


class Fleet:
    """
    The models that are served.

    Args:
        models: at least one; the first is the default, which `/health` speaks of.
        names: which of them a name means.
        memory_bytes: most that the engines may hold together, as planned; None: nobody counts.

    Attributes:
        models: all of them, loaded or not.
        memory_bytes: most that the engines may hold together, as planned; None: nobody counts.
    """

    def __init__(
        self, models: Sequence[ServedModel], names: Names, memory_bytes: int | None = None
    ) -> None:
        self.models = tuple(models)
        self._names = names
        self.memory_bytes = memory_bytes
        self._changing = asyncio.Lock()  # one model at a time comes or goes
        self._left = asyncio.Event()  # set, and replaced, when a model is no longer in use
        self._leaving: list[ServedModel] = []  # no new requests; gone when they have answered all
        self._tasks: set[asyncio.Task[object]] = set()  # what loads and unloads models unasked now

    @property
    def default(self) -> ServedModel:
        """The model that `/health` speaks of."""
        return self.models[0]

    @property
    def is_healthy(self) -> bool:
        """Whether every model that should be up takes requests."""
        return not any(model.is_missed for model in self.models)

    @property
    def is_ready(self) -> bool:
        """Whether they do so beyond doubt, their warm-ups over."""
        return all(model.lifecycle.is_ready for model in self.models if not model.stay.is_on_demand)

    @property
    def planned_bytes(self) -> int:
        """What the engines that are there take of `memory_bytes`."""
        return sum(model.memory_bytes for model in self._all() if model.has_engine)

    def cards(self) -> list[ModelCard]:
        """
        Return the cards of all models that requests may name now.

        Raises:
            ModelNotReady: there is none.
        """
        cards = [card for model in self.models if (card := model.askable_card) is not None]
        if not cards:
            raise self.default.lifecycle.refusal()
        return cards

    def resolve(self, name: str | None) -> ModelCard:
        """
        Return the card of the model that a request means by *name*, or by giving none.

        Raises:
            ModelNotReady: no model takes requests, or the one that is meant doesn't.
            ModelNotFound: none goes by that name.
        """
        cards = self.cards()
        try:
            return self._names.resolve(name, cards)
        except ModelNotFound:
            known = self._known()
            if len(known) == len(cards):
                raise
            missed = self._names.resolve(name, known)
        raise self.of(missed).lifecycle.refusal()

    def find(self, name: str) -> ServedModel:
        """
        Return the model that an operator means by *name*, whatever becomes of requests for it now.

        Raises:
            ModelNotReady: no model has a name yet.
            ModelNotFound: none goes by that name.
        """
        known = self._known()
        if not known:
            raise self.default.lifecycle.refusal()
        return self.of(self._names.resolve(name, known))

    def aliases(self, card: ModelCard) -> list[str]:
        """Return the further names of the model with this *card*."""
        return self._names.of(card, self._known())

    def of(self, card: ModelCard) -> ServedModel:
        """
        Return the model with this *card*.

        Raises:
            ModelNotFound: it is served no longer.
        """
        for model in self.models:
            if model.id == card.id:
                return model
        raise ModelNotFound(f"{card.id} is served no longer.", param="model")

    def take(self, model: ServedModel) -> None:
        """Note that a request needs *model*; it stays in memory until `leave`."""
        model.n_users += 1

    def leave(self, model: ServedModel) -> None:
        """Note that a request needs *model* no longer."""
        model.n_users -= 1
        if model.n_in_use == 0:
            model.last_used_s = time.monotonic()
            self._wake()
        if model.n_users == 0 and model.stay.idle_s is not None:
            asyncio.get_running_loop().call_later(
                model.stay.idle_s, self._unload_if_idle, model, model.last_used_s
            )

    async def bring_up(self, model: ServedModel, patience_s: float) -> None:
        """
        Wait until *model* takes requests, *patience_s* seconds at most; load it if it is not loaded.

        Raises:
            InsufficientMemory: there can't be room for it.
            QueueTimeout: it took too long.
            ServiceError: it can't be loaded, or the server is ending.
        """
        if model.lifecycle.healthy_card is not None:
            return
        try:
            async with asyncio.timeout(patience_s):
                await self.load(model)
                await model.lifecycle.healthy()
        except TimeoutError:
            raise QueueTimeout(
                f"{model.id} was not loaded within {patience_s:.0f} s.", retry_after_s=RETRY_AFTER_S
            ) from None

    async def load(self, model: ServedModel) -> None:
        """
        Begin to load *model*, if it is not there, once there is room for it.

        Raises:
            InsufficientMemory: there can't be room for it.
        """
        while any(each.id == model.id for each in self._leaving if each is not model):
            await self._left.wait()
        async with self._changing:
            if model.lifecycle.state is State.UNLOADED or model.lifecycle.may_try_again:
                await self._make_room(model)
                model.supervisor.start()

    async def unload(self, model: ServedModel, reason: str) -> bool:
        """Take *model* out of memory, unless it is in use; return whether it is out."""
        async with self._changing:
            if model.n_users == 0 and model.has_engine:
                await self._unload(model, reason)
        return not model.has_engine

    async def dismiss(self, model: ServedModel) -> None:
        """
        Take *model* out of memory because an operator wants it.

        Raises:
            ModelInUse: requests need it, or it is to be up all the time.
        """
        if not model.stay.is_on_demand:
            raise ModelInUse(f"{model.id} is to be up as long as the server is.")
        if model.n_users > 0 or not await self.unload(model, "an operator unloaded it"):
            raise ModelInUse(f"{model.id} is needed by {model.n_users} requests.")

    def unpin(self, model: ServedModel) -> None:
        """Let others take the room of *model*; who waits for room looks again."""
        model.unpin()
        self._wake()

    def change(self, models: Sequence[ServedModel], names: Names, memory_bytes: int | None) -> None:
        """
        Serve *models* from now on, the first as the default; those that are served already stay as they are.

        Others get no more requests, and leave when they have answered those that they have.
        """
        going = [model for model in self.models if model not in models]
        self.models, self._names, self.memory_bytes = tuple(models), names, memory_bytes
        self._leaving += going
        for model in going:
            self._begin(self._see_off(model))
        for model in models:
            if not model.stay.is_on_demand and not model.has_engine:
                self._begin(self._bring_in(model))
        self._wake()

    def start(self) -> None:
        """Begin to load what is to be loaded at the start; returns at once. Needs a running event loop."""
        for model in self.models:
            if not model.stay.is_on_demand:
                model.supervisor.start()

    def close(self) -> None:
        """Turn away everyone who waits, and everyone who comes."""
        for model in self._all():
            model.admission.close()
            model.questions.close()

    async def drain(self, deadline_s: float) -> None:
        """Let running requests finish for *deadline_s* seconds, then fail them."""
        await asyncio.gather(*(model.supervisor.drain(deadline_s) for model in self._all()))

    async def stop(self) -> None:
        """End all engine processes."""
        await asyncio.gather(*(model.supervisor.stop() for model in self._all()))

    def _all(self) -> list[ServedModel]:
        """Return those that are served and those that leave."""
        return [*self.models, *self._leaving]

    async def _see_off(self, model: ServedModel) -> None:
        """End *model* when it has answered all that it was asked."""
        while model.n_users > 0:
            await self._left.wait()
        _log.info("%s is served no longer, or otherwise: its engine ends.", model.id)
        await model.supervisor.stop()
        self._leaving.remove(model)
        self._wake()

    async def _bring_in(self, model: ServedModel) -> None:
        """Load *model*, which is to be up, though nobody asked for it."""
        try:
            await self.load(model)
        except InsufficientMemory as error:
            _log.error("%s", error.message)

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Let *work* go on by itself."""
        # A context of its own: it is no request's.
        self._tasks.add(task := asyncio.create_task(work, context=contextvars.Context()))
        task.add_done_callback(self._tasks.discard)

    def _known(self) -> list[ModelCard]:
        """Return the cards of all models that have one."""
        return [model.card for model in self.models if model.card is not None]

    async def _make_room(self, model: ServedModel) -> None:
        """Unload others until there is room for *model*; wait where they are in use."""
        if self.memory_bytes is None:
            return
        staying = sum(each.memory_bytes for each in self.models if each.stays and each is not model)
        if model.memory_bytes + staying > self.memory_bytes:
            raise InsufficientMemory(
                f"{model.id} needs {model.memory_bytes // MB} MB, and of the {self.memory_bytes // MB} MB "
                f"for all models {staying // MB} MB are taken by those that stay in memory."
            )
        held_from_s: float | None = asyncio.get_running_loop().time() + PATIENCE_S
        try:
            while self._planned_with(model) > self.memory_bytes:
                others = [each for each in self.models if each is not model]
                can_go = [each for each in others if each.has_engine and not each.stays]
                idle = [each for each in can_go if each.n_in_use == 0]
                if idle:
                    oldest = min(idle, key=lambda each: each.last_used_s)
                    await self._unload(oldest, f"it made room for {model.id}")
                elif not await self._has_left(held_from_s):
                    held_from_s = None
                    for each in can_go:
                        each.hold()
        finally:
            for each in self._all():
                each.resume()

    def _planned_with(self, model: ServedModel) -> int:
        """Return what all engines take once *model* has one."""
        others = sum(
            each.memory_bytes for each in self._all() if each is not model and each.has_engine
        )
        return others + model.memory_bytes

    async def _has_left(self, until_s: float | None) -> bool:
        """Wait until a model is needed no longer; *until_s*, by the loop's clock, return that none is."""
        try:
            async with asyncio.timeout_at(until_s):
                await self._left.wait()
        except TimeoutError:
            return False
        return True

    async def _unload(self, model: ServedModel, reason: str) -> None:
        _log.info("Unloading %s: %s.", model.id, reason)
        await model.supervisor.unload(reason)

    def _unload_if_idle(self, model: ServedModel, since_s: float) -> None:
        """Unload *model* if nobody has used it since."""
        # The moment is compared and no span: a loop's timers may go off a little early.
        if model.n_users == 0 and model.last_used_s == since_s and model.has_engine:
            self._begin(self.unload(model, "nobody asked for it"))

    def _wake(self) -> None:
        left, self._left = self._left, asyncio.Event()
        left.set()
