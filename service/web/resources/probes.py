"""`/health`, `/livez`, `/readyz`, `/metrics` and `/status`: what watches the server asks."""

from __future__ import annotations

from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.fleet.fleet import Fleet
from service.fleet.lifecycle import Lifecycle
from service.protocol import GENERATING, Budget
from service.telemetry import Metrics
from service.web.journal import Journal


class Health:
    """The contract that Tier 2 gates on: 200 exactly when every model that should be up takes requests."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Tell the default model's health; the six fields are there either way."""
        now = self._fleet.default.lifecycle
        card = now.healthy_card if self._fleet.is_healthy else None
        is_healthy = card is not None
        warms_up = card is not None and card.kind in GENERATING
        resp.status = 200 if is_healthy else 503
        _render(
            resp,
            {
                "status": "ok",
                "model_id": card.id if card is not None else None,
                "model_status": "initialized" if is_healthy else "uninitialized",
                "models_healthy": is_healthy,
                "warmup_enabled": now.warmup_enabled if warms_up else None,
                "warmup_completed": now.warmup_completed if warms_up else None,
            },
        )

    on_head = on_get


class Liveness:
    """The event loop turns."""

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Say so."""
        _render(resp, {"status": "ok"})

    on_head = on_get


class Readiness:
    """The models that should be up take requests, and their warm-ups have run; if not, why."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Tell state and reason of each model, and its memory once it is loaded."""
        is_ready = self._fleet.is_ready
        resp.status = 200 if is_ready else 503
        models = [_state(model.id, model.lifecycle) for model in self._fleet.models]
        _render(resp, {"ready": is_ready, "models": models})

    on_head = on_get


class MetricsPage:
    """Counters for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Return all counters in the text format."""
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self._metrics.exposition()

    on_head = on_get


class Status:
    """What the server is at, in one look: models, tokens, the last requests; for the status page."""

    def __init__(self, fleet: Fleet, journal: Journal) -> None:
        self._fleet = fleet
        self._journal = journal

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Tell it; of requests what they took, and nothing of what was said."""
        models = [
            {
                "id": model.id,
                "state": model.lifecycle.state.value,
                "reason": model.lifecycle.doubt or model.lifecycle.reason,
                "warmup_completed": model.lifecycle.warmup_completed,
                "context_length": model.card and model.card.context_length,
                "generating": model.admission.n_in_use,
                "waiting": model.admission.n_waiting,
            }
            for model in self._fleet.models
        ]
        tokens = self._journal.n_completion_tokens
        _render(
            resp,
            {"models": models, "completion_tokens": tokens, "requests": self._journal.last()},
        )

    on_head = on_get


def _state(model_id: str | None, now: Lifecycle) -> dict[str, Any]:
    return {
        "id": model_id,
        "state": now.state.value,
        "reason": now.doubt or now.reason,
        "notes": now.notes,
        "memory": None if now.budget is None else _memory(now.budget),
    }


def _memory(budget: Budget) -> dict[str, int]:
    return {
        "weights_bytes": budget.weights_bytes,
        "kv_cache_bytes": budget.kv_cache_bytes,
        "context_length": budget.context_length,
        "model_context_length": budget.model_context_length,
        "full_contexts": budget.n_full_contexts,
    }


def _render(resp: Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
