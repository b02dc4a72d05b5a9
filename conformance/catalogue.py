"""The requirement catalogue as data: one TOML row per requirement, one file per area."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "requirements"


@dataclass(frozen=True)
class Requirement:
    """
    One thing that a Tier 3A server owes its clients.

    Attributes:
        id: area and number, such as `RID-4`; never given to another requirement.
        level: `MUST` or `SHOULD`.
        demand: what is asked, in the suite's own words.
        section: the integration guide's heading that it comes from.
        lines: the guide's lines, such as `33, 46-64`.
        implied: the guide doesn't write it down, but doesn't work without it.
        unchecked: why no check can exist; empty where one must.
    """

    id: str
    level: str
    demand: str
    section: str
    lines: str
    implied: bool = False
    unchecked: str = ""

    @property
    def is_must(self) -> bool:
        """Whether a server that breaks it fails the run."""
        return self.level == "MUST"


@functools.cache
def load() -> dict[str, Requirement]:
    """
    Return all rows by id, in the order of their files.

    Raises:
        ValueError: an id stands twice, or a level is unknown.
        TypeError: a row lacks a field or has one too many.
    """
    rows: dict[str, Requirement] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        for fields in tomllib.loads(path.read_text(encoding="utf-8"))["requirement"]:
            row = Requirement(**fields)
            if row.id in rows or row.level not in {"MUST", "SHOULD"}:
                raise ValueError(f"{path.name}: {row.id} stands twice or has no known level")
            rows[row.id] = row
    return rows
