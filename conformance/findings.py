"""What a run found: one finding for each check, one verdict for each requirement, one for all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from conformance import catalogue
from conformance.baseline import Baseline
from conformance.catalogue import Requirement
from conformance.client import Exchange
from conformance.verdicts import (
    ENGINE_ERROR,
    FAIL,
    INAPPLICABLE,
    NOT_TESTED,
    PASS,
    VERDICTS,
    WARN,
)

CONFORMANT = "conformant"
NOT_CONFORMANT = "not conformant"
NOT_VERIFIED = "not fully verified"
UNREACHABLE = "unreachable"
BROKEN_OFF = "engine error"
EXIT_CODES = {CONFORMANT: 0, NOT_CONFORMANT: 1, NOT_VERIFIED: 6, UNREACHABLE: 7, BROKEN_OFF: 8}

NAMES_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """
    What one check came to.

    Attributes:
        id: the requirement's id, and the case where there are several: `RID-4-stream`.
        test: pytest's name of the check.
        seen: what was found instead, or why it wasn't tested or doesn't apply.
        exchange: what the check looked at last; None where it looked at none.
        accepted: the baseline's reason; empty where the finding isn't accepted.
    """

    requirement: Requirement
    id: str
    test: str
    profile: str
    summary: str
    verdict: str
    seen: str
    duration_s: float
    exchange: Exchange | None = None
    accepted: str = ""


class Outcome(NamedTuple):
    """The verdict over all, and the line that explains it."""

    verdict: str
    reason: str

    @property
    def exit_code(self) -> int:
        """What the run ends with."""
        return EXIT_CODES[self.verdict]

    def __str__(self) -> str:
        """Show it as the run's last line."""
        return f"{self.verdict}: {self.reason}"


@dataclass
class Findings:
    """
    The findings of one run.

    Attributes:
        rows: the requirements of the profiles asked for, whether a check of them ran or not.
        broken_off: why the run ended before its end; empty where it didn't.
        is_strict: whether a SHOULD that isn't met, or wasn't tested, counts like a MUST.
    """

    rows: list[Requirement]
    baseline: Baseline | None = None
    broken_off: str = ""
    is_strict: bool = False
    all: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, profiles: Iterable[str], baseline: Baseline | None) -> "Findings":
        """Return the findings of a run that is just beginning."""
        wanted = set(profiles)
        rows = [row for row in catalogue.load().values() if wanted & set(row.profiles)]
        return cls(rows, baseline)

    def accepted(self, check_id: str, verdict: str) -> str:
        """Return why the baseline accepts that finding; empty where it doesn't."""
        return self.baseline.reason_for(check_id, verdict) if self.baseline else ""

    def of_row(self, row: Requirement) -> list[Finding]:
        """Return the findings about one requirement."""
        return [finding for finding in self.all if finding.requirement.id == row.id]

    def verdict_of(self, row: Requirement) -> str:
        """Return the worst of a requirement's findings; it is open where nothing was checked."""
        verdicts = {finding.verdict for finding in self.of_row(row)}
        unfinished = ENGINE_ERROR if self.broken_off else NOT_TESTED
        return next((each for each in VERDICTS if each in verdicts), unfinished)

    def counts(self) -> dict[str, int]:
        """Return how many requirements came to each verdict."""
        counted = Counter(self.verdict_of(row) for row in self.rows)
        names = (PASS, FAIL, WARN, NOT_TESTED, INAPPLICABLE, ENGINE_ERROR)
        return {name: counted[name] for name in names}

    def outcome(self) -> Outcome:
        """Return the verdict over all."""
        broken = [one.id for one in self.all if one.verdict == ENGINE_ERROR]
        failed = self._unaccepted(FAIL) + (self._unaccepted(WARN) if self.is_strict else [])
        stale = [entry.id for entry in self.baseline.stale()] if self.baseline else []
        is_tested = any(one.verdict in {PASS, WARN, FAIL} for one in self.all)
        if self.broken_off:
            return Outcome(BROKEN_OFF, self.broken_off)
        if broken:
            return Outcome(BROKEN_OFF, f"the suite itself broke in {_names(broken)}")
        if failed:
            words = "MUST or SHOULD" if self.is_strict else "MUST"
            return Outcome(NOT_CONFORMANT, f"{len(failed)} {words} not met: {_names(failed)}")
        if stale:
            text = "the baseline accepts what is no longer found"
            return Outcome(NOT_CONFORMANT, f"{text}: {_names(stale)}")
        if untested := self._unaccepted(NOT_TESTED):
            return Outcome(NOT_VERIFIED, f"{len(untested)} MUST not tested: {_names(untested)}")
        if not is_tested:
            return Outcome(NOT_VERIFIED, "nothing was tested")
        return Outcome(CONFORMANT, self._summary())

    def _unaccepted(self, verdict: str) -> list[str]:
        """Return the MUST rows with a finding of that verdict that nothing accepts."""
        rows = [row for row in self.rows if row.is_must or self.is_strict]
        return [
            row.id
            for row in rows
            if any(one.verdict == verdict and not one.accepted for one in self.of_row(row))
            or (verdict == self.verdict_of(row) and not self.of_row(row))
        ]

    def _summary(self) -> str:
        counts = self.counts()
        told = {
            PASS: "pass",
            FAIL: "fail, accepted",
            WARN: "SHOULD not met",
            NOT_TESTED: "not tested",
            INAPPLICABLE: "don't apply",
        }
        parts = [f"{counts[name]} {words}" for name, words in told.items() if counts[name]]
        return f"of {len(self.rows)} requirements {', '.join(parts)}"


def _names(ids: list[str]) -> str:
    """Name the first few."""
    more = len(ids) - NAMES_SHOWN
    return ", ".join(ids[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
