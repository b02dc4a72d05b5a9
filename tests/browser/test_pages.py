"""The pages of a report as people see and use them: in a browser, on small and large screens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance.reports import comparison, page
from tests import sample_reports
from tests.browser.conftest import Open

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGES = {
    "mixed": page.render(sample_reports.mixed()),
    "conformant": page.render(sample_reports.report()),
    "unreachable": page.render(sample_reports.unreachable()),
    "comparison": comparison.render(
        [
            sample_reports.report(),
            sample_reports.mixed(),
            sample_reports.unreachable("a-name-longer-than-most.example.org:8080"),
        ]
    ),
}
LONG = "x" * 3000
SIZES = {"small": {"width": 360, "height": 740}, "large": {"width": 1400, "height": 900}}
N_REQUIREMENTS = len(sample_reports.mixed()["requirements"])

# Every text that is shown, with its contrast to what lies behind it.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const rows = [];
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const isIcon = element.matches("svg.icon");
    if (!(hasText || isIcon) || !element.checkVisibility() || element.closest(".sprite, title")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    rows.push([ratio, isIcon ? 3 : 4.5, element.outerHTML.slice(0, 80)]);
  }
  return rows;
}"""


def detail_of(row: str) -> str:
    """Return the selector of a requirement's detail."""
    return f"details:has(> .inside > [id='{row}'])"


def shown(opened: Page, selector: str) -> list[str]:
    """Return the texts of those elements of *selector* that can be seen."""
    visible = "all => all.filter((each) => each.checkVisibility()).map((each) => each.innerText)"
    return [str(text) for text in opened.locator(selector).evaluate_all(visible)]


def is_in_view(opened: Page, selector: str) -> bool:
    """Whether the upper edge of an element lies in the window."""
    box = opened.locator(selector).bounding_box()
    height = (opened.viewport_size or {"height": 0})["height"]
    return box is not None and -1 <= box["y"] < height


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_can_be_read(
    open_page: Open, tmp_path: Path, name: str, size: str, scheme: str
) -> None:
    """Nothing runs over the side, and all text stands out as WCAG's level AA demands."""
    opened = open_page(PAGES[name], viewport=SIZES[size], color_scheme=scheme)
    opened.screenshot(path=tmp_path / f"{name}-{size}-{scheme}.png", full_page=True)
    widths = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    contrasts = opened.evaluate(CONTRASTS)

    assert widths[0] <= widths[1]
    assert len(contrasts) > 20
    assert [row for row in contrasts if row[0] < row[1]] == []


@pytest.mark.parametrize(
    "text", [LONG, "<script>alert(1)</script>", "<img src=x onerror=alert(1)>"]
)
def test_hostile_page_is_harmless_and_fits(open_page: Open, text: str) -> None:
    """Long words wrap everywhere, and what looks like markup does nothing; unfolded as well."""
    for markup in (
        page.render(sample_reports.hostile(text)),
        comparison.render([sample_reports.hostile(text)] * 2),
    ):
        opened = open_page(markup, viewport=SIZES["small"])
        opened.locator("details").evaluate_all("all => all.forEach((each) => each.open = true)")
        widths = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")

        assert widths[0] <= widths[1]


@pytest.mark.parametrize("has_script", [True, False])
@pytest.mark.parametrize("row", ["DISC-1", "RID-4", "OAI-5"])
def test_tile_leads_to_its_detail(open_page: Open, row: str, has_script: bool) -> None:
    """A click on a tile shows the requirement unfolded, its head in view; no script is needed."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"], java_script_enabled=has_script)
    opened.click(f".tile[href='#{row}']")
    detail = detail_of(row)
    opened.locator(f"{detail} > .inside").wait_for(state="visible")

    assert opened.locator(detail).get_attribute("open") is not None
    assert is_in_view(opened, f"{detail} > summary")


def test_everything_is_there_without_script(open_page: Open) -> None:
    """Without JavaScript there are no filters, and each requirement can still be unfolded."""
    opened = open_page(PAGES["mixed"], java_script_enabled=False)
    opened.click(f"{detail_of('DISC-1')} > summary")

    assert not opened.locator(".toolbar").is_visible()
    assert N_REQUIREMENTS == len(shown(opened, ".requirement > summary > b"))
    assert opened.locator(f"{detail_of('DISC-1')} > .inside").is_visible()


def test_address_with_a_requirement_shows_it(open_page: Open, tmp_path: Path) -> None:
    """A link to one requirement of a page can be passed on."""
    opened = open_page(PAGES["conformant"], viewport=SIZES["small"])
    opened.goto("about:blank")
    opened.goto((tmp_path / "page.html").as_uri() + "#RID-4")

    assert opened.locator(f"{detail_of('RID-4')} > .inside").is_visible()
    assert is_in_view(opened, f"{detail_of('RID-4')} > summary")


def test_filters_leave_what_was_asked_for(open_page: Open) -> None:
    """Verdicts add to one another; level and area narrow down; tiles and details go together."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"])
    everything = N_REQUIREMENTS
    told = opened.locator(".toolbar output")
    rows = ".requirement > summary > b"

    assert f"{everything} of {everything}" == told.inner_text()
    opened.click(".chip:has([value=FAIL])")
    assert ["DISC-4", "RID-2", "RID-4", "PAT-4"] == shown(opened, rows)
    assert ["DISC-4", "RID-2", "RID-4", "PAT-4"] == shown(opened, ".tile > span:first-of-type")
    assert 3 == len(shown(opened, ".area"))
    opened.click(".chip:has([value=WARN])")
    opened.select_option("[name=area]", "RID")
    assert ["RID-2", "RID-4", "RID-8"] == shown(opened, rows)
    opened.select_option("[name=level]", "SHOULD")
    assert ["RID-8"] == shown(opened, rows)
    assert f"1 of {everything}" == told.inner_text()
    opened.select_option("[name=area]", "DISC")
    assert [] == shown(opened, rows)


def test_all_can_be_unfolded_and_folded(open_page: Open) -> None:
    """Two buttons open and close everything that the filters leave, exchanges included."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"])
    opened.select_option("[name=area]", "RID")
    opened.click("[name=unfold]")
    unfolded = "details[data-area=RID]:not([open]), details[data-area=RID] details:not([open])"

    assert 0 == opened.locator(unfolded).count()
    assert opened.locator(f"{detail_of('RID-1')} .curl").first.is_visible()
    assert opened.locator("details[data-area=DISC]:not([open])").count()
    opened.click("[name=fold]")
    assert 0 == opened.locator("details[data-area=RID][open]").count()


def test_keyboard_reaches_tiles_filters_and_details(open_page: Open) -> None:
    """Tab goes through the page in reading order, Enter follows and unfolds, Space filters."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"])
    focused = "document.activeElement"
    opened.keyboard.press("Tab")
    assert "#DISC-1" == opened.evaluate(f"{focused}.getAttribute('href')")
    assert opened.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    opened.keyboard.press("Enter")
    opened.locator(f"{detail_of('DISC-1')} > .inside").wait_for(state="visible")

    opened.focus(".tile:last-of-type >> nth=-1")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")
    assert "FAIL" == opened.evaluate(f"{focused}.value")
    chip = opened.locator(".chip:has(:focus-visible)")
    assert "solid" == chip.evaluate("each => getComputedStyle(each).outlineStyle")
    opened.keyboard.press("Space")
    assert "DISC-4" == shown(opened, ".requirement > summary > b")[0]

    opened.focus(f"{detail_of('DISC-4')} > summary")
    opened.keyboard.press("Enter")
    assert not opened.locator(f"{detail_of('DISC-4')} > .inside").is_visible()


def test_one_click_selects_the_curl_line(open_page: Open) -> None:
    """The line that repeats a request is selected as a whole."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"])
    line = opened.locator(f"{detail_of('RID-4')} .curl").first
    line.click()

    assert line.inner_text() == opened.evaluate("getSelection().toString()").strip()


def test_comparison_can_leave_what_differs(open_page: Open) -> None:
    """One box hides the rows, and the areas, in which all servers agree."""
    same = [sample_reports.report(name="a"), sample_reports.report({"RID-4": "FAIL"}, name="b")]
    opened = open_page(comparison.render(same), viewport=SIZES["large"], java_script_enabled=False)
    before = len(shown(opened, "tbody th[scope=row] b"))
    opened.focus("#only-differences")
    opened.keyboard.press("Space")

    assert len(same[0]["requirements"]) == before
    assert ["RID-4"] == shown(opened, "tbody th[scope=row] b")
    assert 1 == len(shown(opened, ".area-row"))


@pytest.mark.parametrize("size", SIZES)
def test_comparison_keeps_its_head_in_view(open_page: Open, size: str) -> None:
    """However far the table is scrolled, each cell's server and requirement can be seen."""
    names = [f"server-{place}.example.org:8080" for place in range(12)]
    many = [sample_reports.report(name=name) for name in names]
    opened = open_page(comparison.render(many), viewport=SIZES[size])
    table = opened.locator(".table")
    table.evaluate("each => each.scrollTo(300, 900)")
    outer = table.bounding_box()
    corner = opened.locator("thead th").first.bounding_box()
    row = opened.locator("tbody th[scope=row]").nth(30).bounding_box()

    assert outer
    assert corner
    assert row
    assert abs(corner["x"] - outer["x"]) < 2
    assert abs(corner["y"] - outer["y"]) < 2
    assert abs(row["x"] - outer["x"]) < 2
    assert corner["width"] < 0.6 * outer["width"]


def test_comparison_can_be_scrolled_by_keyboard(open_page: Open) -> None:
    """The table is reached with Tab, and the arrow keys move it."""
    # Waiting for a condition asks for `eval`, which the page's policy forbids.
    opened = open_page(PAGES["comparison"], viewport=SIZES["small"], bypass_csp=True)
    opened.focus("#only-differences")
    opened.keyboard.press("Tab")
    opened.keyboard.press("ArrowRight")
    opened.wait_for_function("document.querySelector('.table').scrollLeft > 0")

    assert "table" == opened.evaluate("document.activeElement.className")


def test_print_is_light_and_without_controls(open_page: Open, tmp_path: Path) -> None:
    """On paper there is no dark ground and nothing to click."""
    opened = open_page(PAGES["mixed"], viewport=SIZES["large"], color_scheme="dark")
    opened.emulate_media(media="print", color_scheme="dark")
    opened.pdf(path=tmp_path / "mixed.pdf")

    assert not opened.locator(".toolbar").is_visible()
    assert "rgb(31, 35, 40)" == opened.evaluate("getComputedStyle(document.body).color")
