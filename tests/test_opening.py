"""Where a server listens, as far as it lets us say, and how that is told."""

from __future__ import annotations

from typing import Any

import click
import pytest
import uvicorn

from service.settings import Settings
from service.web.opening import unheeded, url_of

SETTINGS = Settings(host="127.0.0.2", port=9000)
BOTH = {"SERVER_HOST": "127.0.0.2", "SERVER_PORT": "9000"}


def config(**options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration with *options*."""
    return uvicorn.Config("none:app", **options)


def under_uvicorn(*words: str, **options: Any) -> tuple[uvicorn.Config, list[str]]:
    """Return uvicorn's configuration, and the variables that it doesn't heed, beneath its command line."""
    made = config(**options)
    with uvicorn.main.make_context("uvicorn", ["none:app", *words]):
        context = click.get_current_context(silent=True)
        assert context is not None
        return made, unheeded(SETTINGS, made, BOTH)


def test_uvicorn_that_was_told_nothing() -> None:
    """It listens where the environment says."""
    made, found = under_uvicorn()

    assert [] == found
    assert ("127.0.0.2", 9000) == (made.host, made.port)


def test_uvicorn_that_was_told_a_port() -> None:
    """That one holds, since a flag beats the environment; the host is still free."""
    made, found = under_uvicorn("--port", "8000")

    assert ["SERVER_PORT"] == found
    assert ("127.0.0.2", 8000) == (made.host, made.port)


@pytest.mark.parametrize("bound", [{"workers": 2}, {"reload": True}, {"fd": 3}, {"uds": "/tmp/s"}])
def test_uvicorn_that_has_its_socket_already(bound: dict[str, Any]) -> None:
    """Nothing can be changed any more, and both variables are named."""
    _, found = under_uvicorn(**bound)

    assert ["SERVER_HOST", "SERVER_PORT"] == found


def test_other_servers_and_other_programs() -> None:
    """What is already so is heeded; a server that nobody knows, or that a program runs, heeds nothing."""
    assert [] == unheeded(SETTINGS, config(host="127.0.0.2", port=9000), BOTH)
    assert ["SERVER_HOST", "SERVER_PORT"] == unheeded(SETTINGS, config(), BOTH)
    assert ["SERVER_HOST", "SERVER_PORT"] == unheeded(SETTINGS, None, BOTH)
    assert [] == unheeded(SETTINGS, None, {})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "::"}, "http://[::1]:8000"),
        ({"host": "mac.local"}, "http://mac.local:8000"),
        ({"port": 0}, None),
        ({"uds": "/tmp/s"}, None),
        ({"fd": 3}, None),
    ],
)
def test_address_to_copy(options: dict[str, Any], expected: str | None) -> None:
    """It can be asked from this machine, or there is none."""
    assert expected == url_of(config(**options))
