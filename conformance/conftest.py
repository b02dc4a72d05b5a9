"""The suite as pytest sees it: options, fixtures, and what becomes of each result. See README.md."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from conformance import baseline, catalogue, findings
from conformance.answers import Answers
from conformance.baseline import Baseline, UnusableBaseline
from conformance.catalogue import PROFILES, Requirement
from conformance.client import Exchange, NoAnswer, Server
from conformance.findings import Finding, Findings, Outcome
from conformance.launch import Launched, Launcher, LaunchFailed, Turned
from conformance.reports import document, markdown, shape
from conformance.serverlog import ServerLog
from conformance.session import Session
from conformance.start import Moment, Start, is_ready, look
from conformance.verdicts import (
    ENGINE_ERROR,
    FAIL,
    INAPPLICABLE,
    NOT_TESTED,
    PASS,
    WARN,
    Inapplicable,
    NotTested,
    Violation,
    not_tested,
)

OPTIONS = {
    "--base-url": "the server to test, such as http://127.0.0.1:8000 (or TIER3A_BASE_URL)",
    "--launch": "command with {port} that starts an instance of the server",
    "--profile": f"what to test, repeatable: {', '.join(PROFILES)} (default wire)",
    "--assume": "capabilities of the model to ask that its tags don't tell, such as tools,json_schema",
    "--api-key": "sent as a bearer token with each request",
    "--model": "the model to ask; by default the first listed that can chat",
    "--timeout": "seconds allowed for one exchange (default 10)",
    "--server-log": "the log of the server at --base-url; adds the checks that read it",
    "--baseline": "TOML file of accepted findings",
    "--report-json": "write the whole run as JSON",
    "--report-html": "write it as one page for people",
    "--report-md": "write its verdict and what is broken as Markdown",
    "--strict": "a SHOULD that isn't met fails the run, too",
    "--budget": "seconds for the whole run; what is left then stays untested",
    "--cacert": "file with the certificates that an https server's is signed by",
    "--insecure": "take an https server's certificate, whoever signed it",
    "--badge": "write its verdict as an SVG badge",
}
N_LAST_QUESTIONS = 2
REPEATABLE = {"--profile", "--assume"}
SWITCHES = {"--strict", "--insecure"}
WRITERS = ("report_json", "report_html", "report_md", "badge")
SESSION = pytest.StashKey[Session]()
FOUND = pytest.StashKey[Findings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options; one that a plugin has claimed already is used as it is there."""
    group = parser.getgroup("conformance", "conformance of a Tier 3A server")
    for name, text in OPTIONS.items():
        action = "append" if name in REPEATABLE else "store"
        action = "store_true" if name in SWITCHES else action
        dest = name[2:].replace("-", "_")
        with contextlib.suppress(ValueError, argparse.ArgumentError):
            group.addoption(name, dest=dest, action=action, default=None, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the suite's marks."""
    for line in (
        "requirement(id): the requirement that a test checks",
        "profile(*names): the profiles that a test belongs to",
        "closing: runs after the others, on what they have seen",
    ):
        config.addinivalue_line("markers", line)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the server, or end with one line instead of a wall of failures."""
    config = session.config
    if config.option.collectonly:
        return
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("-n: one server can't be judged by several processes at once")
    signal.signal(signal.SIGTERM, _end)
    for name in WRITERS:
        _check_writable(name, config.getoption(name))
    run = Session(config.getoption)
    found = Findings.of(run.profiles, _baseline(config.getoption("baseline")))
    found.is_strict = bool(config.getoption("strict"))
    config.stash[SESSION], config.stash[FOUND] = run, found
    try:
        run.open()
    except (LaunchFailed, NoAnswer) as error:
        origin = "--launch" if isinstance(error, LaunchFailed) else run.url
        outcome = Outcome(findings.UNREACHABLE, f"{origin}: {error}")
        found.rows.clear()
        _write_reports(config, outcome)
        pytest.exit(str(outcome), returncode=outcome.exit_code)


def _end(number: int, frame: object) -> None:
    """End as after Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt


def _check_writable(name: str, path: str | None) -> None:
    """Say so now if a report can't be written, and not after the run."""
    if path:
        try:
            Path(path).open("a", encoding="utf-8").close()
        except OSError as error:
            option = name.replace("_", "-")
            raise pytest.UsageError(f"--{option} {path}: {error.strerror}") from error


def _baseline(name: str | None) -> Baseline | None:
    try:
        return baseline.load(name) if name else None
    except UnusableBaseline as error:
        raise pytest.UsageError(f"--baseline {error}") from error


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started, however the session ended."""
    if run := config.stash.get(SESSION, None):
        run.close()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Forget how checks were made many, so that `-k PARAM` finds the area and not the word."""
    item.own_markers = [mark for mark in item.own_markers if mark.name != "parametrize"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the checks of the profiles asked for, and put them into an order; see `_place_of`."""
    if run := config.stash.get(SESSION, None):
        others = [item for item in items if not _profile_of(item, run)]
        items[:] = [item for item in items if _profile_of(item, run)]
        config.hook.pytest_deselected(items=others)
    items.sort(key=_place_of)


def _place_of(item: pytest.Item) -> tuple[bool, bool, int]:
    """
    Return where a check's place is: chats first, then what only some clients ask, by the catalogue's order.

    There are servers that one request ends for good; so what can't be meant (a test's `wrong`) is asked after
    all that can, and they are judged by more than that. What looks at all that was seen comes last.
    """
    demand = _demand_of(item)
    callspec = getattr(item, "callspec", None)
    names = [area.name for area in catalogue.areas()]
    place = names.index(demand.area) if demand else 0
    is_wrong = callspec is not None and "wrong" in callspec.params
    return item.get_closest_marker("closing") is not None, is_wrong, place


def _profile_of(item: pytest.Item, run: Session) -> str:
    """Return the first profile asked for that a check belongs to; empty where there is none."""
    mark = item.get_closest_marker("profile")
    names = mark.args if mark else ()
    return next((name for name in run.profiles if name in names), "")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's result into a finding, and a verdict's traceback into its message."""
    report = yield
    demand = _demand_of(item)
    run, found = item.config.stash[SESSION], item.config.stash[FOUND]
    if demand is None or call.when == "teardown" or (call.when == "setup" and report.passed):
        return report
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, NoAnswer) and _is_gone(run):
        found.broken_off = f"the server went away: {run.url}: {error}"
        item.session.shouldstop = found.broken_off
    verdict, seen = _judge(demand, error, is_broken_off=bool(found.broken_off))
    check_id = _check_id(item)
    accepted = found.accepted(check_id, verdict)
    found.all.append(
        Finding(
            requirement=demand,
            id=check_id,
            test=item.nodeid,
            profile=_profile_of(item, run),
            summary=_summary_of(item),
            verdict=verdict,
            seen=seen,
            duration_s=call.duration,
            exchange=_exchange_of(error, run),
            accepted=accepted,
        )
    )
    _tell(report, item, error, verdict, accepted)
    item.user_properties += [
        ("requirement", demand.id),
        ("level", demand.level),
        ("verdict", verdict),
    ]
    return report


def _judge(
    demand: Requirement, error: BaseException | None, *, is_broken_off: bool
) -> tuple[str, str]:
    """Return a check's verdict, and what it saw."""
    broken = FAIL if demand.is_must else WARN
    match error:
        case None:
            return PASS, ""
        case Inapplicable():
            return INAPPLICABLE, str(error)
        case NotTested():
            return NOT_TESTED, str(error)
        case Violation():
            return broken, error.seen
        case NoAnswer() if not is_broken_off:
            return broken, f"no answer: {error}"
        case _:
            return ENGINE_ERROR, f"{type(error).__name__}: {error}"


def _tell(
    report: pytest.TestReport,
    item: pytest.Item,
    error: BaseException | None,
    verdict: str,
    accepted: str,
) -> None:
    """Let pytest show the message alone, and nothing as a failure that fails nothing."""
    if isinstance(error, Violation | NoAnswer):
        report.longrepr = str(error) if verdict != ENGINE_ERROR else "the server went away"
    if verdict in {NOT_TESTED, INAPPLICABLE}:
        words = "not tested" if verdict == NOT_TESTED else "doesn't apply"
        path, line, _ = item.reportinfo()
        report.outcome = "skipped"
        report.longrepr = (str(path), line or 0, f"{words}: {error}")
    if verdict == WARN or (verdict == FAIL and accepted):
        report.outcome = "skipped"
        report.wasxfail = f"accepted: {accepted}" if accepted else str(error).partition("\n")[0]


def _demand_of(item: pytest.Item) -> Requirement | None:
    callspec = getattr(item, "callspec", None)
    demand = callspec.params.get("demand") if callspec else None
    return demand if isinstance(demand, Requirement) else None


def _check_id(item: pytest.Item) -> str:
    """Return what stands in a test's brackets: `file::test[RID-4-stream]` gives `RID-4-stream`."""
    return item.nodeid.partition("[")[2].rstrip("]")


def _summary_of(item: pytest.Item) -> str:
    function = getattr(item, "function", None)
    return str(function.__doc__ or "").strip().partition("\n")[0]


def _exchange_of(error: BaseException | None, run: Session) -> Exchange | None:
    """Return the exchange that a violation shows, or else the last that the check looked at."""
    if isinstance(error, Violation) and error.exchange:
        return error.exchange
    return run.journal.looked_at[-1] if run.journal.looked_at else None


def _is_gone(run: Session) -> bool:
    """
    Whether the server answers nothing any more: that is no verdict on the rest.

    One that is slow is asked twice, each time for as long as an exchange may take: that it made
    somebody wait is what a check tells.
    """
    for _ in range(N_LAST_QUESTIONS):
        if run.has_died():
            return True
        try:
            run.make_server(run.url).get("/health")
        except NoAnswer as error:
            if not error.is_late:
                return True
        else:
            return False
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin a check with nothing looked at, and not at all where it needs a ready server."""
    run = item.config.stash[SESSION]
    run.journal.looked_at.clear()
    if run.is_over_budget:
        not_tested(f"--budget: {run.budget_s:g} s are over")
    if run.needs_ready(_profile_of(item, run)) and not run.is_ready:
        not_tested(f"the server wasn't ready within {run.timeout_s:g} s")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Say the verdict over all in the last line, write it down, and end with its code."""
    yield
    run = session.config.stash.get(SESSION, None)
    if run is None or session.exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        return
    found = session.config.stash[FOUND]
    if run.has_died() and not found.broken_off:
        found.broken_off = "the launched server ended by itself"
    outcome = found.outcome()
    is_interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED and not found.broken_off
    if not is_interrupted and session.exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = outcome.exit_code
    _write_reports(session.config, outcome)
    _say(found, outcome)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with contextlib.suppress(OSError), Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown.render(found, outcome, run.name))


def _say(found: Findings, outcome: Outcome) -> None:
    """Print what is open and what is accepted, in one line each, and then the verdict."""
    for title, verdict in (("not tested", NOT_TESTED), ("SHOULD not met", WARN)):
        ids = dict.fromkeys(one.requirement.id for one in found.all if one.verdict == verdict)
        if ids:
            print(f"{title}: {', '.join(ids)}")
    accepted = dict.fromkeys(one.id for one in found.all if one.accepted)
    if accepted:
        print(f"accepted by the baseline: {', '.join(accepted)}")
    print(outcome)
    sys.stdout.flush()


def _write_reports(config: pytest.Config, outcome: Outcome) -> None:
    """Write the reports that were asked for."""
    wanted = {name: config.getoption(name) for name in WRITERS}
    if not any(wanted.values()):
        return
    run, found = config.stash[SESSION], config.stash[FOUND]
    if path := wanted.pop("report_md"):
        Path(path).write_text(markdown.render(found, outcome, run.name), encoding="utf-8")
    report = document.build(run, found, outcome, _selection(config), time.monotonic())
    for name, path in wanted.items():
        if path:
            Path(path).write_text(_written(name, report), encoding="utf-8")


def _written(name: str, report: shape.Report) -> str:
    """Return the report as that option wants it; drawing is imported where it is wanted."""
    if name == "report_json":
        return json.dumps(report, indent=1) + "\n"
    from conformance.reports import badge, page

    return page.render(report) if name == "report_html" else badge.render(report)


def _selection(config: pytest.Config) -> str:
    """Return what was picked out by hand, as it was typed."""
    picked = [f"-{flag} {given!r}" for flag, given in _picked(config) if given]
    return " ".join(picked)


def _picked(config: pytest.Config) -> list[tuple[str, str]]:
    return [("k", config.option.keyword), ("m", config.option.markexpr)]


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Session:
    """Return what this run talks to."""
    return pytestconfig.stash[SESSION]


@pytest.fixture(scope="session")
def server(run: Session) -> Server:
    """Return the server under test."""
    return run.server


@pytest.fixture(scope="session")
def answers(run: Session) -> Answers:
    """Return its answers by kind."""
    return run.answers


@pytest.fixture
def start(run: Session) -> Start:
    """Return what was seen of a start."""
    return run.start or not_tested("no start was watched")


@pytest.fixture
def moments(run: Session) -> list[Moment]:
    """Return the moments of the start that was watched, or else the one of a server held back."""
    if run.start and "startup" in run.profiles:
        return run.start.moments
    moment = look(run.server)
    return not_tested("the server is ready") if is_ready(moment.health) else [moment]


@pytest.fixture
def launched(run: Session) -> Launched:
    """Return the instance that the suite started as it is."""
    return run.launched or not_tested("needs --launch")


@pytest.fixture
def launcher(run: Session) -> Launcher:
    """Return what starts other instances."""
    return run.launcher or not_tested("needs --launch")


@pytest.fixture
def variant(launcher: Launcher) -> Callable[[Turned], Launched]:
    """Return what gives an instance with some options turned; see Launcher.variant."""
    return launcher.variant


@pytest.fixture
def logged(run: Session) -> tuple[Server, ServerLog]:
    """Return a server and its log: the given one, or else the output of the one launched."""
    if run.log:
        return run.server, run.log
    if run.launched is None:
        not_tested("needs --server-log or --launch")
    return run.launched.server, run.launched.log
