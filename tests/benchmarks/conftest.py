"""
Benchmarks: `tox -e bench`.

They report, they do not pass or fail: machines are shared and noisy, so what counts is a ratio of two
figures taken in turns in one run. Each benchmark hands its figure to `report`, beside the goal it is held
against; the table comes at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.live import LiveServer, running

Report = Callable[[str, Sequence[float], str], None]
_ROWS = pytest.StashKey[list[tuple[str, Sequence[float], str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the figures."""
    config.stash[_ROWS] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Take a figure's name, its values and its goal, for the table at the end."""
    rows = request.config.stash[_ROWS]

    def note(name: str, values: Sequence[float], goal: str) -> None:
        rows.append((name, values, goal))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print minimum, median and maximum of each figure beside its goal."""
    rows = terminalreporter.config.stash[_ROWS]
    if not rows:
        return
    terminalreporter.section("figures and goals")
    for name, values, goal in rows:
        low, middle, high = min(values), statistics.median(values), max(values)
        terminalreporter.write_line(
            f"{name:<58} {low:9.3f} {middle:9.3f} {high:9.3f}   goal {goal}"
        )


@pytest.fixture(scope="module")
def bench_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A default server that logs only what goes wrong."""
    log = tmp_path_factory.mktemp("bench") / "log"
    with running(log, LOG_LEVEL="WARNING") as live:
        live.wait_until("/readyz", 200)
        yield live
