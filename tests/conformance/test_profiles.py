"""A correct server passes every profile; none of them stands for another."""

from pathlib import Path

import pytest

from conformance import catalogue
from conformance.broken.proof import RUNS
from tests.conformance.suite import conformance, miniature, reported, running, verdict_line

NOT_FULLY_VERIFIED = 6
BY_THEMSELVES = ["wire", "startup", "openai"]


def test_every_profile_is_run_by_itself() -> None:
    """Those that are not run here are in the proof, which holds each of its runs to the same."""
    in_proof = [run.profiles[0] for run in RUNS.values() if len(run.profiles) == 1]

    assert {*BY_THEMSELVES, *in_proof} == set(catalogue.PROFILES) - {"log"}


@pytest.mark.parametrize("profile", BY_THEMSELVES)
def test_correct_server_passes(profile: str, tmp_path: Path) -> None:
    """Each profile by itself is green, tests something, and leaves nothing open."""
    path = tmp_path / "report"
    command = miniature("", "--token-s", "0.0001") if profile == "openai" else miniature()
    for _ in range(3):  # on a busy machine a server may be up before the suite first looks
        run = conformance("--launch", command, "--profile", profile, "--report-json", str(path))
        if run.returncode != NOT_FULLY_VERIFIED:
            break
    report = reported(run, path)
    verdicts = {row["verdict"] for row in report["requirements"]}

    assert run.returncode == 0, run.stdout[-3000:]
    assert verdicts == {"PASS"}, run.stdout[-3000:]
    assert all(profile in row["profiles"] for row in report["requirements"])
    assert {check["profile"] for row in report["requirements"] for check in row["checks"]} == {
        profile
    }


def test_missing_capability_does_not_apply(tmp_path: Path) -> None:
    """What no model is tagged with isn't judged, even where another tag is there."""
    path = tmp_path / "report"
    command = miniature("tools-are-passed-over")
    run = conformance(
        *("--launch", command, "--profile", "openai", "-k", "TOOLS or MSG"),
        *("--report-json", str(path)),
    )
    verdicts = {row["id"]: row["verdict"] for row in reported(run, path)["requirements"]}

    assert {verdicts[name] for name in ("TOOLS-1", "MSG-6", "MSG-8")} == {"INAPPLICABLE"}
    assert verdicts["MSG-1"] == "PASS"


def test_assumed_capability_is_judged(tmp_path: Path) -> None:
    """A server without tags is asked for what --assume says, and for nothing besides."""
    path = tmp_path / "report"
    run = conformance(
        *("--launch", miniature("", "--right", "speaks-only-openai"), "--profile", "openai-api"),
        *("--assume", "tools, logprobs", "-k", "TOOLS-1 or LOGP-1 or SCHEMA-1"),
        *("--report-json", str(path)),
    )
    report = reported(run, path)
    verdicts = {row["id"]: row["verdict"] for row in report["requirements"]}

    assert {verdicts[name] for name in ("TOOLS-1", "LOGP-1")} == {"PASS"}
    assert verdicts["SCHEMA-1"] == "INAPPLICABLE"
    assert report["run"]["assumed"] == ["tools", "logprobs"]


def test_openai_api_demands_nothing_of_tier_3a() -> None:
    """No row about health, ids, times, the log or the queue is in it, and no field that OpenAI lacks."""
    rows = [row for row in catalogue.load().values() if "openai-api" in row.profiles]
    ours = {"HEALTH", "RID", "PT", "LOG", "WARM", "CFG", "QUEUE", "LOCAL", "PAT", "TOK", "MSG"}

    assert len(rows) > 80
    assert not ours & {row.area for row in rows}
    assert [row.id for row in rows if row.area == "DISC"] == [
        "DISC-1",
        "DISC-2",
        "DISC-3",
        "DISC-13",
    ]


def test_wire_is_the_default(tmp_path: Path) -> None:
    """Nothing but a URL: the profile wire, and what needs more isn't counted as passed."""
    path = tmp_path / "report"
    with running(tmp_path / "log") as url:
        run = conformance("--base-url", url, "--report-json", str(path))
    report = reported(run, path)

    assert run.returncode == 0, run.stdout[-3000:]
    assert verdict_line(run).startswith("conformant: ")
    assert report["run"]["profiles"] == ["wire"]
    assert "RID-7" not in {row["id"] for row in report["requirements"]}


def test_log_adds_the_checks_that_read_it(tmp_path: Path) -> None:
    """--server-log is the one option that adds checks by itself."""
    path, log = tmp_path / "report", tmp_path / "log"
    with running(log) as url:
        run = conformance(
            *("--base-url", url, "--server-log", str(log), "--report-json", str(path))
        )
    report = reported(run, path)

    assert run.returncode == 0, run.stdout[-3000:]
    assert report["run"]["profiles"] == ["wire", "log"]
    assert {"RID-7", "PT-4"} <= {row["id"] for row in report["requirements"]}


def test_server_that_stays_unready_is_not_judged(tmp_path: Path) -> None:
    """A server that isn't ready in time is no thirty failures, but one open question."""
    path = tmp_path / "report"
    with running(tmp_path / "log", "--model-path", "/no/such/model") as url:
        run = conformance("--base-url", url, "--timeout", "1", "--report-json", str(path))
    report = reported(run, path)

    assert run.returncode == 6
    assert {row["verdict"] for row in report["requirements"]} == {"NOT-TESTED"}


def test_ready_server_is_not_held_back(tmp_path: Path) -> None:
    """The profile notready says nothing about a server that is ready."""
    with running(tmp_path / "log") as url:
        run = conformance("--base-url", url, "--profile", "notready")

    assert run.returncode == 6, run.stdout[-3000:]


def test_start_of_a_server_at_a_url(tmp_path: Path) -> None:
    """The profile startup waits for a URL to come up, and what came before counts as unseen."""
    path = tmp_path / "report"
    with running(tmp_path / "log") as url:
        run = conformance("--base-url", url, "--profile", "startup", "--report-json", str(path))
    report = reported(run, path)

    assert report["startup"], run.stdout[-3000:]
    assert run.returncode in {0, 6}
