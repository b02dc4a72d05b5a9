"""One verdict out of many findings."""

import pytest

from conformance import catalogue
from conformance.findings import Finding, Findings
from conformance.verdicts import ENGINE_ERROR, FAIL, INAPPLICABLE, NOT_TESTED, PASS, WARN

MUST = catalogue.load()["RID-4"]
SHOULD = catalogue.load()["RID-8"]


def findings(*verdicts: str, row: catalogue.Requirement = MUST, accepted: str = "") -> Findings:
    """Return the findings of a run with one requirement."""
    found = [
        Finding(row, f"{row.id}-{number}", "test", "wire", "", verdict, "", 0, accepted=accepted)
        for number, verdict in enumerate(verdicts)
    ]
    return Findings([row], all=found)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((PASS, PASS), PASS),
        ((PASS, INAPPLICABLE), PASS),
        ((INAPPLICABLE,), INAPPLICABLE),
        ((PASS, NOT_TESTED), NOT_TESTED),
        ((PASS, NOT_TESTED, FAIL), FAIL),
        ((WARN, PASS), WARN),
        ((FAIL, ENGINE_ERROR), ENGINE_ERROR),
        ((), NOT_TESTED),
    ],
)
def test_requirement_has_the_worst_verdict_of_its_checks(
    verdicts: tuple[str, ...], expected: str
) -> None:
    """What is open stays open beside what passed."""
    assert findings(*verdicts).verdict_of(MUST) == expected


@pytest.mark.parametrize(
    ("found", "verdict", "code"),
    [
        (findings(PASS), "conformant", 0),
        (findings(WARN, row=SHOULD), "conformant", 0),
        (findings(PASS, NOT_TESTED, row=SHOULD), "conformant", 0),
        (findings(FAIL, accepted="known"), "conformant", 0),
        (findings(FAIL, PASS), "not conformant", 1),
        (findings(NOT_TESTED, PASS), "not fully verified", 6),
        (findings(NOT_TESTED, accepted="known"), "not fully verified", 6),
        (findings(), "not fully verified", 6),
        (findings(INAPPLICABLE), "not fully verified", 6),
        (findings(FAIL, ENGINE_ERROR), "engine error", 8),
        (Findings([MUST], broken_off="the server went away"), "engine error", 8),
    ],
)
def test_one_verdict_over_all(found: Findings, verdict: str, code: int) -> None:
    """Each has its code, and none is green without having tested something."""
    outcome = found.outcome()

    assert (outcome.verdict, outcome.exit_code) == (verdict, code)
    assert outcome.reason


def test_reason_names_the_requirements_but_not_all_of_many() -> None:
    """The last line stays one line."""
    rows = [row for row in catalogue.load().values() if row.is_must][:20]
    found = Findings(rows, all=[Finding(row, row.id, "t", "wire", "", FAIL, "", 0) for row in rows])

    assert found.outcome().reason.endswith("and 12 more")
