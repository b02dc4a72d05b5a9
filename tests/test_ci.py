"""The workflow runs what the README tells a newcomer to run; it has never been run from here."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.live import ROOT

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
(JOB,) = WORKFLOW["jobs"].values()
SH_BLOCKS = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)


def test_workflow_runs_the_two_scripts_and_nothing_else() -> None:
    """The first command with a question, then the second."""
    assert ["bash .ci/serve", "bash .ci/run"] == [
        step["run"] for step in JOB["steps"] if "run" in step
    ]


@pytest.mark.parametrize(("script", "n"), [("serve", 1), ("run", 2)])
def test_script_takes_its_command_from_the_readme(script: str, n: int) -> None:
    """What it cuts out of the README is the block as a reader sees it."""
    (program,) = re.findall(r"awk '(.*?)' README\.md", (ROOT / ".ci" / script).read_text("utf-8"))
    cut = subprocess.run(
        ["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert SH_BLOCKS[n - 1] == cut.stdout


def test_workflow_runs_on_linux_and_on_a_mac() -> None:
    """On systems that are named with their version."""
    assert ["ubuntu-24.04", "macos-15"] == JOB["strategy"]["matrix"]["system"]


def test_workflow_may_only_read_and_ends_in_time() -> None:
    """It has no right but that of reading the code, no key stays, and no step runs for ever."""
    assert {} == WORKFLOW["permissions"]
    assert {"contents": "read"} == JOB["permissions"]
    assert JOB["timeout-minutes"] <= 90
    assert all("timeout-minutes" in step for step in JOB["steps"] if "run" in step)
    assert "group" in WORKFLOW["concurrency"]


def test_actions_are_pinned() -> None:
    """By what cannot be moved; the version stands behind it for those who read."""
    lines = re.findall(r"uses: (.*)", (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))

    assert lines
    for line in lines:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
