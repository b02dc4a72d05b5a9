"""Where clients are installed, and what becomes of what they saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import agents, table
from tests.clients.agents import AGENTS, Ran
from tests.clients.roster import CLIENTS
from tests.clients.table import Tried

OPTION = "--write-table"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make known how results are kept."""
    parser.addoption(
        OPTION, action="store_true", help="keep what clients saw, for service/CLIENTS.md"
    )


@pytest.fixture(scope="session")
def folder() -> Path:
    """Return where `tox -e clients` has the clients installed."""
    named = os.environ.get("CLIENTS_FOLDER")
    if not named:
        pytest.skip("clients are installed over the network, which tox -e clients does")
    return Path(named)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Tried]]:
    """What was seen, by the clients' names; each test puts its own there."""
    found = table.read()
    yield found
    if request.config.getoption(OPTION, default=False):
        names = [client.name for client in CLIENTS]
        table.write({name: found[name] for name in names if name in found})


@pytest.fixture(scope="session")
def ran(request: pytest.FixtureRequest) -> Iterator[dict[str, Ran]]:
    """What was seen of agents, by their names; each test puts its own there."""
    found = agents.read()
    yield found
    if request.config.getoption(OPTION, default=False):
        agents.write({each.name: found[each.name] for each in AGENTS if each.name in found})
