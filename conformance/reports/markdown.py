"""The verdict in Markdown: what GitHub shows beside a job, and people paste into an issue."""

from conformance.findings import EXIT_CODES, Findings, Outcome
from conformance.verdicts import FAIL, NOT_TESTED, WARN

SIGNS = {FAIL: "\u2717 MUST not met", WARN: "! SHOULD not met", NOT_TESTED: "? not tested"}


def render(found: Findings, outcome: Outcome, name: str) -> str:
    """Return the verdict over all, and a table of what isn't as it should be, the worst first."""
    lines = [f"## Conformance of {_plain(name)}: {outcome.verdict}", "", _plain(outcome.reason)]
    rows = [
        f"| {row.id} | {sign} | {_plain(row.demand)} | {_plain(_seen(found, row.id, verdict))} |"
        for verdict, sign in SIGNS.items()
        for row in found.rows
        if found.verdict_of(row) == verdict
    ]
    if rows:
        head = [
            "",
            "| requirement | verdict | what is asked | what was seen |",
            "| --- | --- | --- | --- |",
        ]
        lines += [*head, *rows]
    codes = ", ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items())
    return "\n".join([*lines, "", f"Exit code {outcome.exit_code}; there are {codes}.", ""])


def _seen(found: Findings, row_id: str, verdict: str) -> str:
    """Return what the first check of that verdict saw."""
    own = (each.seen for each in found.all if each.requirement.id == row_id)
    mine = [
        each.seen for each in found.all if each.requirement.id == row_id and each.verdict == verdict
    ]
    return next(iter([*mine, *own]), "")


def _plain(text: str) -> str:
    """Return a text as a cell of a table takes it."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())
