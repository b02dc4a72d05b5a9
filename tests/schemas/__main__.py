"""
What becomes of public sets of JSON Schemas: `python -m tests.schemas`.

It needs the network, and node, to fetch what makes the schemas; `schemas.md` is what was seen.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections import Counter
from pathlib import Path

import click

from tests.schemas.judge import Judge, Score
from tests.schemas.sets import Packages, collect

HEAD = """\
# What becomes of public schemas

Written by `python -m tests.schemas --out tests/schemas`. A schema is *accepted* if a grammar is made of it,
and *right* if the grammar takes all its values that keep it, and none that don't. A value is tried in many
orders of its properties, since a grammar has but one. *Narrow* are values that keep their schema and aren't
taken, *wide* are those that don't and are.

A narrow grammar still gives answers that keep their schema. On purpose narrow are: objects that name all
their properties get no others, numbers are written in one way (`1` and not `1.0`), and known formats are
held to, which are annotations to the test suite.
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder for schemas.md.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder that keeps the packages.")
@click.option(
    "--verbose", is_flag=True, help="Show each refusal and each value that is judged wrong."
)
def main(out: Path | None, folder: Path | None, verbose: bool) -> None:
    """Let grammars be made of public schemas; tell how many are accepted, and how many right."""
    with tempfile.TemporaryDirectory() as temporary:
        packages = Packages(folder or Path(temporary))
        sets, versions = collect(packages), packages.versions()
    judge = Judge()
    ours = {name: judge.score(cases, judge.ours) for name, cases in sets.items()}
    alone = {name: judge.score(cases, judge.llguidance) for name, cases in sets.items()}
    if verbose:
        for name, score in ours.items():
            for kind, rows in (
                ("refused", score.refused),
                ("narrow", score.narrow),
                ("wide", score.wide),
            ):
                for row in rows:
                    print(name, kind, *row, sep=" | ")
    versions.append(f"llguidance {importlib.metadata.version('llguidance')}")
    text = markdown(ours, alone, versions)
    print(text)
    if out is not None:
        (out / "schemas.md").write_text(text, "utf-8")


def markdown(ours: dict[str, Score], alone: dict[str, Score], versions: list[str]) -> str:
    """Return the table of what was seen."""
    columns = (
        "set | schemas | accepted | right | narrow | wide | llguidance alone: accepted | right"
    )
    lines = [HEAD, f"| {columns} |", "|---" * 8 + "|"]
    for name, score in ours.items():
        other = alone[name]
        counts = (score.n, score.n_accepted, score.n_right, len(score.narrow), len(score.wide),
                  other.n_accepted, other.n_right)  # fmt: skip
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    lines += [
        "",
        "## Why schemas are refused",
        "",
        "| what the refusal says | how often |",
        "|---|---|",
    ]
    told = Counter(_kind(words) for score in ours.values() for _, words in score.refused)
    lines += [
        f"| {words} | {n} |"
        for words, n in sorted(told.items(), key=lambda item: (-item[1], item[0]))
    ]
    return "\n".join([*lines, "", "Seen with " + ", ".join(versions) + ".", ""])


def _kind(words: str) -> str:
    """Return what a refusal says but for the place, and for names and numbers of one schema."""
    words = re.sub(r" at #\S*", "", words)
    words = re.sub(r"/[^ ]+/|'[^']*'|\d[\d.]*|(?<=: )\S*$", "…", words)
    return words.replace("|", "\\|")


if __name__ == "__main__":
    main()
