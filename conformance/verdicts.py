"""How a check names its requirement, and how it says what it found."""

from typing import NoReturn

import pytest

from conformance import catalogue
from conformance.catalogue import Requirement
from conformance.client import Exchange


class Violation(Exception):
    """
    The server breaks a requirement; its text is the whole message for people.

    Whether that fails the run (MUST) or is only told (SHOULD) is the requirement's own matter.
    """


def requirement(*ids: str) -> pytest.MarkDecorator:
    """
    Mark a test as the check of each requirement in *ids*, and run it once for each.

    The test takes the requirement as `demand`. Its id stands in the test's id, and in the mark
    `requirement(id=...)`, which selects it exactly where `-k` only finds substrings.
    """
    rows = catalogue.load()
    return pytest.mark.parametrize(
        "demand",
        [
            pytest.param(rows[row_id], id=row_id, marks=pytest.mark.requirement(id=row_id))
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
        raise Violation(describe(demand, seen, exchange))


def not_tested(reason: str) -> NoReturn:
    """Leave a requirement open: counted and told at the end, never taken for a pass."""
    pytest.skip(f"not tested: {reason}")
