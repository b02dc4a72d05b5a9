"""Fixtures that more than one file uses."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.live import LiveServer, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """
    One server for every test that leaves it as it was, ready and warmed up.

    It is the default one, but that it takes grammars.
    """
    with running(tmp_path_factory.mktemp("server") / "log", ALLOW_GRAMMARS="true") as live:
        live.wait_until("/readyz", 200)
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    """An HTTP client for the default server."""
    with server.client() as http:
        yield http
