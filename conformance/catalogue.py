"""
The requirement catalogue as data: one TOML row per requirement, one file per area.

It is frozen by revisions: `requirements/index.toml` lists each with the hash of the rows that it
stands for, and every report carries both. Two reports of one revision asked for the same things.
"""

import functools
import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "requirements"
INDEX = FOLDER / "index.toml"
GUIDE = FOLDER / "guide.toml"
LEVELS = ("MUST", "SHOULD")

PROFILES = {
    "wire": "any URL, a dozen cheap generations",
    "notready": "a URL that is held in 503",
    "startup": "a server watched from its first moment",
    "managed": "a server that the suite starts, turning its environment and flags",
    "openai": "the OpenAI surface and Anthropic's messages, by what the models' tags promise",
    "openai-api": "what clients of OpenAI's need of any server, and nothing that Tier 3A adds",
    "stress": "health and ids under load, bounded",
    "log": "what the file of --server-log shows; added by that option",
}
# Where the checks of OpenAI's surface belong, and those of what any client needs first.
SURFACE = ("openai", "openai-api")
OF_ANY = ("wire", "openai-api")


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
        profiles: the profiles with a check of it; none of them stands for another.
        implied: the guide doesn't write it down, but doesn't work without it.
        capability: the tags that promise it, such as `tools` or `messages, tools`; without a model
            that has them all it doesn't apply.
        excluded: why no check can exist; empty where one must.
    """

    id: str
    level: str
    demand: str
    section: str
    lines: str
    profiles: tuple[str, ...] = ()
    implied: bool = False
    capability: str = ""
    excluded: str = ""

    @property
    def area(self) -> str:
        """The part of the id before the number."""
        return self.id.partition("-")[0]

    @property
    def is_must(self) -> bool:
        """Whether a server that breaks it fails the run."""
        return self.level == "MUST"


class Area(NamedTuple):
    """One file of requirements and the file of their checks."""

    name: str
    title: str
    checks: str


class Revision(NamedTuple):
    """One state of the catalogue that reports refer to."""

    number: int
    date: str
    sha256: str


class Part(NamedTuple):
    """Some lines of the guide: a section by its title, or lines without a demand and why."""

    lines: str
    title: str = ""
    reason: str = ""


class Guide(NamedTuple):
    """The integration guide, as far as the catalogue has to know it."""

    n_lines: int
    sections: tuple[Part, ...]
    silent: tuple[Part, ...]


def guide() -> Guide:
    """Return the guide's sections, and those of its lines that demand nothing."""
    found = tomllib.loads(GUIDE.read_text(encoding="utf-8"))
    sections = tuple(Part(**fields) for fields in found["section"])
    return Guide(found["n_lines"], sections, tuple(Part(**fields) for fields in found["silent"]))


def areas() -> list[Area]:
    """Return the areas in their order."""
    return [Area(**fields) for fields in _index()["area"]]


def revision() -> Revision:
    """Return the last revision."""
    return max(Revision(**fields) for fields in _index()["revision"])


def sha256() -> str:
    """Return the hash of all rows as they are now, whatever their order and layout."""
    rows = sorted((asdict(row) for row in load().values()), key=lambda row: str(row["id"]))
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


@functools.cache
def load() -> dict[str, Requirement]:
    """
    Return all rows by id, area by area.

    Raises:
        ValueError: an id stands twice, or a level or profile is unknown.
        TypeError: a row lacks a field or has one too many.
    """
    rows: dict[str, Requirement] = {}
    for area in areas():
        path = FOLDER / f"{area.name.lower()}.toml"
        for fields in tomllib.loads(path.read_text(encoding="utf-8"))["requirement"]:
            row = Requirement(**fields | {"profiles": tuple(fields.get("profiles", ()))})
            if row.id in rows or row.area != area.name:
                raise ValueError(f"{path.name}: {row.id} stands twice, or in the wrong file")
            if row.level not in LEVELS or not set(row.profiles) <= set(PROFILES):
                raise ValueError(f"{path.name}: {row.id} has no known level, or no known profile")
            if bool(row.profiles) == bool(row.excluded):
                raise ValueError(f"{path.name}: {row.id} needs either profiles or a reason")
            rows[row.id] = row
    return rows


def capabilities() -> set[str]:
    """Return the tags that rows depend upon."""
    return {tag for row in load().values() for tag in row.capability.split(", ") if tag}


@functools.cache
def _index() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = tomllib.loads(INDEX.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    print(sha256())
