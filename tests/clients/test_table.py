"""The table says what failed, and is drawn where the page has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import table
from tests.clients.table import Step, Tried

STEPS = [Step(step="chat", ok=True, seen="Hello"), Step(step="stream", ok=False, seen="nothing")]


def test_what_failed_is_named() -> None:
    """A row has all that was tried, how much of it went well, and the names of the rest."""
    row = table.markdown({"some": Tried(version="1.2", steps=STEPS)}).splitlines()[-1]

    assert row == "| some | 1.2 | chat, stream | ✓ 1, ✗ 1: stream |"


def test_results_are_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen can be read again, and only the page's table changes."""
    page = tmp_path / "CLIENTS.md"
    page.write_text(f"before\n{table.BEGIN}old\n{table.END}after\n", "utf-8")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results.json")
    results = {"some": Tried(version="1.2", steps=STEPS)}
    table.write(results)

    assert table.read() == results
    drawn = page.read_text("utf-8")
    assert drawn == f"before\n{table.BEGIN}{table.markdown(results)}{table.END}after\n"
