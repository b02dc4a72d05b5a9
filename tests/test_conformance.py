"""
The conformance suite is proved: green on a correct server, and red where one is broken.

The correct server is `miniature_server.py`. Each of its faults changes one thing; a fault counts
as found only when the check of the very requirement that it breaks says so.
"""

import ast
import contextlib
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conformance import catalogue, sse
from conformance.answers import GREETING
from conformance.client import Server, chat_body
from conformance.contracts import breach

ROOT = Path(__file__).parent.parent
SUITE = ROOT / "conformance"
MINIATURE = Path(__file__).parent / "miniature_server.py"
FAULTS: dict[str, str] = runpy.run_path(str(MINIATURE))["FAULTS"]
ALLOWED = {"conformance", "h11", "jsonschema", "pytest", "referencing"}
AREAS = {
    "DISC": "test_discovery.py",
    "MODEL": "test_model.py",
    "RID": "test_request_id.py",
    "PT": "test_process_time.py",
    "HEALTH": "test_health.py",
    "OAI": "test_openai.py",
    "PAT": "test_patterns.py",
}
LIMIT_S = 60
N_AT_ONCE = 3
QUIET = ["-p", "no:cacheprovider"]
CHECK_ID = re.compile(r"^conformance/(\S+)::\S+\[(([A-Z]+)-\d+)", re.MULTILINE)

# Reads the options of one run after another, and prints their exit codes. It imports once and
# forks for each run: importing would otherwise be most of the time that all the faults take.
SERIES = """
import json, os, sys
import h11, jsonschema, pytest
for line in sys.stdin:
    output, options = json.loads(line)
    if not (child := os.fork()):
        sink = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        code = pytest.main(options)
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

Run = subprocess.CompletedProcess[str]


def clean_environment() -> dict[str, str]:
    """Return this environment without what would steer the suite, and without pytest's plugins."""
    steering = ("TIER3A_BASE_URL", "CONTEXT_LENGTH", "PYTEST_ADDOPTS")
    kept = {name: value for name, value in os.environ.items() if name not in steering}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}


def conformance(*options: str) -> Run:
    """Run the suite as its users do."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", *QUIET, *options],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def command(fault: str = "") -> list[str]:
    """Return the miniature's command line, with the port left open."""
    words = [sys.executable, str(MINIATURE), "--port", "{port}"]
    return [*words, "--fault", fault] if fault else words


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def miniature(log: Path, fault: str = "") -> Iterator[str]:
    """Serve a miniature with its log in *log*, and yield its URL once it listens."""
    port = free_port()
    words = [word.format(port=port) for word in command(fault)]
    with log.open("wb") as sink, subprocess.Popen(words, stderr=sink) as process:
        try:
            deadline = time.monotonic() + LIMIT_S
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def told(run: Run, requirement_id: str) -> bool:
    """Whether the run's summary names a check of that requirement as failed or as not met."""
    line = rf"^(FAILED|XFAIL) \S+\[{requirement_id}[\]-]"
    return re.search(line, run.stdout, re.MULTILINE) is not None


@pytest.fixture(scope="session")
def faulty_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """Check each selected fault's own requirement against it, a few series side by side."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    faults = [call.params["fault"] for call in calls if call and "fault" in call.params]
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        shares = [faults[number::N_AT_ONCE] for number in range(N_AT_ONCE)]
        return {fault: run for runs in pool.map(series(folder), shares) for fault, run in runs}


def series(folder: Path) -> Callable[[list[str]], list[tuple[str, Run]]]:
    """Return what runs one fault after another, the outputs going to *folder*."""

    def run(faults: list[str]) -> list[tuple[str, Run]]:
        lines = [json.dumps([str(folder / fault), own_check(fault)]) for fault in faults]
        done = subprocess.run(
            [sys.executable, "-c", SERIES],
            input="\n".join(lines),
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=True,
        )
        codes = [int(code) for code in done.stdout.split()]
        outputs = [(folder / fault).read_text() for fault in faults]
        runs = [Run([], *result) for result in zip(codes, outputs, strict=True)]
        return list(zip(faults, runs, strict=True))

    return run


def own_check(fault: str) -> list[str]:
    """Return the options that check a fault's own requirement, and only that, against it."""
    row_id = FAULTS[fault]
    patience = ["--timeout", "1"] if row_id == "PAT-2" else []  # its check waits that long
    launch = ["--launch", " ".join(command(fault)), "-m", f"requirement(id='{row_id}')"]
    return [f"conformance/{AREAS[row_id.partition('-')[0]]}", *QUIET, *launch, *patience]


def test_correct_server_is_green(tmp_path: Path) -> None:
    """A correct server passes every check, and with a log and a command none is left open."""
    log = tmp_path / "log"
    with miniature(log) as url:
        launch = ["--launch", " ".join(command())]
        run = conformance("--base-url", url, "--server-log", str(log), *launch)

    assert run.returncode == 0, run.stdout[-3000:]
    assert "not tested" not in run.stdout
    assert "SHOULD not met" not in run.stdout


def test_checks_that_need_more_are_counted(tmp_path: Path) -> None:
    """With nothing but a URL, what needs a log or a command is named at the end, not passed."""
    with miniature(tmp_path / "log") as url:
        run = conformance("--base-url", url)

    last = next(line for line in run.stdout.splitlines() if line.startswith("not tested: "))
    assert run.returncode == 0, run.stdout[-3000:]
    assert {"RID-7", "HEALTH-9", "HEALTH-15", "DISC-14"} <= set(last.split(": ")[2].split(", "))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_fails_its_own_requirement(fault: str, faulty_runs: dict[str, Run]) -> None:
    """What a fault breaks is what the suite names."""
    run = faulty_runs[fault]

    assert told(run, FAULTS[fault]), run.stdout[-3000:]
    expected = 1 if catalogue.load()[FAULTS[fault]].is_must else 0
    assert run.returncode == expected


def test_one_must_broken_fails_the_run_and_little_else() -> None:
    """One wrong field fails its own check and the schemas that name it; the rest stays green."""
    run = conformance("--launch", " ".join(command("owner-is-openai")))
    failed = {
        line.split("[")[1].split("]")[0] for line in run.stdout.splitlines() if "FAILED" in line
    }

    assert run.returncode == 1
    assert failed == {"DISC-5", "DISC-1", "MODEL-1"}


def test_a_should_broken_is_told_and_does_not_fail_the_run() -> None:
    """A SHOULD that isn't met stands in the summary; the exit code stays 0."""
    run = conformance("--launch", " ".join(command("not-found-by-accept")), "-k", "OAI")

    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"^SHOULD not met: .*OAI-4", run.stdout, re.MULTILINE)


def test_every_requirement_has_a_check_and_every_check_a_requirement() -> None:
    """Catalogue and checks name the same requirements; only a SHOULD may say why it has none."""
    rows = catalogue.load()
    listing = conformance("--collect-only", "-q").stdout
    n_tests = sum("::" in line for line in listing.splitlines())
    found = CHECK_ID.findall(listing)
    checked = [row_id for _, row_id, _ in found]

    assert all(AREAS[area] == file for file, _, area in found)
    assert set(checked) == {row.id for row in rows.values() if not row.unchecked}
    assert len(checked) == n_tests
    assert all(not row.is_must for row in rows.values() if row.unchecked)


def test_every_checked_requirement_has_a_fault() -> None:
    """No check goes unproved."""
    rows = catalogue.load().values()

    assert {row.id for row in rows if not row.unchecked} == set(FAULTS.values())


def test_catalogue_is_numbered_without_gaps() -> None:
    """Each area's rows are numbered from 1 on, and say what they demand."""
    rows = catalogue.load().values()
    for area in AREAS:
        numbers = [int(row.id.split("-")[1]) for row in rows if row.id.startswith(f"{area}-")]
        assert numbers == list(range(1, len(numbers) + 1)), area

    assert {row.id.split("-")[0] for row in rows} == set(AREAS)
    assert all(row.demand.endswith(".") and row.section and row.lines for row in rows)


def test_unreachable_server_is_one_line() -> None:
    """Nothing there: one line, its own exit code, no check run."""
    url = f"http://127.0.0.1:{free_port()}"
    run = conformance("--base-url", url)

    assert run.returncode == 7
    assert re.fullmatch(rf"Exit: unreachable: {url}: no connection: .+\n", run.stderr)
    assert "FAILED" not in run.stdout


def test_launched_command_that_ends_is_one_line() -> None:
    """A command that doesn't come up is unreachable too, and its last words are told."""
    run = conformance("--launch", f"{sys.executable} -c 'raise SystemExit(\"no model\")'")

    assert run.returncode == 7
    assert "unreachable: --launch: ended with 1: no model" in run.stderr


def test_server_that_goes_away_ends_the_run() -> None:
    """A server that dies half-way is one line and its own exit code, not a wall of failures."""
    run = conformance("--launch", " ".join([*command(), "--die-after", "150"]))

    assert run.returncode == 8, run.stdout[-3000:]
    assert "the server went away" in run.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--base-url URL"),
        (["--base-url", "localhost:8000"], "--base-url"),
        (["--base-url", "http://x", "--timeout", "0"], "--timeout"),
        (["--base-url", "http://x", "--server-log", "/no/such/log"], "--server-log"),
    ],
)
def test_bad_option_is_a_usage_error(options: list[str], words: str) -> None:
    """A missing or wrong option is named in one line."""
    run = conformance(*options)

    assert run.returncode == 4
    assert words in run.stderr


def test_suite_imports_only_what_it_lists() -> None:
    """It runs where neither the service nor what the service needs is installed."""
    listed = re.findall(r"^[a-z0-9]+", (SUITE / "requirements.txt").read_text(), re.MULTILINE)
    imported = set()
    for path in SUITE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])

    assert imported - set(sys.stdlib_module_names) <= ALLOWED
    assert ALLOWED - {"conformance", "referencing"} == set(listed)  # jsonschema brings referencing


def test_key_is_never_shown() -> None:
    """The API key travels, and stands in no message."""
    server = Server("http://localhost:1", timeout_s=1, seen=[], api_key="s3cret")
    request = server.request("GET", "/health")

    assert b"Authorization: Bearer s3cret\r\n" in request.to_bytes()
    assert str(request) == "GET /health | Authorization: <redacted>"


def test_events_are_read_as_the_standard_says() -> None:
    """Comments, other fields and unfinished events are no data; data lines are joined."""
    body = b": ping\n\ndata: one\r\n\r\nevent: x\ndata:two\ndata: lines \xe2\x80\xa8\n\ndata: cut\n"

    assert sse.data_of(body) == ["one", "two\nlines \u2028"]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gemma"},
        {"model": "gemma", "max_tokens": 64, "temperature": 0},
        {"model": "gemma", "stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_requests_of_the_suite_keep_the_contract(fields: dict[str, object]) -> None:
    """What the suite sends as good is good by the contract that servers read."""
    assert breach("chat-request", chat_body(GREETING, **fields)) == ""
