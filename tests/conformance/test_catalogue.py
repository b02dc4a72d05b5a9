"""The catalogue: every row has its check, every check its row, and the guide has no line left over."""

import ast
import functools
import re
import sys
from collections.abc import Iterator

from conformance import catalogue
from tests.conformance.suite import SUITE, conformance

STRESS = "test_stress.py"
ALLOWED = {"conformance", "h11", "jsonschema", "pytest", "referencing"}
CHECK = re.compile(r"^conformance/(\S+)::(\w+)\[((?:[A-Z]+)-\d+)", re.MULTILINE)


def numbers(lines: str) -> Iterator[int]:
    """Yield the numbers that `33, 46-64` stands for."""
    for part in lines.split(", "):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


@functools.cache
def listing() -> str:
    """Return the names of all checks, in the order in which they run."""
    return conformance("--collect-only", "-q").stdout


def test_what_may_end_a_server_is_asked_late() -> None:
    """Chats come before what fewer clients ask, and what can't be meant after all that can."""
    order = [listing().index(f"[{each}") for each in ("OAI-1", "PARAM-8", "COMPL-1", "PARAM-5")]
    closing = listing().index("[SHAPE-1")

    assert order == sorted(order)
    assert closing > order[-1]


def test_every_requirement_has_a_check_and_every_check_a_requirement() -> None:
    """Catalogue and checks name the same requirements, in the file of their area or of stress."""
    files = {area.name: {area.checks, STRESS} for area in catalogue.areas()}
    found = CHECK.findall(listing())
    n_tests = sum("::" in line for line in listing().splitlines())

    assert {row_id for _, _, row_id in found} == {
        row.id for row in catalogue.load().values() if not row.excluded
    }
    assert [] == [
        f"{file}::{test}" for file, test, row_id in found if file not in files[row_id.split("-")[0]]
    ]
    assert len(found) == n_tests


def test_rows_are_numbered_without_gaps() -> None:
    """Each area's rows are numbered from 1 on, and say what they demand."""
    rows = catalogue.load().values()
    for area in catalogue.areas():
        found = [int(row.id.split("-")[1]) for row in rows if row.area == area.name]
        assert found == list(range(1, len(found) + 1)), area.name

    assert all(row.demand.endswith(".") and row.section and row.lines for row in rows)
    assert all(row.excluded.endswith(".") for row in rows if row.excluded)


def test_catalogue_is_frozen() -> None:
    """The rows are those of the last revision; who changes one adds a revision to the index."""
    revision = catalogue.revision()

    assert revision.sha256 == catalogue.sha256(), "python -m conformance.catalogue"


def test_no_line_of_the_guide_is_left_over() -> None:
    """Each line demands something that a row names, or is listed as demanding nothing, with why."""
    guide = catalogue.guide()
    rows = catalogue.load().values()
    demanding = {number for row in rows for number in numbers(row.lines)}
    silent = {number for part in guide.silent for number in numbers(part.lines)}

    assert demanding | silent == set(range(1, guide.n_lines + 1))
    assert demanding & silent == set()
    assert all(part.reason for part in guide.silent)


def test_rows_name_the_section_of_their_lines() -> None:
    """A row's section is a heading of the guide, and its lines begin there or refer there."""
    sections = {part.title: set(numbers(part.lines)) for part in catalogue.guide().sections}

    wrong = [
        row.id
        for row in catalogue.load().values()
        if not sections.get(row.section, set()) & set(numbers(row.lines))
    ]

    assert wrong == []


def test_suite_imports_only_what_it_lists() -> None:
    """It runs where neither the service nor what the service needs is installed."""
    listed = re.findall(r"^[a-z0-9]+", (SUITE / "requirements.txt").read_text(), re.MULTILINE)
    imported = set()
    for path in SUITE.rglob("*.py"):
        if path.parent.name == "gate":
            continue  # for this repository's own CI: it reads YAML, and checks no server
        if path.name == "example.py":
            continue  # a client like those that are judged, with a library that they have
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])

    assert imported - set(sys.stdlib_module_names) <= ALLOWED
    assert ALLOWED - {"conformance", "referencing"} == set(listed)  # jsonschema brings referencing
