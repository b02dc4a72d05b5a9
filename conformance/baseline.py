"""
Accepted findings, for servers that aren't perfect yet.

A baseline is a TOML file of entries like this one:

    [[accepted]]
    id = "RID-8-two"      # a requirement, or one check of it, as reports call it
    verdict = "WARN"      # what is accepted there: FAIL, WARN or NOT-TESTED
    reason = "the proxy in front joins the two headers"

An accepted finding stays in every report, with its reason, and doesn't fail the run. An entry
that nothing answers to any more does: it has been mended, and the entry has to go.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from conformance import catalogue
from conformance.verdicts import FAIL, NOT_TESTED, WARN

ACCEPTABLE = (FAIL, WARN, NOT_TESTED)


class UnusableBaseline(Exception):
    """The file can't be read as a baseline; the text is one line for people."""


@dataclass(frozen=True)
class Entry:
    """One accepted finding."""

    id: str
    verdict: str
    reason: str

    def covers(self, check_id: str) -> bool:
        """Whether that check is the one meant, or one of the requirement meant."""
        return check_id == self.id or check_id.startswith(f"{self.id}-")


@dataclass
class Baseline:
    """
    All entries of one file.

    Attributes:
        file: its name, as it was given.
    """

    file: str
    entries: tuple[Entry, ...]
    _judged: set[Entry] = field(default_factory=set)
    _used: set[Entry] = field(default_factory=set)

    def reason_for(self, check_id: str, verdict: str) -> str:
        """Return why that finding is accepted; empty where it isn't. Remembers what was asked."""
        covering = [entry for entry in self.entries if entry.covers(check_id)]
        self._judged.update(covering)
        for entry in covering:
            if entry.verdict == verdict:
                self._used.add(entry)
                return entry.reason
        return ""

    def used(self) -> list[Entry]:
        """Return the entries that a finding answered to."""
        return [entry for entry in self.entries if entry in self._used]

    def stale(self) -> list[Entry]:
        """Return the entries whose checks ran without such a finding."""
        return [entry for entry in self.entries if entry in self._judged - self._used]


def load(name: str) -> Baseline:
    """
    Read the file called *name*.

    Raises:
        UnusableBaseline: it can't be read, or an entry isn't complete or names nothing known.
    """
    try:
        tables = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnusableBaseline(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise UnusableBaseline(f"{name}: not TOML: {error}") from error
    accepted = tables.pop("accepted", [])
    if tables or not isinstance(accepted, list):
        raise UnusableBaseline(f"{name}: holds nothing but [[accepted]] entries")
    return Baseline(name, tuple(_entry(name, fields) for fields in accepted))


def _entry(name: str, fields: object) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"id", "verdict", "reason"}:
        raise UnusableBaseline(f"{name}: each entry has an id, a verdict and a reason: {fields}")
    entry = Entry(**{key: str(text).strip() for key, text in fields.items()})
    if "-".join(entry.id.split("-")[:2]) not in catalogue.load():
        raise UnusableBaseline(f"{name}: {entry.id} names no requirement")
    if entry.verdict not in ACCEPTABLE:
        raise UnusableBaseline(f"{name}: {entry.id}: verdict is one of {', '.join(ACCEPTABLE)}")
    if not entry.reason:
        raise UnusableBaseline(f"{name}: {entry.id}: says no reason")
    return entry
