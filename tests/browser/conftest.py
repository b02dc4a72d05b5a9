"""A real Chromium, driven by playwright; where either is missing these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

Open = Callable[..., "Page"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """
    Return the system's Chromium, or the one that the environment's CHROMIUM names.

    It is closed with this folder's last test: while it is open, playwright's event loop runs in this thread,
    and no other can.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium on this machine; CHROMIUM can name one")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """
    Return what opens markup as a file in a fresh browser, by the browser's own options.

    Whatever the page complains of, asks for or pops up fails the test at its end.
    """
    contexts, complaints = [], []

    def open_it(markup: str, **options: Any) -> Page:
        path = tmp_path / "page.html"
        path.write_text(markup, encoding="utf-8")
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        # Nothing here is about time, and where much else runs, to draw a long page takes seconds.
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: complaints.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()

    asked_for = {f"request: {(tmp_path / 'page.html').as_uri()}"}
    assert [each for each in complaints if each not in asked_for and "data:image" not in each] == []
