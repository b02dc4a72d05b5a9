"""What the suite says of servers it can't judge, of options it can't read, and with which code."""

import os
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from conformance import conftest
from conformance.session import Session
from tests.conformance.suite import (
    ROOT,
    clean_environment,
    conformance,
    free_port,
    miniature,
    reported,
    running,
    speaking,
    verdict_line,
)

MORTAL = f"{sys.executable} -m tests.conformance.mortal --port {{port}}"
THERE: dict[str, object] = {"base_url": "http://x"}
HEAD = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n"


def read_head(client: socket.socket) -> None:
    """Read until the request's head is over."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += client.recv(65_536) or b"\r\n\r\n"


def says_html(client: socket.socket) -> None:
    """Answer everything with a page."""
    read_head(client)
    page = b"<html>It works!</html>"
    client.sendall(HEAD % (b"200 OK", len(page)) + b"\r\n" + page)


def redirects(client: socket.socket) -> None:
    """Send everybody on, for ever."""
    read_head(client)
    client.sendall(HEAD % (b"302 Found", 0) + b"Location: /again\r\n\r\n")


def hangs(client: socket.socket) -> None:
    """Say nothing."""
    read_head(client)
    time.sleep(30)


def trickles(client: socket.socket) -> None:
    """Say a little, again and again."""
    read_head(client)
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        client.sendall(b"X-More: 1\r\n")
        time.sleep(0.05)


def resets(client: socket.socket) -> None:
    """Hang up."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def floods(client: socket.socket) -> None:
    """Send more than anybody wants."""
    read_head(client)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)


def babbles(client: socket.socket) -> None:
    """Send what is no HTTP."""
    client.sendall(b"220 mail.example ESMTP\r\n")
    read_head(client)


UNREACHABLE = {
    "hangs": (hangs, "no complete response within 1 s"),
    "trickles": (trickles, "no complete response within 1 s"),
    "resets": (resets, "connection closed without a response"),
    "floods": (floods, "more than 10000000 bytes"),
    "babbles": (babbles, "not HTTP"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_server_that_gives_no_answer_is_one_line(name: str) -> None:
    """Whatever keeps /health from answering: one line, its own code, within the time allowed."""
    speak, words = UNREACHABLE[name]
    began_s = time.monotonic()
    with speaking(speak) as url:
        run = conformance("--base-url", url, "--timeout", "1")

    assert run.returncode == 7, run.stdout
    assert run.stderr.startswith(f"Exit: unreachable: {url}: {words}")
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stdout + run.stderr
    assert time.monotonic() - began_s < 10


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    """Nothing listens: one line, its own code, and a report that says so."""
    url = f"http://127.0.0.1:{free_port()}"
    run = conformance("--base-url", url, "--report-json", str(tmp_path / "report"))
    report = reported(run, tmp_path / "report")

    assert run.returncode == 7
    assert run.stderr.startswith(f"Exit: unreachable: {url}: no connection: ")
    assert (report["verdict"], report["exit_code"]) == ("unreachable", 7)
    assert report["requirements"] == []


def test_broken_tls_is_unreachable() -> None:
    """A server that speaks plain HTTP where TLS is asked for, and the other way round."""
    with speaking(says_html) as url:
        run = conformance("--base-url", url.replace("http", "https"), "--timeout", "1")

    assert run.returncode == 7
    assert "no connection" in run.stderr


@pytest.mark.parametrize("speak", [says_html, redirects])
def test_wrong_server_is_not_conformant(speak: Callable[[socket.socket], None]) -> None:
    """A server that answers, but something else, is judged like any other, and quickly."""
    began_s = time.monotonic()
    with speaking(speak) as url:
        run = conformance("--base-url", url, "--timeout", "1", "-q")

    assert run.returncode == 1, run.stdout[-2000:]
    assert verdict_line(run).startswith("not conformant: ")
    assert "Traceback" not in run.stdout
    assert time.monotonic() - began_s < 40


def test_launched_command_that_ends_is_one_line() -> None:
    """A command that doesn't come up is unreachable too, and its last words are told."""
    run = conformance("--launch", f"{sys.executable} -c 'raise SystemExit(\"no model\")'")

    assert run.returncode == 7
    assert "unreachable: --launch: ended with 1: no model" in run.stderr


def test_command_that_is_not_there_is_one_line() -> None:
    """A misspelled command is told as such."""
    run = conformance("--launch", "no-such-command --port {port}")

    assert run.returncode == 7
    assert "unreachable: --launch: no-such-command: No such file" in run.stderr


def test_server_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    """A server that dies half-way is one line and its own code, not a wall of failures."""
    run = conformance("--launch", MORTAL, "--report-json", str(tmp_path / "report"))
    report = reported(run, tmp_path / "report")

    assert run.returncode == 8, run.stdout[-3000:]
    assert verdict_line(run).startswith("engine error: the server went away: ")
    assert run.stdout.count("FAILED") <= 3  # those that look at the same answers
    # Where it dies while /health is watched during a generation, that one check can't tell it from silence.
    assert report["counts"]["FAIL"] <= 1
    assert report["counts"]["ENGINE-ERROR"] > 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "--base-url URL"),
        ({"base_url": "localhost:8000"}, "--base-url"),
        (THERE | {"timeout": "0"}, "--timeout 0"),
        (THERE | {"timeout": "soon"}, "--timeout soon"),
        (THERE | {"budget": "0"}, "--budget 0"),
        (THERE | {"cacert": "/no/such"}, "--cacert /no/such"),
        (THERE | {"server_log": "/no/such/log"}, "--server-log /no/such/log: No such file"),
        (THERE | {"profile": ["fast"]}, "--profile fast: unknown; there are"),
        (THERE | {"assume": ["tools,flying"]}, "--assume flying: unknown; there are"),
        (THERE | {"profile": ["managed"]}, "needs --launch"),
        (THERE | {"profile": ["log"]}, "needs --server-log"),
        (THERE | {"baseline": "/no/such"}, "--baseline /no/such: No such"),
        (THERE | {"baseline": "README.md"}, "README.md: not TOML"),
        (THERE | {"report_json": "/no/such/report"}, "--report-json /no/such/report: No such file"),
        (THERE | {"report_html": "/no/such/page"}, "--report-html /no/such/page: No such file"),
    ],
)
def test_bad_option_is_one_line(
    given: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing or wrong option is named in one line, before any server is asked or started."""
    monkeypatch.delenv("TIER3A_BASE_URL", raising=False)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Session, "open", lambda _: pytest.fail("a run has begun"))
    option = SimpleNamespace(collectonly=False)
    config = SimpleNamespace(option=option, getoption=given.get, stash={})

    with pytest.raises(pytest.UsageError) as told:
        conftest.pytest_sessionstart(cast(pytest.Session, SimpleNamespace(config=config)))

    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_bad_option_has_its_own_code() -> None:
    """Pytest makes one line and the code 4 of it; that is the same for all of them."""
    run = conformance("--launch", miniature(), "--report-json", "/no/such/report")

    assert run.returncode == 4
    assert "--report-json /no/such/report: No such file or directory" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_url_from_the_environment(tmp_path: Path) -> None:
    """TIER3A_BASE_URL stands in for --base-url."""
    with running(tmp_path / "log") as url:
        run = conformance("-k", "unknown_model", TIER3A_BASE_URL=url)

    assert "1 passed" in run.stdout


def test_selection_is_not_fully_verified(tmp_path: Path) -> None:
    """What was picked out by hand says nothing about the rest, and isn't taken for it."""
    report = tmp_path / "report"
    run = conformance("--launch", miniature(), "-k", "MODEL", "--report-json", str(report))

    assert run.returncode == 6, run.stdout[-2000:]
    assert verdict_line(run).startswith("not fully verified: ")
    assert reported(run, report)["run"]["selected"] == "-k 'MODEL'"


def test_first_failure_can_end_the_run() -> None:
    """-x works as ever."""
    run = conformance("--launch", miniature("owner-is-openai"), "-x")

    assert run.returncode == 1
    assert "1 failed" in run.stdout


def test_selection_by_area_is_no_other() -> None:
    """`-k PARAM` finds no check for the word parametrize."""
    listing = conformance("--collect-only", "-q", "-k", "PARAM").stdout

    assert "PARAM-1" in listing
    assert "DISC-" not in listing


def test_several_processes_are_refused() -> None:
    """Under pytest-xdist the findings would stay with the workers, so that is told and not done."""
    run = conformance("-p", "xdist", "-n", "2", "--launch", miniature())

    assert run.returncode == 4, run.stdout + run.stderr
    assert "one server can't be judged by several processes" in run.stdout + run.stderr


def test_sigterm_leaves_no_server_behind(tmp_path: Path) -> None:
    """Whoever ends the suite ends what it has launched."""
    log = tmp_path / "log"
    words = [sys.executable, "-m", "pytest", "conformance", "-q", "-p", "no:cacheprovider"]
    command = miniature("", "--model-path", "/no/such/model").replace("'", "")
    process = subprocess.Popen(
        [*words, "--launch", f"sh -c 'echo $$ > {log}; exec {command}'"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    server = int(log.read_text())
    process.terminate()
    process.communicate(timeout=20)

    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_strict_counts_what_should_be(tmp_path: Path) -> None:
    """With --strict a SHOULD that isn't met fails the run; the summary for people says which."""
    summary, page = tmp_path / "summary", tmp_path / "page.md"
    options = ["--launch", miniature("not-found-by-accept"), "-k", "OAI", "--report-md", str(page)]
    run = conformance(*options, "--strict", GITHUB_STEP_SUMMARY=str(summary))

    assert run.returncode == 1, run.stdout[-2000:]
    assert "1 MUST or SHOULD not met: OAI-4" in verdict_line(run)
    assert "| OAI-4 | ! SHOULD not met |" in page.read_text()
    assert summary.read_text() == page.read_text()
    assert "Exit code 1" in page.read_text()


def test_budget_ends_the_run() -> None:
    """What can't be done in the time for the whole run stays untested, and is said to."""
    run = conformance("--launch", miniature(), "--budget", "0.001")

    assert run.returncode == 6, run.stdout[-2000:]
    assert "--budget: 0.001 s are over" in run.stdout


def test_junit_carries_the_requirement(tmp_path: Path) -> None:
    """JUnit's file names requirement, level and verdict as properties of each test."""
    junit = tmp_path / "junit.xml"
    conformance("--launch", miniature("not-found-by-accept"), f"--junitxml={junit}", "-k", "OAI")

    cases = ET.parse(junit).getroot().iter("testcase")
    found = [
        {each.get("name"): each.get("value") for each in case.iter("property")} for case in cases
    ]
    assert all({"requirement", "level", "verdict"} == set(properties) for properties in found)
    assert {"requirement": "OAI-4", "level": "SHOULD", "verdict": "WARN"} in found
    assert {"requirement": "OAI-1", "level": "MUST", "verdict": "PASS"} in found


def test_option_of_another_plugin_is_shared(tmp_path: Path) -> None:
    """Where pytest-base-url, which claims --base-url too, is installed, its option is used."""
    plugin = tmp_path / "claims_base_url.py"
    plugin.write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--base-url', metavar='url', default=None, help='its own')\n"
    )
    with running(tmp_path / "log") as url:
        run = conformance(
            *("-p", "claims_base_url", "--base-url", url, "-k", "unknown_model"),
            PYTHONPATH=str(tmp_path),
        )

    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_key_is_never_shown(tmp_path: Path) -> None:
    """The API key travels, and stands in no report, no message and no line for curl."""
    html, report = tmp_path / "page", tmp_path / "report"
    options = ["--report-json", str(report), "--report-html", str(html), "--api-key", "s3cret"]
    run = conformance("--launch", miniature("owner-is-openai"), *options)

    everything = run.stdout + run.stderr + report.read_text() + html.read_text()
    assert "s3cret" not in everything
    assert "Bearer $TIER3A_API_KEY" in report.read_text()
    assert '\\"max_tokens\\": 64' in report.read_text()
