"""
A table of all types that mlx-lm knows: `python -m tests.models`.

Each type has a process of its own: one that crashes or hangs costs its row and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import multiprocessing
import platform
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import click
import transformers

from tests.models.checks import CHECKS, Row, row_of
from tests.models.types import FAULTS, names

FOLDER = Path(__file__).parent
MOST_S = 180.0  # taste: a row takes a few seconds
PACKAGES = ("mlx", "mlx-lm", "transformers", "numpy")
MARKS = {"yes": "✓", "none": "○", "no": "✗"}


@click.command()
@click.argument("types", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for types.md and types.json.")
@click.option("--verbose", is_flag=True, help="Show what the engine logs.")
def main(types: tuple[str, ...], out: Path | None, verbose: bool) -> None:
    """Try a small model of each of TYPES, by default of every type that mlx-lm knows."""
    transformers.logging.set_verbosity_error()
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL)
    rows = []
    wanted = types or names()
    for i, name in enumerate(wanted, 1):
        row = in_a_process(name)
        rows.append(row)
        faults = [f"{check} {seen}" for check, seen in row.seen.items() if seen.startswith("no:")]
        told = "right" if row.is_right else "; ".join(faults)
        print(f"{i}/{len(wanted)} {name}: {told} ({row.batching}, {row.seconds} s)", flush=True)
    print(markdown(rows))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "types.md").write_text(markdown(rows), "utf-8")
        found = {"versions": versions(), "types": [asdict(row) for row in rows]}
        (out / "types.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.exit(not all(row.is_right for row in rows))


def in_a_process(name: str) -> Row:
    """Return the row of the type *name*, made by a process of its own."""
    context = multiprocessing.get_context("fork")  # before anything was computed here
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_row, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        row: Row = ours.recv() if ours.poll(MOST_S) else _lost(name, f"not done after {MOST_S:g} s")
    except EOFError:
        process.join()
        row = _lost(name, f"its process ended with {process.exitcode}")
    process.kill()
    process.join()
    return row


def _send_row(name: str, connection: Connection) -> None:
    connection.send(row_of(name))


def _lost(name: str, reason: str) -> Row:
    return Row(name, seen={CHECKS[0]: f"no: {reason}"})


def versions() -> dict[str, str]:
    """Return what the table was made with."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"python": platform.python_version(), "machine": platform.machine()}


def markdown(rows: list[Row]) -> str:
    """Return *rows* as a page: how many are right, the table, and what each mark that is no ✓ means."""
    n_right = sum(row.is_right for row in rows)
    built = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Models of every type",
        "",
        f"{n_right} of {len(rows)} types are right. Made by `python -m tests.models --out tests/models`",
        f"with {built}.",
        "",
        f"| type | family | {' | '.join(CHECKS)} | prompts read together |",
        f"|{' --- |' * (len(CHECKS) + 3)}",
    ]
    for row in rows:
        marks = [
            MARKS[row.seen[check].partition(":")[0]] if check in row.seen else ""
            for check in CHECKS
        ]
        lines.append(f"| `{row.type}` | {row.family} | {' | '.join(marks)} | {row.batching} |")
    for row in rows:
        if not row.is_right:
            lines += [
                "",
                f"`{row.type}` is not right by a fault of {FAULTS.get(row.type, 'nobody yet')}.",
            ]
    lines += ["", "✓ seen, ○ can't be had and says so, ✗ wrong", ""]
    for row in rows:
        for check, seen in row.seen.items():
            if seen != "yes":
                lines.append(f"- `{row.type}`, {check}: {seen.partition(': ')[2]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
