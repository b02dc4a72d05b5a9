"""Options, fixtures and verdicts of the suite; see README.md."""

import argparse
import contextlib
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from conformance.answers import Answers
from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Server
from conformance.launch import Launched, LaunchFailed, is_starting
from conformance.serverlog import ServerLog
from conformance.verdicts import Violation, describe, not_tested

UNREACHABLE = 7
WENT_AWAY = 8
TIMEOUT_S = 10.0
STEP_S = 0.02


class Session:
    """What one run of the suite talks to."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._launched: Launched | LaunchFailed | None = None
        self._seen: list[Exchange] = []
        self.command = str(config.getoption("launch") or "")
        url = config.getoption("base_url") or os.environ.get("TIER3A_BASE_URL")
        if not url and not self.command:
            raise pytest.UsageError("say which server to test: --base-url URL, or --launch CMD")
        self.server = self.make_server(url) if url else self.launched().server
        self.log = self._given_log()

    def make_server(self, url: str) -> Server:
        """Return a client for the server at *url*, with the options' key, model and patience."""
        option = self._config.getoption
        timeout_s = float(option("timeout") or TIMEOUT_S)
        if timeout_s <= 0:
            raise pytest.UsageError(f"--timeout {timeout_s:g}: must be above 0 seconds")
        try:
            return Server(
                url,
                timeout_s=timeout_s,
                seen=self._seen,
                api_key=option("api_key") or "",
                model=option("model") or "",
            )
        except ValueError as error:
            raise pytest.UsageError(f"--base-url: {error}") from error

    def _given_log(self) -> ServerLog | None:
        """Return the log of `--server-log`, from where it stands now."""
        name = self._config.getoption("server_log")
        if not name:
            return None
        try:
            return ServerLog(Path(name), offset=Path(name).stat().st_size)
        except OSError as error:
            raise pytest.UsageError(f"--server-log {name}: {error.strerror}") from error

    def launched(self) -> Launched:
        """
        Return the instance that the suite started, watched until it was ready.

        Raises:
            LaunchFailed: it ended, or never answered; it isn't tried again.
        """
        if self._launched is None:
            try:
                self._launched = Launched(self.command, self.make_server)
                self._launched.watch()
            except LaunchFailed as error:
                self.stop()
                self._launched = error
        if isinstance(self._launched, LaunchFailed):
            raise self._launched
        return self._launched

    def stop(self) -> None:
        """Stop the instance that the suite started, if there is one."""
        if isinstance(self._launched, Launched):
            self._launched.stop()
            self._launched = None

    def wait_until_ready(self) -> None:
        """
        Give a server that is just starting the time of one exchange to become ready.

        Raises:
            NoAnswer: nothing answers there at all.
        """
        deadline = time.monotonic() + self.server.timeout_s
        while is_starting(self.server.get("/health")) and time.monotonic() < deadline:
            time.sleep(STEP_S)


SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options; one that a plugin has claimed already is used as it is there."""
    group = parser.getgroup("conformance", "conformance of a Tier 3A server")
    options = {
        "--base-url": "the server to test, such as http://127.0.0.1:8000 (or TIER3A_BASE_URL)",
        "--api-key": "sent as a bearer token with each request",
        "--model": "the model to ask; by default the first listed that can chat",
        "--timeout": "seconds allowed for one exchange (default 10)",
        "--server-log": "the server's log file, for what can be seen only there",
        "--launch": "command with {port} that starts an instance of the server to be watched",
    }
    for name, text in options.items():
        with contextlib.suppress(ValueError, argparse.ArgumentError):
            group.addoption(name, dest=name[2:].replace("-", "_"), default=None, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the suite's marks."""
    for line in (
        "requirement(id): the requirement that a test checks",
        "closing: runs after the others, on what they have seen",
    ):
        config.addinivalue_line("markers", line)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the server, or end with one line instead of a wall of failures."""
    if session.config.option.collectonly:
        return
    try:
        run = session.config.stash[SESSION] = Session(session.config)
        run.wait_until_ready()
    except LaunchFailed as error:
        pytest.exit(f"unreachable: --launch: {error}", returncode=UNREACHABLE)
    except NoAnswer as error:
        pytest.exit(f"unreachable: {run.server.url}: {error}", returncode=UNREACHABLE)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started, however the session ended."""
    if run := config.stash.get(SESSION, None):
        run.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the closing checks to the end; the others keep their order."""
    items.sort(key=lambda item: item.get_closest_marker("closing") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace the traceback of a verdict by its message, and let a SHOULD only be told."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if not isinstance(error, Violation | NoAnswer | LaunchFailed):
        return report
    demand = _demand_of(item)
    report.longrepr = str(error)
    if isinstance(error, NoAnswer) and demand:
        report.longrepr = describe(demand, f"no answer: {error}")
    if call.when == "call" and demand and not demand.is_must:
        report.outcome = "skipped"
        report.wasxfail = str(report.longrepr).partition("\n")[0]
    if isinstance(error, NoAnswer):
        _leave_if_gone(item.config.stash[SESSION].server)
    return report


def _demand_of(item: pytest.Item) -> Requirement | None:
    callspec = getattr(item, "callspec", None)
    demand = callspec.params.get("demand") if callspec else None
    return demand if isinstance(demand, Requirement) else None


def _leave_if_gone(server: Server) -> None:
    """End the run when the server answers nothing any more: that is no verdict on the rest."""
    try:
        server.get("/health")
    except NoAnswer as error:
        pytest.exit(f"the server went away: {server.url}: {error}", returncode=WENT_AWAY)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Say at the very end, in one line each, what is open and which SHOULDs aren't met."""
    yield
    for title, category, hint in (
        ("not tested", "skipped", " (see --launch and --server-log)"),
        ("SHOULD not met", "xfailed", ""),
    ):
        reports = terminalreporter.stats.get(category, [])
        ids = dict.fromkeys(_requirement_id(report.nodeid) for report in reports)
        if ids:
            line = f"{title}: {len(reports)} checks of {len(ids)} requirements{hint}: "
            terminalreporter.write_line(line + ", ".join(ids))


def _requirement_id(nodeid: str) -> str:
    """Return the requirement's id from a test's id: `file::test[RID-4-stream]` gives `RID-4`."""
    return "-".join(nodeid.partition("[")[2].rstrip("]").split("-")[:2])


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Session:
    """Return what this run talks to."""
    return pytestconfig.stash[SESSION]


@pytest.fixture(scope="session")
def server(run: Session) -> Server:
    """Return the server under test."""
    return run.server


@pytest.fixture(scope="session")
def answers(server: Server) -> Answers:
    """Return its answers by kind."""
    return Answers(server)


@pytest.fixture
def launched(run: Session) -> Launched:
    """Return the instance that the suite started itself."""
    if not run.command:
        not_tested("needs --launch")
    return run.launched()


@pytest.fixture
def logged(run: Session) -> Iterator[tuple[Server, ServerLog]]:
    """Yield a server and its log: the given one, or else the output of the one launched."""
    if run.log:
        yield run.server, run.log
    elif run.command:
        launched = run.launched()
        yield launched.server, launched.log
    else:
        not_tested("needs --server-log or --launch")
