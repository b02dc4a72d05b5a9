"""
Which models are served: as the settings, a file and a folder name them, and again when they are read anew.

A new reading keeps what has not changed, loaded or not. A model that is named no longer, or otherwise, takes
no new requests, answers those that it has, and leaves. Another of its name waits until it is gone: there may
be no room for both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service import models_file
from service.catalog.resolve import Names
from service.errors import InvalidRequest
from service.fleet.admission import Admission
from service.fleet.fleet import Changes, Fleet
from service.fleet.lifecycle import Lifecycle
from service.fleet.served_model import N_QUESTIONS, ServedModel
from service.fleet.supervisor import Supervisor
from service.models_file import BadModels, Plan
from service.protocol import Load
from service.settings import Settings
from service.telemetry import Metrics

_log = logging.getLogger(__name__)


class Roster:
    """
    The plan of each model beside the model.

    Args:
        settings: how the server was started.
        metrics: where tokens are counted.
        engine: the command that starts an engine process, to which the number of its socket is added.

    Attributes:
        fleet: the models.

    Raises:
        BadModels: the models that were asked for can't be served.
    """

    def __init__(self, settings: Settings, metrics: Metrics, engine: Sequence[str]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._engine = engine
        self._reading = asyncio.Lock()
        self._plans = models_file.plans(settings)
        models = [self._served(plan, is_awaited=plan.stay.is_on_demand) for plan in self._plans]
        self.fleet = Fleet(models, self._names(), self._memory_bytes())

    async def reload(self) -> Changes:
        """
        Read file and folder again, and serve what they name now; return what that changes.

        Raises:
            InvalidRequest: they have a fault, which the message names with its line; nothing changes.
        """
        async with self._reading:
            try:
                found = await asyncio.to_thread(models_file.plans, self._settings)
            except BadModels as error:
                _log.error("The models stay as they were: %s", error.message)
                raise InvalidRequest(error.message, code="invalid_models_file") from None
            changes = self._follow(found)
        _log.info("Read the models again: %s.", changes)
        return changes

    def _follow(self, found: Sequence[Plan]) -> Changes:
        """Serve what *found* plans from now on."""
        before = {
            _id(plan): (plan, model)
            for plan, model in zip(self._plans, self.fleet.models, strict=True)
        }
        plans, models, changed = [], [], []
        for new in found:
            plan, model = new, None
            if _id(new) in before:
                old, model = before[_id(new)]
                plan = new.in_memory_of(old)
                if plan != old:
                    changed.append(_id(new))
                if (plan.settings, plan.card) != (old.settings, old.card):
                    model = None
                elif plan.stay != old.stay:
                    model.stay = plan.stay
            plans.append(plan)
            models.append(model or self._served(plan, is_awaited=True))
        names = {_id(plan) for plan in plans}
        self._plans = plans
        self.fleet.change(models, self._names(), self._memory_bytes())
        return Changes(
            added=tuple(_id(plan) for plan in plans if _id(plan) not in before),
            changed=tuple(changed),
            removed=tuple(name for name in before if name not in names),
        )

    def _names(self) -> Names:
        aliases = {alias: _id(plan) for plan in self._plans for alias in plan.aliases}
        return Names(aliases | dict(self._settings.model_aliases), self._settings.any_model_name)

    def _memory_bytes(self) -> int | None:
        """Return what all engines may hold; None: there is but one, which has a plan of its own."""
        return models_file.memory_bytes(self._settings) if len(self._plans) > 1 else None

    def _served(self, plan: Plan, *, is_awaited: bool) -> ServedModel:
        """Return the model of *plan*, not loaded yet; *is_awaited*: nor is it being loaded."""
        settings = plan.settings
        supervisor = Supervisor(
            load_message(settings),
            Lifecycle(warmup_enabled=settings.warmup, is_on_demand=is_awaited),
            self._metrics,
            command=self._engine,
            stall_s=settings.stall_timeout_s,
            load_s=settings.load_timeout_s,
            memory_bytes=settings.engine_memory_mb and settings.engine_memory_mb * 1_000_000,
        )
        queue = (settings.queue_size, settings.queue_timeout_s)
        return ServedModel(
            supervisor,
            Admission(settings.max_concurrency, *queue),
            Admission(N_QUESTIONS, *queue),
            plan.stay,
            plan.card,
        )


def load_message(settings: Settings) -> Load:
    """Return what an engine is started with: of all settings those that `Load` has a field for."""
    return Load(**{name: getattr(settings, name) for name in Load.__struct_fields__})


def _id(plan: Plan) -> str:
    return str(plan.settings.model_id)
