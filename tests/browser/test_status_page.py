"""The status page in a real browser, before a real server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.catalog.card import EMBEDDED_FOLDER
from tests.live import MODULE, LiveServer, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "coder <b>bold</b> <script>document.title = 'taken'</script>"
FILE = """
[[model]]
id = "chat"
path = "{path}"

[[model]]
id = "{hostile}"
path = "{path}"
context_length = 2048
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server of two models, one of which has a name that is markup."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "models.toml").write_text(FILE.format(path=EMBEDDED_FOLDER, hostile=HOSTILE))
    with running(folder / "log", (*MODULE, "--models", str(folder / "models.toml"))) as live:
        live.wait_until("/readyz", 200, 60)
        yield live


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    """Return the page, open; whatever it complains of or asks for elsewhere fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if not request.url.startswith((server.url, "data:"))
            else None
        ),
    )
    opened.goto(server.url + "/")
    yield opened
    context.close()

    assert [] == complaints


def ask(page: Page, text: str) -> None:
    """Send *text* in the page's chat."""
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_page_tells_models_and_takes_names_as_text(page: Page) -> None:
    """Each model has its state; what looks like markup is shown as it is, and does nothing."""
    page.wait_for_selector("text=no request has asked for it yet")

    assert HOSTILE in page.inner_text("#models")
    assert "Local models" == page.title()
    assert "ready" == page.inner_text("#overall")
    assert ["chat", HOSTILE] == page.eval_on_selector_all(
        "#model option", "options => options.map(option => option.value)"
    )


def test_chat_streams_and_its_request_is_told(page: Page) -> None:
    """The answer, its request id and its time stand together; the id is in the table, too."""
    ask(page, "What does /health mean?")
    page.wait_for_selector(".turn.assistant small >> text=a second")
    note = page.inner_text(".turn.assistant small")

    assert "200" in page.inner_text(".turn.assistant span")
    page.wait_for_selector(f"#requests >> text={note.partition(':')[0]}")
    assert page.is_visible("#requests svg.split")


def test_answer_can_be_stopped(page: Page) -> None:
    """What came until then stays, and the next question goes on from it."""
    ask(page, "Tell me everything about this server.")
    page.wait_for_function("document.querySelector('.turn.assistant span').textContent.length > 5")
    if page.is_enabled("#stop"):
        page.click("#stop")
    page.wait_for_selector("#send:enabled")
    ask(page, "What does /livez mean?")
    page.wait_for_selector(".turn.assistant >> nth=1")
    page.wait_for_selector("#send:enabled")

    assert 2 == page.locator(".turn.assistant").count()
    assert 0 == page.locator(".turn.failed").count()


def test_other_model_is_loaded_by_the_chat(page: Page) -> None:
    """The page tells that it comes, and then that it is there."""
    page.wait_for_selector("#model option >> nth=1", state="attached")
    page.select_option("#model", HOSTILE)
    ask(page, "Hello")
    page.wait_for_selector(".turn.assistant small >> text=a second")
    page.wait_for_function("document.querySelectorAll('#models .pill.good').length === 2")


def test_engine_that_dies_is_told_and_comes_back(page: Page, server: LiveServer) -> None:
    """A chat in between is refused in words; afterwards all is as before."""
    page.wait_for_selector("#overall >> text=ready")
    for engine in server.engines():
        os.kill(engine, signal.SIGKILL)
    page.wait_for_selector("#models .pill:not(.good)")
    page.wait_for_selector("#models .pill.good")
    ask(page, "Hello")
    page.wait_for_selector(".turn.assistant small >> text=a second")


def test_key_is_asked_for_and_used(browser: Browser, tmp_path: Path) -> None:
    """It is kept in the page alone, and never in what can be copied."""
    with running(tmp_path / "log", API_KEY="sesame") as live:
        live.wait_until("/readyz", 200, 60)
        opened = browser.new_page()
        opened.goto(live.url + "/")
        opened.wait_for_selector("#key-form:not([hidden])")
        opened.fill("#key", "sesame")
        opened.press("#key", "Enter")
        opened.wait_for_selector("#models tbody tr")
        ask(opened, "Hello")
        opened.wait_for_selector(".turn.assistant small >> text=a second")
        copied = opened.inner_text("#curl")
        opened.close()

    assert "$API_KEY" in copied
    assert "sesame" not in copied


@pytest.mark.parametrize("width", [375, 1280])
def test_page_fits_its_window(browser: Browser, server: LiveServer, width: int) -> None:
    """Nothing sticks out to the side, on a phone either."""
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(server.url + "/")
    opened.wait_for_selector("#models tbody tr")
    sticks_out = opened.evaluate("document.documentElement.scrollWidth > innerWidth")
    opened.close()

    assert not sticks_out


def test_endpoints_can_be_read(browser: Browser, server: LiveServer) -> None:
    """Each route of the document has a row, and what it takes is a click away."""
    opened = browser.new_page()
    opened.goto(server.url + "/docs")
    opened.click("summary:has-text('/v1/chat/completions')")
    shown = opened.inner_text("details[open]")
    n_rows = opened.locator("details").count()
    opened.close()

    assert "messages" in shown
    assert n_rows > 15
