"""What the pages have in common: the shell of a document, icons, verdict badges, bars."""

import base64
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from conformance.reports.looks import OUTCOMES, VERDICTS, Look
from conformance.reports.markup import Html, element, fragment
from conformance.reports.shape import Counts, Outcome, Report

STYLE = Path(__file__).with_name("style.css")
MIN_SHARE = 0.02
SHORT_HASH = 12

# Drawn on a field of 16 by 16. The first path is filled, the second is a line on top of it:
# the outlines differ, so that verdicts can be told apart without their colours.
_CIRCLE = "M8 1a7 7 0 1 1 0 14A7 7 0 1 1 8 1z"
_SHAPES = {
    "pass": (_CIRCLE, "M4.8 8.3l2.2 2.2 4.3-4.8"),
    "fail": ("M5.2 1h5.6L15 5.2v5.6L10.8 15H5.2L1 10.8V5.2z", "M5.5 5.5l5 5m0-5l-5 5"),
    "warn": ("M8 1.2L15.4 14.4H.6z", "M8 5.8v4m0 2.2v.1"),
    "broken": ("M2.5 1h11v14h-11z", "M8.8 3.6L6 8.4h4L7.2 12.6"),
    "open": (_CIRCLE, "M5.9 6.2a2.1 2.1 0 1 1 2.9 2q-.8.4-.8 1.3m0 2.1v.1"),
    "aside": ("M4 4.5h8a3.5 3.5 0 0 1 0 7H4a3.5 3.5 0 0 1 0-7z", "M5.2 8h5.6"),
}


class Segment(NamedTuple):
    """
    One part of a bar.

    Attributes:
        name: CSS class that gives its colour.
        amount: its share, in any unit that the bar's other segments have too.
        label: what it stands for.
    """

    name: str
    amount: float
    label: str


def document(title: str, outcome: Outcome, *body: str, script: str = "") -> str:
    """
    Return a whole HTML page that needs nothing but itself.

    Its policy lets it fetch nothing, and lets no style or script work but the two inside, known
    by their hashes: what might slip through the escaping would still be inert.
    """
    style = _style()
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_source(style)}",
        f"script-src {_source(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content="; ".join(policy)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href=_favicon(OUTCOMES[outcome])),
        element("style", Html(style)),
    )
    parts = [_sprite(), *body, element("script", Html(script)) if script else ""]
    return f"<!doctype html>\n{element('html', head, element('body', *parts), lang='en')}\n"


def icon(look: Look) -> Html:
    """Return a verdict's icon, which always stands beside words."""
    use = element("use", href=f"#icon-{look.name}")
    return element("svg", use, class_=f"icon {look.name}", aria_hidden="true")


def badge(look: Look) -> Html:
    """Return a verdict as an icon and its words."""
    return element("span", icon(look), look.words, class_=f"badge {look.name}")


def bar(segments: Iterable[Segment], label: str) -> Html:
    """Return a bar as wide as its place; the shortest of its segments can still be seen."""
    parts = list(segments)
    total = sum(part.amount for part in parts) or 1.0
    shares = [max(part.amount / total, MIN_SHARE) for part in parts]
    drawn, left = [], 0.0
    for part, share in zip(parts, shares, strict=True):
        width = 100 * share / sum(shares)
        place = {"x": f"{left:.3f}%", "width": f"{width:.3f}%", "height": "100%"}
        drawn.append(element("rect", element("title", part.label), class_=part.name, **place))
        left += width
    return element("svg", *drawn, class_="bar", role="img", aria_label=label)


def counts_bar(counts: Counts) -> Html:
    """Return the requirements of a run as one bar, a segment for each verdict that there is."""
    told = [(look, counts[verdict]) for verdict, look in VERDICTS.items() if counts[verdict]]
    label = ", ".join(f"{count} {look.words}" for look, count in told) or "no requirements"
    return bar((Segment(look.name, n, f"{n} {look.words}") for look, n in told), label)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return names and values as a list; a pair without a value is left out."""
    shown = [
        element("div", element("dt", name), element("dd", value)) for name, value in pairs if value
    ]
    return element("dl", *shown, class_="facts")


def note(*children: str, about: str = "") -> Html:
    """Return a remark that must not be overlooked; *about* names the verdict that colours it."""
    return element("p", *children, class_=f"note {about}".strip())


def section(title: str, *body: str, name: str) -> Html:
    """Return a part of a page under its heading, which *name* links to."""
    return element("section", element("h2", title), *body, id=name)


def started(report: Report) -> Html:
    """Return when a run began, for people and for programs."""
    moment = report["run"]["started_at"]
    shown = moment.replace("T", " ").replace("Z", " UTC")
    return element("time", shown, datetime=moment)


def revision(report: Report) -> str:
    """Return which catalogue a report was made with."""
    suite = report["suite"]
    return f"revision {suite['revision']}, {suite['catalogue_sha256'][:SHORT_HASH]}"


def counts(report: Report) -> Html:
    """Return the requirements of a run by verdict, drawn and in numbers."""
    told = [
        element("li", icon(look), f"{report['counts'][verdict]} ", element("span", look.words))
        for verdict, look in VERDICTS.items()
        if report["counts"][verdict]
    ]
    return element(
        "div", counts_bar(report["counts"]), element("ul", *told, class_="legend"), class_="counts"
    )


def selection(report: Report) -> Html:
    """Return a warning when only part of the profiles' checks ran; else nothing."""
    selected = report["run"]["selected"]
    if not selected:
        return Html()
    return note("Only a part was run: ", element("code", selected), about="open")


def level(name: str) -> Html:
    """Return a level as a small label."""
    return element("span", name, class_=f"level {name.lower()}")


@functools.cache
def _style() -> str:
    return STYLE.read_text("utf-8")


def _source(text: str) -> str:
    """Return how a content security policy names an inline style or script."""
    if not text:
        return "'none'"
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _favicon(look: Look) -> str:
    shape, line = _SHAPES[look.name]
    strokes = {"stroke": "#fff", "stroke_width": "1.7", "fill": "none"}
    paths = fragment(element("path", d=shape, fill=look.colour), element("path", d=line, **strokes))
    drawn = element("svg", paths, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 16 16")
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"


@functools.cache
def _sprite() -> Html:
    """Return the icons, drawn once for the whole page."""
    symbols = [
        element(
            "symbol",
            element("path", d=shape, fill="currentColor"),
            element("path", d=line, class_="line"),
            id=f"icon-{name}",
            viewBox="0 0 16 16",
        )
        for name, (shape, line) in _SHAPES.items()
    ]
    return element("svg", *symbols, class_="sprite", aria_hidden="true")
