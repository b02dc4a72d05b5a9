"""The service, wired: `uvicorn service.app:app`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from falcon.asgi import App

from service import settings as options
from service.fleet.supervisor import ENGINE_COMMAND
from service.roster import Roster
from service.settings import Settings
from service.telemetry import Metrics, configure_logging
from service.web import failures
from service.web.archive import Archive
from service.web.cors import Cors
from service.web.edge import Edge
from service.web.engine_metrics import EngineMetrics
from service.web.guard import Guard
from service.web.image_fetch import ImageFetch
from service.web.intake import Intake
from service.web.journal import Journal, RouteNote
from service.web.keys import Keys
from service.web.lifespan import Lifespan
from service.web.opening import Opening
from service.web.resources.admin import AdminModels, AdminReload
from service.web.resources.chat import ChatCompletions
from service.web.resources.completions import Completions
from service.web.resources.document import OpenApi
from service.web.resources.embeddings import Embeddings, Rerank, Score
from service.web.resources.messages import Messages
from service.web.resources.models import Models
from service.web.resources.pages import Pages
from service.web.resources.probes import Health, Liveness, MetricsPage, Readiness, Status
from service.web.resources.responses import Responses
from service.web.resources.tokens import Detokenize, Estimate, Tokenize
from service.web.terminal import Terminal
from service.web.tracing import tracing


def create_app(settings: Settings, *, engine: Sequence[str] = ENGINE_COMMAND) -> Edge:
    """
    Return the ASGI application; nothing runs before its lifespan begins.

    Args:
        settings: how it was started.
        engine: the command that starts an engine process, to which the number of its socket is added;
            tests give one that fails where they want it to.
    """
    configure_logging(settings.log_level, settings.log_format)
    metrics = Metrics()
    keys = Keys(settings.api_key, settings.api_keys_file, settings.admin_key)
    traces = tracing(settings.otlp_endpoint)
    roster = Roster(settings, metrics, engine)
    fleet = roster.fleet
    metrics.registry.register(EngineMetrics(fleet))
    journal = Journal(metrics, logs_probes=settings.log_probes)
    intake = Intake(fleet, metrics, ImageFetch(settings.image_hosts))
    models = Models(fleet)
    admin = AdminModels(fleet)
    messages = Messages(intake)
    pages = Pages()
    responses = Responses(intake, Archive())
    routes: list[tuple[str, Any, dict[str, str]]] = [
        ("/health", Health(fleet), {}),
        ("/livez", Liveness(), {}),
        ("/readyz", Readiness(fleet), {}),
        ("/metrics", MetricsPage(metrics), {}),
        ("/status", Status(fleet, journal), {}),
        ("/openapi.json", OpenApi(), {}),
        ("/v1/models", models, {}),
        ("/v1/models/{model_id:path}", models, {"suffix": "one"}),
        ("/v1/chat/completions", ChatCompletions(intake), {}),
        ("/v1/completions", Completions(intake), {}),
        ("/v1/embeddings", Embeddings(intake), {}),
        ("/v1/rerank", Rerank(intake), {}),
        ("/v1/score", Score(intake), {}),
        ("/v1/tokenize", Tokenize(intake), {}),
        ("/v1/detokenize", Detokenize(intake), {}),
        ("/v1/estimate", Estimate(intake), {}),
        ("/v1/responses", responses, {}),
        ("/v1/responses/input_tokens", responses, {"suffix": "tokens"}),
        ("/v1/responses/{response_id}", responses, {"suffix": "one"}),
        ("/v1/responses/{response_id}/input_items", responses, {"suffix": "items"}),
        ("/v1/responses/{response_id}/cancel", responses, {"suffix": "cancel"}),
        ("/v1/messages", messages, {}),
        ("/v1/messages/count_tokens", messages, {"suffix": "count_tokens"}),
        ("/admin/models", admin, {}),
        ("/admin/reload", AdminReload(roster.reload), {}),
        ("/admin/models/{model_id}/load", admin, {"suffix": "load"}),
        ("/admin/models/{model_id}/unload", admin, {"suffix": "unload"}),
        ("/admin/models/{model_id}/pin", admin, {"suffix": "pin"}),
        ("/admin/models/{model_id}/unpin", admin, {"suffix": "unpin"}),
        ("/", pages, {}),
        ("/docs", pages, {"suffix": "docs"}),
        ("/pages/{name}", pages, {"suffix": "file"}),
    ]
    has_list = settings.models_file is not None or settings.models_dir is not None
    reload = roster.reload if has_list else None
    lifespan = Lifespan(fleet, metrics, settings.drain_timeout_s, traces, reload)
    middleware: list[Any] = [lifespan, RouteNote()]
    app = App(middleware=middleware)
    failures.install(app)
    for path, resource, how in routes:
        app.add_route(path, resource, **how)
    guard = Guard(keys, settings.allowed_hosts, settings.allowed_origins)
    opening = Opening(settings, Terminal(fleet.default.lifecycle, with_key=keys.are_needed))
    cors = Cors(settings.allowed_origins)
    lifespan.edge = Edge(app, journal, guard, cors, traces, opening)
    return lifespan.edge


def __getattr__(name: str) -> Edge:
    """Make `app` when a server first asks for it, so that importing this module reads no settings."""
    if name == "app":
        try:
            app = create_app(options.from_environment())
        except click.ClickException as error:
            error.show()
            raise SystemExit(options.BOOT_FAILURE_STATUS) from None
        globals()["app"] = app
        return app
    raise AttributeError(name)
