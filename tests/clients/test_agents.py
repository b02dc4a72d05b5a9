"""Coding agents, as their users have them, on a task that takes several turns: `tox -e clients`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients import scripted_model
from tests.clients.agents import AGENTS, ERRAND, MODEL, Agent, Ran, run
from tests.clients.recorder import recording
from tests.clients.roster import set_up
from tests.live import running

START_S = 120  # taste: these tests run beside installers


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_agent_gets_its_task_done(
    agent: Agent, folder: Path, ran: dict[str, Ran], tmp_path: Path
) -> None:
    """Each call is made and its result comes back to the model; of a prompt, hardly a token is read twice."""
    if agent.is_of_node and not shutil.which("npm"):
        pytest.skip("npm isn't installed")
    home = folder / agent.folder
    set_up(agent, home)
    model = scripted_model.make(tmp_path / MODEL, ERRAND, agent.turns)
    with (
        running(tmp_path / "log", MODEL_PATH=str(model)) as server,
        recording(server.url) as recorder,
    ):
        server.wait_until("/readyz", 200, START_S)
        seen = ran[agent.name] = run(agent, home, tmp_path, recorder)

    assert [] == seen["faults"]
    assert seen["kept"] is None or agent.rewrites or seen["kept"] > 0.99
