"""The wiring: what is routed is what is described."""

from __future__ import annotations

import re
from typing import Any, cast

import falcon.inspect
import pytest
from falcon.asgi import App

from service import contracts
from service.app import create_app
from service.settings import Settings


def test_routes_are_those_of_the_openapi_document() -> None:
    """Each route is described and each described path is routed, with the same methods."""
    app = cast(App[Any, Any], create_app(Settings())._app)
    described = {
        (path.replace("{id}", "{}"), method.upper())
        for path, item in contracts.openapi()["paths"].items()
        for method in item
        if method in {"get", "post", "put", "patch", "delete"}
    }
    routed = {
        (re.sub(r"\{.*?\}", "{}", route.path), method.method)
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }

    assert described == routed


@pytest.mark.parametrize(
    ("host", "key", "is_warned"),
    [("127.0.0.1", None, False), ("0.0.0.0", "secret", False), ("0.0.0.0", None, True)],
)
def test_listening_beyond_this_machine_without_a_key_is_warned_of(
    host: str, key: str | None, is_warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start says so in one line, and only then."""
    create_app(Settings(host=host, api_key=key))

    assert is_warned == ("without an API_KEY" in capsys.readouterr().err)
