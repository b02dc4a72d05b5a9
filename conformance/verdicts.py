"""
How a check names its requirement, and how it says what it found.

    PASS          the demand holds
    FAIL          a MUST doesn't
    WARN          a SHOULD doesn't
    NOT-TESTED    it couldn't be found out; open, never taken for a pass
    INAPPLICABLE  it doesn't concern this server, by what the server itself says
    ENGINE-ERROR  the suite broke, or the server went away; no verdict on the demand
"""

from collections.abc import Iterable
from typing import NoReturn

import pytest

from conformance import catalogue
from conformance.catalogue import Requirement
from conformance.client import Exchange

PASS, FAIL, WARN = "PASS", "FAIL", "WARN"
NOT_TESTED, INAPPLICABLE, ENGINE_ERROR = "NOT-TESTED", "INAPPLICABLE", "ENGINE-ERROR"

# The worst first: a requirement has the first of these that one of its checks has.
VERDICTS = (ENGINE_ERROR, FAIL, WARN, NOT_TESTED, PASS, INAPPLICABLE)


class Violation(Exception):
    """
    The server breaks a requirement; its text is the whole message for people.

    Whether that fails the run (MUST) or is only told (SHOULD) is the requirement's own matter.
    """

    def __init__(self, demand: Requirement, seen: str, exchange: Exchange | None) -> None:
        super().__init__(describe(demand, seen, exchange))
        self.seen = seen
        self.exchange = exchange


class NotTested(Exception):
    """It couldn't be found out; the text says why."""


class Inapplicable(Exception):
    """The requirement doesn't concern this server; the text says by what."""


def requirement(*ids: str, profile: str | Iterable[str] = "wire") -> pytest.MarkDecorator:
    """
    Mark a test as the check of each requirement in *ids*, and run it once for each.

    The test takes the requirement as `demand`. Its id stands in the test's id, and in the mark
    `requirement(id=...)`, which selects it exactly where `-k` only finds substrings. The test
    runs when one of the profiles in *profile* was asked for.

    Raises:
        ValueError: a row doesn't name a profile that its check belongs to.
    """
    rows = catalogue.load()
    profiles = (profile,) if isinstance(profile, str) else tuple(profile)
    for row_id in ids:
        if not set(profiles) <= set(rows[row_id].profiles):
            raise ValueError(f"the row of {row_id} doesn't name each of {', '.join(profiles)}")
    return pytest.mark.parametrize(
        "demand",
        [
            pytest.param(
                rows[row_id],
                id=row_id,
                marks=[pytest.mark.requirement(id=row_id), pytest.mark.profile(*profiles)],
            )
            for row_id in ids
        ],
    )


def describe(demand: Requirement, seen: str, exchange: Exchange | None = None) -> str:
    """Return the message of a violation: the demand, what was sent, what was seen."""
    origin = f"guide lines {demand.lines}{', implied' if demand.implied else ''}"
    lines = [f"{demand.id} ({demand.level}, {origin}): {demand.demand}"]
    if exchange:
        lines += [f"  sent: {exchange.request}", f"  came: {exchange}"]
    return "\n".join([*lines, f"  seen: {seen}"])


def check(demand: Requirement, holds: bool, seen: str, exchange: Exchange | None = None) -> None:
    """
    Demand that *holds* is true; *seen* says what was found instead.

    Raises:
        Violation: it isn't.
    """
    if not holds:
        raise Violation(demand, seen, exchange)


def not_tested(reason: str) -> NoReturn:
    """Leave a requirement open: counted and told at the end, never taken for a pass."""
    raise NotTested(reason)


def inapplicable(reason: str) -> NoReturn:
    """Set a requirement aside: the server doesn't offer what it is about, and says so."""
    raise Inapplicable(reason)
