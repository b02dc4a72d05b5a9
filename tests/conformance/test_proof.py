"""The proof's own completeness; the proof itself is a tox environment of its own."""

import argparse
import os
import socket
import sys
from pathlib import Path

import pytest

from conformance import catalogue, launch
from conformance.broken import fault, forked, proof, proved
from conformance.broken.proof import CORRECT, EARLY, Result, Task, chosen, mixed, sample
from conformance.reports.shape import Report


def test_every_requirement_has_a_fault() -> None:
    """No requirement goes unproved, and no fault claims one that isn't there."""
    rows = {row.id for row in catalogue.load().values() if not row.excluded}
    faults = fault.load().values()

    assert {each.breaks for each in faults} == rows
    assert all(each.also <= rows - {each.breaks} for each in faults)


def test_one_fault_is_found_by_its_name_alone() -> None:
    """A fault is started without importing the others."""
    assert fault.find("owner-is-openai").breaks == "DISC-5"


def test_tasks_that_wait_are_beside_those_that_compute() -> None:
    """None is lost, each kind is spread, and the longest begin while there is much else to do."""
    counts = {"": 20, "its surface": 20, "its options": 4}
    tasks = [Task(f"fault-{at}", run) for run, count in counts.items() for at in range(count)]

    done = mixed(tasks)

    assert sorted(map(str, tasks)) == sorted(map(str, done))
    assert {task.run for task in done[: len(done) // 4]} == set(counts)
    late = done[int(EARLY * len(done)) :]
    assert {task.run for task in late} == {"", "its surface"}


def test_sample_has_a_fault_of_each_area() -> None:
    """No area goes unseen, and none is seen twice."""
    known = fault.load()
    areas = [known[name].breaks.partition("-")[0] for name in sample() if name in known]

    assert sorted(areas) == sorted(
        {each.breaks.partition("-")[0] for each in fault.load().values()}
    )


@pytest.mark.parametrize(
    ("options", "recorded", "n_chosen"),
    [
        ([], "these files", len(sample())),
        ([], "others", len(proof.provable())),
        ([], "", len(proof.provable())),
        (["--all"], "these files", len(proof.provable())),
        (["owner-is-openai"], "others", 1),
    ],
)
def test_sample_is_enough_where_nothing_changed(
    options: list[str],
    recorded: str,
    n_chosen: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All is proved for files that weren't, or where it is asked for; a sample says what it is."""
    monkeypatch.setattr(proved, "recorded", lambda: recorded)
    asked = argparse.Namespace(faults=[o for o in options if o != "--all"], all="--all" in options)

    assert n_chosen == len(chosen(asked, "these files"))
    assert ("a sample" in capsys.readouterr().out) == (n_chosen == len(sample()))


def test_record_is_of_all_that_the_proof_depends_on(tmp_path: Path) -> None:
    """A check, a fault or a contract that changes, comes, goes or is renamed is another digest."""
    for folder in proved.FOLDERS:
        (tmp_path / folder).mkdir()
    check, contract = tmp_path / "conformance" / "test_a.py", tmp_path / "contracts" / "a.json"
    seen = [proved.digest(tmp_path)]
    for path, text in ((check, "1"), (check, "2"), (contract, "{}")):
        path.write_text(text)
        seen.append(proved.digest(tmp_path))
    contract.rename(contract.with_name("b.json"))
    seen.append(proved.digest(tmp_path))
    (tmp_path / "conformance" / "README.md").write_text("prose")

    assert len(set(seen)) == len(seen)
    assert seen[-1] == proved.digest(tmp_path)


def test_record_holds_a_digest() -> None:
    """What stands in the record is one, of these files or of earlier ones."""
    assert len(bytes.fromhex(proved.recorded())) == 32


def test_check_of_another_profile_is_told() -> None:
    """A run that judges by what it wasn't asked for is no correct server's."""
    check = {"id": "RID-7-a", "test": "t", "profile": "log", "verdict": "PASS"}
    row = {"id": "RID-7", "profiles": ["log"], "verdict": "PASS", "checks": [check]}
    report: Report = {"requirements": [row]}  # type: ignore[typeddict-item]  # what is read of it
    result = proof.read(Task(CORRECT, "under load"), report)

    assert result.strays == {"RID-7", "RID-7-a"}
    assert "under load: of no such profile: RID-7, RID-7-a" in proof.problems_of_correct([result])
    assert not any("profile" in each for each in proof.problems_of_correct([Result(result.task)]))


@pytest.mark.skipif(not forked.CAN_FORK, reason="no server is a fork on this system")
def test_fork_takes_no_descriptors_along(tmp_path: Path) -> None:
    """A socket that the suite has open isn't kept open by its servers."""
    words = [sys.executable, "-m", "conformance.broken", "--port", str(launch.free_port())]
    ours, theirs = socket.socketpair()
    with (tmp_path / "log").open("wb") as sink, ours:
        server = forked.fork(words, os.environ, sink)
        theirs.close()
        ours.settimeout(5)
        try:
            assert ours.recv(1) == b""
        finally:
            os.kill(server.pid, 15)
            server.wait(5)


def test_runs_without_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing may be forked, a process that is started anew runs the suite all the same."""
    monkeypatch.setattr(forked, "CAN_FORK", False)

    with proof._pool(1) as pool:
        (result,) = pool.map(proof.run_suite, [Task(CORRECT, "held back")])

    assert not result.noise
    assert {*result.verdicts.values()} == {"PASS"}


def test_progress_is_told_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log shows that the proof goes on: a line for each tenth, and no more."""
    progress = proof.Progress(20)
    for _ in range(20):
        progress.count(Result(Task(CORRECT)))
    lines = capsys.readouterr().err.splitlines()

    assert [line.partition(",")[0] for line in lines] == [f"{n} of 20" for n in range(2, 21, 2)]
