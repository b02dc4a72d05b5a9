"""How each verdict looks and is called, on pages, badges and in Markdown alike."""

from typing import Final, NamedTuple

from conformance import catalogue
from conformance.reports.shape import Outcome, Verdict


class Look(NamedTuple):
    """
    One appearance.

    Attributes:
        name: CSS class and icon; the colours are in `style.css`.
        symbol: one character, for where there is no icon.
        words: what it says of one requirement, or of a server.
        colour: a background for white text, for where there is no style sheet.
    """

    name: str
    symbol: str
    words: str
    colour: str


# In the order in which counts are drawn: what holds, what doesn't, what is open.
VERDICTS: Final[dict[Verdict, Look]] = {
    "PASS": Look("pass", "✓", "passed", "#1b7444"),
    "FAIL": Look("fail", "✗", "failed", "#b3261e"),
    "WARN": Look("warn", "!", "fell short", "#8a5a00"),
    "ENGINE-ERROR": Look("broken", "⚡", "engine error", "#7a35b0"),
    "NOT-TESTED": Look("open", "?", "not tested", "#1d5fa8"),
    "INAPPLICABLE": Look("aside", "○", "not applicable", "#5b6270"),
}

OUTCOMES: Final[dict[Outcome, Look]] = {
    "conformant": VERDICTS["PASS"]._replace(words="conformant"),
    "not conformant": VERDICTS["FAIL"]._replace(words="not conformant"),
    "not fully verified": VERDICTS["NOT-TESTED"]._replace(words="not fully verified"),
    "unreachable": VERDICTS["INAPPLICABLE"]._replace(words="unreachable"),
    "engine error": VERDICTS["ENGINE-ERROR"]._replace(words="engine error"),
}


def area_of(requirement_id: str) -> str:
    """Return the part of an id before its number: `RID-4` gives `RID`."""
    return requirement_id.rpartition("-")[0] or requirement_id


def title_of(area: str) -> str:
    """Return what an area is about; empty for one that this catalogue doesn't know."""
    return next((each.title for each in catalogue.areas() if each.name == area), "")


def duration(seconds: float) -> str:
    """Return a time for people: three digits, in ms below a second."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1000:.3g} ms"
