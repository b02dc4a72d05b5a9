"""The wiring: what is routed is what is described."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any, cast

import falcon.inspect
from falcon.asgi import App

from service import contracts
from service.app import create_app
from service.protocol import Load
from service.roster import load_message
from service.settings import OPTIONS, Settings
from service.web.resources import pages
from tests.live import ROOT
from tests.test_settings import TABLE

# What only the API process reads.
API_OPTIONS = {
    "log_format",
    "log_probes",
    "models_file",
    "models_dir",
    "models_memory_mb",
    "model_idle_timeout_s",
    "host",
    "allowed_hosts",
    "load_timeout_s",
    "engine_memory_mb",
    "drain_timeout_s",
    "port",
    "queue_timeout_s",
    "queue_size",
    "api_key",
    "api_keys_file",
    "admin_key",
    "image_hosts",
    "otlp_endpoint",
    "model_aliases",
    "any_model_name",
    "allowed_origins",
}


def test_routes_are_those_of_the_openapi_document() -> None:
    """Each route is described and each described path is routed, with the same methods."""
    app = cast(App[Any, Any], create_app(Settings())._app)
    described = {
        (re.sub(r"\{.*?\}", "{}", path), method.upper())
        for path, item in contracts.openapi()["paths"].items()
        for method in item
        if method in {"get", "post", "put", "patch", "delete"}
    }
    routed = {
        (re.sub(r"\{.*?\}", "{}", route.path), method.method)
        for route in falcon.inspect.inspect_routes(app)
        if route.path not in pages.ROUTES  # they are for people, and no contract
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }

    assert described == routed


def test_api_process_is_free_of_mlx_and_transformers() -> None:
    """Making the app imports neither, nor what they bring; they belong to the engine process."""
    code = "import sys, service.app; service.app.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"mlx", "mlx_lm", "transformers", "tokenizers", "numpy", "huggingface_hub"}

    assert heavy & set(done.stdout.split()) == set()


def test_every_option_of_the_engine_reaches_it() -> None:
    """An option is either the API process's own or a field of the engine's first message, as it was set."""
    names = {option.name for option in OPTIONS}
    others = {name: value for name, *_, value in TABLE}
    settings = dataclasses.replace(Settings(), **others)
    load = load_message(settings)

    assert names - API_OPTIONS == set(Load.__struct_fields__)
    assert {name: others[name] for name in names - API_OPTIONS} == {
        name: getattr(load, name) for name in Load.__struct_fields__
    }
