"""What was seen of every client: kept in `results.json`, shown as a table in `service/CLIENTS.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from tests.live import ROOT

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "service" / "CLIENTS.md"
BEGIN, END = "<!-- clients -->\n", "<!-- /clients -->"


class Step(TypedDict):
    """
    One thing that was tried.

    Attributes:
        step: what it was.
        ok: it went as the client's users expect.
        seen: what came back, or what went wrong.
    """

    step: str
    ok: bool
    seen: str


class Tried(TypedDict):
    """
    All that was tried with a client.

    Attributes:
        version: the client's.
        steps: in the order in which they were tried.
    """

    version: str
    steps: list[Step]


def read() -> dict[str, Tried]:
    """Return what the last runs saw, by the clients' names."""
    found: dict[str, Tried] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def write(results: dict[str, Tried]) -> None:
    """Keep *results* and draw them into the page."""
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{markdown(results)}{END}{after}", "utf-8")


def markdown(results: dict[str, Tried]) -> str:
    """Return *results* as a table, one row a client."""
    head = "| client | version | tried | result |\n|---|---|---|---|\n"
    return head + "".join(_row(name, tried) for name, tried in results.items())


def _row(name: str, tried: Tried) -> str:
    steps = tried["steps"]
    bad = [step["step"] for step in steps if not step["ok"]]
    good = len(steps) - len(bad)
    result = f"✓ {good}" if not bad else f"✓ {good}, ✗ {len(bad)}: {', '.join(bad)}"
    told = ", ".join(step["step"] for step in steps)
    return f"| {name} | {tried['version']} | {told} | {result} |\n"
