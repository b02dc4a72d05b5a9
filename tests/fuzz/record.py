"""What the long runs saw, one row each, kept in a folder as JSON and as a table to read."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click
import psutil

TABLE, DATA = "record.md", "record.json"
HEAD = """# What the long runs saw

Each row is written by its command, with `--out tests/fuzz`. A run ends with status 1 where its goal isn't
met, and where something is left over when nobody asks any more: every request that was started has to be
completed, failed or cancelled, no permit may be out, nobody may wait.

| what | goal | seen | | command | with |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """
    What one run saw.

    Attributes:
        what: was done.
        goal: a number that must be kept.
        seen: the numbers.
        is_met: whether the goal is.
        command: that does it again.
    """

    what: str
    goal: str
    seen: str
    is_met: bool
    command: str


def tell(row: Row, out: Path | None) -> None:
    """Print a row, and put it in the place of the last one of its kind in the folder *out*."""
    click.echo(f"{'✓' if row.is_met else '✗'} {row.what}: {row.seen} (goal: {row.goal})")
    if out is None:
        return
    data = out / DATA
    rows = json.loads(data.read_text("utf-8")) if data.exists() else {}
    rows[row.what] = asdict(row) | {"with": where()}
    data.write_text(json.dumps(rows, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    (out / TABLE).write_text(HEAD + "".join(line(each) for each in rows.values()), "utf-8")


def line(row: dict[str, str | bool]) -> str:
    """Return a row of the table."""
    mark = "✓" if row["is_met"] else "✗"
    cells = (row["what"], row["goal"], row["seen"], mark, f"`{row['command']}`", row["with"])
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def where() -> str:
    """Return versions and machine in words."""
    built_on = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "uvicorn"))
    return f"{built_on}, {platform.system()}, {psutil.cpu_count()} cores"
