"""`/admin`: what an operator sees of the models, and does with them while the server runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from service.fleet.fleet import Changes, Fleet
from service.fleet.served_model import ServedModel


class AdminModels:
    """All models, loaded or not; one is named as requests name it, or by its last part if it has slashes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """List them with the memory that they share."""
        models = [_entry(self._fleet, model) for model in self._fleet.models]
        memory = {
            "limit_bytes": self._fleet.memory_bytes,
            "planned_bytes": self._fleet.planned_bytes,
        }
        _render(resp, {"models": models, "memory": memory})

    on_head = on_get

    async def on_post_load(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Load one, and answer when it takes requests."""
        model = self._fleet.find(model_id)
        model.lifecycle.forgive()
        self._fleet.take(model)
        try:
            await self._fleet.bring_up(model, model.admission.timeout_s)
        finally:
            self._fleet.leave(model)
        self._tell(resp, model)

    async def on_post_unload(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Unload one, and answer when its memory has come back."""
        model = self._fleet.find(model_id)
        await self._fleet.dismiss(model)
        self._tell(resp, model)

    async def on_post_pin(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Let no other take the room of one, from now to the end of the server."""
        model = self._fleet.find(model_id)
        model.pin()
        self._tell(resp, model)

    async def on_post_unpin(self, req: Request, resp: Response, model_id: str) -> None:  # noqa: ARG002
        """Let others take its room again."""
        model = self._fleet.find(model_id)
        self._fleet.unpin(model)
        self._tell(resp, model)

    def _tell(self, resp: Response, model: ServedModel) -> None:
        _render(resp, _entry(self._fleet, model))


class AdminReload:
    """
    Which models there are, read again.

    Args:
        reload: does it.
    """

    def __init__(self, reload: Callable[[], Coroutine[Any, Any, Changes]]) -> None:
        self._reload = reload

    async def on_post(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Read file and folder again, and tell what that changes; running answers go on."""
        changes = await self._reload()
        _render(
            resp,
            {"added": changes.added, "changed": changes.changed, "removed": changes.removed},
        )


def _entry(fleet: Fleet, model: ServedModel) -> dict[str, Any]:
    """Return what there is to say of *model*."""
    card, now, stay = model.card, model.lifecycle, model.stay
    return {
        "id": model.id,
        "aliases": [] if card is None else fleet.aliases(card),
        "state": now.state.value,
        "reason": now.doubt or now.reason,
        "on_demand": stay.is_on_demand,
        "pinned": stay.is_pinned,
        "idle_timeout_s": stay.idle_s,
        "planned_bytes": stay.memory_bytes,
        "held_bytes": model.supervisor.memory_bytes if model.has_engine else 0,
        "requests": model.n_users,
    }


def _render(resp: Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
