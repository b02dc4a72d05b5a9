"""The proof's own completeness; the proof itself is a tox environment of its own."""

from conformance import catalogue
from conformance.broken import fault


def test_every_requirement_has_a_fault() -> None:
    """No requirement goes unproved, and no fault claims one that isn't there."""
    rows = {row.id for row in catalogue.load().values() if not row.excluded}
    faults = fault.load().values()

    assert {each.breaks for each in faults} == rows
    assert all(each.also <= rows - {each.breaks} for each in faults)


def test_one_fault_is_found_by_its_name_alone() -> None:
    """A fault is started without importing the others."""
    assert fault.find("owner-is-openai").breaks == "DISC-5"
