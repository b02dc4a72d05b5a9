"""What is told of a start: on a terminal one line and a banner, elsewhere a line in the log now and then."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

from service.fleet.lifecycle import Lifecycle
from service.protocol import Downloading, WarmedUp
from service.web import terminal
from service.web.terminal import Terminal, banner
from tests.fake_engine import BUDGET, CARD


class Screen(io.StringIO):
    """A terminal that keeps what was written."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


async def started(lifecycle: Lifecycle, stream: io.StringIO, url: str | None) -> None:
    """Go from the first step of a start to the last, and let each be told."""
    Terminal(lifecycle, with_key=False, stream=stream).start(url)
    lifecycle.loading()
    lifecycle.downloading(Downloading(False, 600_000_000, 1_200_000_000, 20_000_000))
    await asyncio.sleep(0.05)
    lifecycle.warming(CARD, BUDGET)
    lifecycle.warmed(WarmedUp().error)
    await asyncio.sleep(0.05)


def test_start_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is drawn over the one before and ends at its beginning; at the end nothing is left of it."""
    monkeypatch.setattr(terminal, "DRAW_S", 0.01)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    screen = Screen()
    asyncio.run(started(Lifecycle(warmup_enabled=True), screen, "http://127.0.0.1:8000"))
    drawn, _, told = screen.getvalue().rpartition("\r\x1b[K")

    line = (
        "loading: the model is being downloaded, 600 of 1,200 MB (50%), 20.0 MB/s, 30 s left (0 s)"
    )
    assert f"\r\x1b[K{line[:79]}" in drawn
    assert "\n" not in drawn
    assert f"{CARD.id} is ready after 0." in told
    assert "http://127.0.0.1:8000/v1/chat/completions" in told


def test_start_where_nobody_knows_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no banner that could be wrong."""
    monkeypatch.setattr(terminal, "DRAW_S", 0.01)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    screen = Screen()
    asyncio.run(started(Lifecycle(warmup_enabled=True), screen, None))

    assert screen.getvalue().endswith("\r\x1b[K")


def test_start_elsewhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is drawn; a start that lasts is told in the log."""
    monkeypatch.setattr(terminal, "LOG_S", 0.02)
    stream = io.StringIO()
    with caplog.at_level(logging.INFO, "service.web.terminal"):
        asyncio.run(started(Lifecycle(warmup_enabled=True), stream, "http://127.0.0.1:8000"))

    assert "" == stream.getvalue()
    assert "Loading for 0 s: the model is being downloaded, 600 of 1,200 MB (50%)" in caplog.text


def test_model_that_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line goes away, and no banner comes."""
    monkeypatch.setattr(terminal, "DRAW_S", 0.01)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)
    screen, model = Screen(), Lifecycle(warmup_enabled=True)

    async def scenario() -> None:
        Terminal(model, with_key=False, stream=screen).start("http://127.0.0.1:8000")
        model.loading()
        model.failed("MODEL_PATH names no folder")
        await asyncio.sleep(0.05)
        model.given_up()
        await asyncio.sleep(0.05)

    asyncio.run(scenario())

    assert screen.getvalue().endswith("\r\x1b[K")
    assert "failed: MODEL_PATH names no folder (0 s)" in screen.getvalue()


def test_banner_with_a_key() -> None:
    """The line to copy carries the key by its variable, and never the key."""
    assert '-H "Authorization: Bearer $API_KEY"' in banner("m", "http://h:1", 1.0, with_key=True)
