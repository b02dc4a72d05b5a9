"""The judge of clients: the right one passes, each wrong one is found out, and nothing else is blamed."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance.clients import wrong
from conformance.clients.__main__ import main
from conformance.clients.judge import RULES, Record, judge, rows
from conformance.verdicts import FAIL, NOT_TESTED, PASS, WARN
from tests.conformance.suite import ROOT

BROKEN = {FAIL, WARN}
LIMIT_S = 60
EXAMPLE = ("-m", "conformance.clients.example", "{url}")


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """Let all clients live, side by side, since they mostly wait."""
    clients = {"Plain": wrong.Plain} | {name: each for name, (each, _) in wrong.load().items()}
    with ThreadPoolExecutor(len(clients)) as pool:
        return dict(zip(clients, pool.map(wrong.lived, clients.values()), strict=True))


def test_right_client_passes(records: dict[str, Record]) -> None:
    """A client that does what the guide says leaves nothing open."""
    found = {each.requirement.id: (each.verdict, each.seen) for each in judge(records["Plain"])}

    assert found == dict.fromkeys(rows(), (PASS, ""))


@pytest.mark.parametrize("name", wrong.load())
def test_wrong_client_is_found_out(name: str, records: dict[str, Record]) -> None:
    """What a client is wrong in is told, and nothing that it isn't."""
    broken = {each.requirement.id for each in judge(records[name]) if each.verdict in BROKEN}

    assert broken == wrong.load()[name][1]


def test_each_requirement_has_its_rule_and_its_wrong_client() -> None:
    """Catalogue, rules and wrong clients name the same requirements."""
    assert set(rows()) == set(RULES)
    assert set(rows()) == {row for _, broken in wrong.load().values() for row in broken}


def test_client_that_asks_nothing_is_not_verified() -> None:
    """Who sends no chat has shown nothing."""
    found = {each.requirement.id: each.verdict for each in judge(Record((), 0))}

    assert found["CLIENT-3"] == FAIL
    assert found["CLIENT-1"] == found["CLIENT-9"] == NOT_TESTED


def test_example_lives_the_guides_loop() -> None:
    """The Tier 2 example, with OpenAI's client, passes in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "conformance.clients", "--json", sys.executable, *EXAMPLE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    *_, told = run.stdout.partition("[\n")
    found = {each["id"]: each["verdict"] for each in json.loads(f"[{told}")}

    assert run.returncode == 0, run.stdout + run.stderr
    assert set(found.values()) == {PASS}


def test_command_that_cannot_be_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A client that isn't there is told, with the code of a wrong option."""
    with pytest.raises(SystemExit) as ended:
        main(["/no/such/client"])

    assert ended.value.code == 2
    assert "/no/such/client: No such file or directory" in capsys.readouterr().err
