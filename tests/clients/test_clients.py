"""Real clients, as their users have them, against the default server: `tox -e clients`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients.roster import CLIENTS, Client, run, set_up
from tests.clients.table import Tried
from tests.live import LiveServer


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_client_gets_what_it_asks_for(
    client: Client, folder: Path, results: dict[str, Tried], server: LiveServer
) -> None:
    """Each step of its script goes as the client's users expect."""
    if client.is_of_node and not shutil.which("npm"):
        pytest.skip("npm isn't installed")
    home = folder / client.script
    set_up(client, home)
    tried = results[client.name] = run(client, home, server.url)

    assert [step for step in tried["steps"] if not step["ok"]] == []
