"""Accepted findings don't fail a run; stale ones do."""

from pathlib import Path

import pytest

from conformance.baseline import UnusableBaseline, load
from tests.conformance.suite import conformance, miniature, reported, verdict_line


def entry(row_id: str, verdict: str = "FAIL", reason: str = "known") -> str:
    """Return one entry as a baseline has it."""
    return f'[[accepted]]\nid = "{row_id}"\nverdict = "{verdict}"\nreason = "{reason}"\n'


def test_accepted_finding_does_not_fail_the_run(tmp_path: Path) -> None:
    """What is accepted stays in the report, with its reason."""
    file, path = tmp_path / "accepted.toml", tmp_path / "report"
    file.write_text(entry("DISC-5") + entry("SHAPE-1") + entry("SHAPE-2"))
    command = miniature("owner-is-openai")
    options = ["--baseline", str(file), "--report-json", str(path)]
    run = conformance("--launch", command, *options)
    report = reported(run, path)
    accepted = {row["id"]: row for row in report["requirements"] if row["accepted"]}

    assert run.returncode == 0, run.stdout[-3000:]
    assert set(accepted) == {"DISC-5", "SHAPE-1", "SHAPE-2"}
    assert accepted["DISC-5"]["verdict"] == "FAIL"
    assert "3 fail, accepted" in verdict_line(run)
    assert report["baseline"] is not None
    assert report["baseline"]["stale"] == []


def test_stale_entry_fails_the_run(tmp_path: Path) -> None:
    """An entry that nothing answers to has to go."""
    file = tmp_path / "accepted.toml"
    file.write_text(entry("RID-4-stream"))
    run = conformance("--launch", miniature(), "--baseline", str(file))

    assert run.returncode == 1
    assert "the baseline accepts what is no longer found: RID-4-stream" in verdict_line(run)


def test_entry_of_another_profile_is_not_stale(tmp_path: Path) -> None:
    """What didn't run says nothing about an entry."""
    file = tmp_path / "accepted.toml"
    file.write_text(entry("HEALTH-9"))
    run = conformance("--launch", miniature(), "--baseline", str(file))

    assert run.returncode == 0, run.stdout[-3000:]


def test_another_verdict_is_not_accepted(tmp_path: Path) -> None:
    """Who accepts that something can't be tested doesn't accept that it fails."""
    file = tmp_path / "accepted.toml"
    file.write_text(entry("DISC-5", "NOT-TESTED"))
    run = conformance("--launch", miniature("owner-is-openai"), "--baseline", str(file))

    assert run.returncode == 1
    assert "DISC-5" in verdict_line(run)


def test_one_check_covers_no_other(tmp_path: Path) -> None:
    """DISC-1 is not DISC-10, and RID-4-stream not the rest of RID-4."""
    file = tmp_path / "accepted.toml"
    file.write_text(entry("DISC-1") + entry("RID-4-stream"))
    one, other = load(str(file)).entries

    assert one.covers("DISC-1")
    assert not one.covers("DISC-10")
    assert other.covers("RID-4-stream")
    assert not other.covers("RID-4-head")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accepted = 1", "nothing but [[accepted]]"),
        ("[other]\na = 1", "nothing but [[accepted]]"),
        ('[[accepted]]\nid = "RID-4"', "has an id, a verdict and a reason"),
        (entry("RID-99"), "RID-99 names no requirement"),
        (entry("RID-4", "PASS"), "verdict is one of FAIL, WARN, NOT-TESTED"),
        (entry("RID-4", reason=" "), "says no reason"),
        ("[[", "not TOML"),
    ],
)
def test_unusable_baseline_says_why(text: str, words: str, tmp_path: Path) -> None:
    """Each mistake in the file is named in one line."""
    file = tmp_path / "accepted.toml"
    file.write_text(text)

    with pytest.raises(UnusableBaseline) as raised:
        load(str(file))

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
