"""The scripts' own tool: a step that fails is told, and nothing but this machine is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.roster import SCRIPTS

SCRIPT = """
import socket
from steps import Steps
step = Steps("pytest")

@step
def two_words(): return "what was  seen"

@step
async def later(): assert 1 == 2

@step
def call_home(): socket.create_connection(("192.0.2.1", 80), 1)

@step
def ask_for_a_name(): socket.getaddrinfo("example.org", 80)

@step
def stay_here():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        socket.create_connection(listening.getsockname()).close()
"""


@pytest.fixture
def told(tmp_path: Path) -> dict[str, tuple[bool, str]]:
    """What a small script told of its steps."""
    script = tmp_path / "with_pytest.py"
    script.write_text(SCRIPT, "utf-8")
    ended = subprocess.run(
        [sys.executable, script, "http://127.0.0.1:1"],
        env={"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line]
    assert {(line["client"], line["version"]) for line in lines} == {("pytest", pytest.__version__)}
    return {line["step"]: (line["ok"], line["seen"]) for line in lines}


def test_step_tells_what_was_seen(told: dict[str, tuple[bool, str]]) -> None:
    """A function's name and result are told; the next one is tried after one that failed."""
    assert told["two words"] == (True, "what was seen")
    assert told["later"] == (False, "AssertionError at 'async def later(): assert 1 == 2':")


def test_step_can_ask_nobody_else(told: dict[str, tuple[bool, str]]) -> None:
    """Neither an address nor a name outside is asked; this machine may be."""
    assert told["call home"][1].startswith("PermissionError")
    assert told["ask for a name"][1].startswith("PermissionError")
    assert told["stay here"] == (True, "None")
