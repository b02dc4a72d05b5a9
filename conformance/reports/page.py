"""One report as one HTML page: the verdict on top, the matrix, then every check and what it saw."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from conformance.reports import exchange as exchanges
from conformance.reports.drawing import (
    SHORT_HASH,
    Segment,
    badge,
    bar,
    counts,
    document,
    facts,
    icon,
    level,
    note,
    revision,
    section,
    selection,
    started,
)
from conformance.reports.looks import OUTCOMES, VERDICTS, area_of, duration, title_of
from conformance.reports.markup import Html, element, fragment
from conformance.reports.shape import Check, Exchange, Excluded, Report, Requirement

SCRIPT = Path(__file__).with_name("page.js")
OPEN = frozenset({"FAIL", "ENGINE-ERROR"})
STATES = {"refused": "aside", "not ready": "open", "warming up": "warn", "ready": "pass"}


def render(report: Report) -> str:
    """Return *report* as a page that needs nothing but itself; it works without its script."""
    requirements = report["requirements"]
    return document(
        f"{report['server']['name']}: {report['verdict']}",
        report["verdict"],
        _head(report),
        element(
            "main",
            _startup(report),
            _matrix(requirements) if requirements else "",
            _toolbar(report) if requirements else "",
            _details(report) if requirements else "",
            _baseline(report),
            _excluded(report["excluded"]),
        ),
        _foot(report),
        script=_script(),
    )


@functools.cache
def _script() -> str:
    return SCRIPT.read_text("utf-8")


def _head(report: Report) -> Html:
    server, run, suite = report["server"], report["run"], report["suite"]
    look = OUTCOMES[report["verdict"]]
    told = facts(
        [
            ("tested", started(report)),
            ("took", duration(run["duration_s"])),
            ("profiles", ", ".join(run["profiles"])),
            ("assumed", ", ".join(run.get("assumed", []))),
            ("model", server["model"]),
            ("software", server["software"]),
            ("catalogue", revision(report)),
            ("suite", f"{suite['name']} {suite['code_sha256'][:SHORT_HASH]}"),
            ("timeout", duration(run["timeout_s"])),
            ("started by", element("code", server["command"]) if server["command"] else ""),
        ]
    )
    return element(
        "header",
        element("p", "Conformance of a Tier 3A server", class_="kicker"),
        element("h1", server["name"]),
        element("p", element("code", server["url"]), class_="url"),
        element(
            "div",
            icon(look),
            element("p", element("strong", look.words), element("span", report["reason"])),
            class_=f"outcome {look.name}",
        ),
        counts(report) if report["requirements"] else "",
        selection(report),
        told,
        class_="head",
    )


def _startup(report: Report) -> Html:
    spans = report["startup"]
    if not spans:
        return Html()
    segments, told = [], []
    for span in spans:
        look, state = STATES[span["state"]], span["state"]
        length_s = max(span["to_s"] - span["from_s"], 0.0)
        words = f"from {duration(span['from_s'])}, for {duration(length_s)}"
        if span is spans[-1]:
            words = f"after {duration(span['from_s'])}"
        segments.append(Segment(look, length_s, f"{state} {words}"))
        told.append(
            element("li", element("i", class_=f"dot {look}"), state, element("span", words))
        )
    drawn = bar(segments, ", ".join(segment.label for segment in segments))
    return section("Start", drawn, element("ol", *told, class_="legend"), name="start")


def by_area(requirements: Iterable[Requirement]) -> dict[str, list[Requirement]]:
    """Return requirements by area, each where its first one stands."""
    areas: dict[str, list[Requirement]] = {}
    for row in requirements:
        areas.setdefault(area_of(row["id"]), []).append(row)
    return areas


def _matrix(requirements: list[Requirement]) -> Html:
    areas = [
        element(
            "div",
            element("h3", area, element("small", title_of(area))),
            element("div", *(_tile(row) for row in rows), class_="tiles"),
            class_="area",
        )
        for area, rows in by_area(requirements).items()
    ]
    key = element(
        "p",
        "A solid frame is a MUST, a dashed one a SHOULD. Each tile leads to what was found.",
        class_="quiet",
    )
    return section("Requirements", key, element("div", *areas, class_="matrix"), name="matrix")


def _tile(row: Requirement) -> Html:
    look = VERDICTS[row["verdict"]]
    accepted = ", accepted" if row["accepted"] else ""
    return element(
        "a",
        icon(look),
        element("span", row["id"]),
        element("small", "accepted") if row["accepted"] else "",
        element("span", f", {row['level']}, {look.words}", class_="unseen"),
        href=f"#{row['id']}",
        title=f"{row['level']}, {look.words}{accepted}: {row['demand']}",
        class_=f"tile {look.name} {row['level'].lower()}",
        **_filtered(row),
    )


def _filtered(row: Requirement) -> dict[str, str]:
    """Return the attributes that the page's filters go by."""
    return {
        "data_verdict": row["verdict"],
        "data_level": row["level"],
        "data_area": area_of(row["id"]),
    }


def _toolbar(report: Report) -> Html:
    verdicts = [
        element(
            "label",
            element("input", type="checkbox", name="verdict", value=verdict),
            icon(look),
            f"{look.words} ",
            element("b", str(report["counts"][verdict])),
            class_=f"chip {look.name}",
        )
        for verdict, look in VERDICTS.items()
        if report["counts"][verdict]
    ]
    levels = {row["level"] for row in report["requirements"]}
    return element(
        "form",
        element("fieldset", element("legend", "Show only"), *verdicts),
        _choice("level", [level for level in ("MUST", "SHOULD") if level in levels]),
        _choice("area", list(by_area(report["requirements"]))),
        element("button", "Unfold all", type="button", name="unfold"),
        element("button", "Fold all", type="button", name="fold"),
        element("output", aria_live="polite"),
        class_="toolbar",
        hidden=True,
    )


def _choice(name: str, values: list[str]) -> Html:
    every = element("option", f"all {name}s", value="all")
    options = (element("option", value, value=value) for value in values)
    return element("select", every, *options, name=name, aria_label=name, autocomplete="off")


def _details(report: Report) -> Html:
    rows = (_requirement(row, report["exchanges"]) for row in report["requirements"])
    return section("What was found", *rows, name="details")


def _requirement(row: Requirement, seen: list[Exchange]) -> Html:
    """
    Return one requirement, unfolded when it fails.

    Its id stands inside the part that folds, for a browser unfolds what a link leads into; the
    style puts it where the whole begins.
    """
    look = VERDICTS[row["verdict"]]
    n_checks = len(row["checks"])
    return element(
        "details",
        element(
            "summary",
            badge(look),
            element("b", row["id"]),
            level(row["level"]),
            element("span", row["demand"], class_="demand"),
            element("small", f"{n_checks} check{'s' if n_checks != 1 else ''}"),
        ),
        element(
            "div",
            element("span", id=row["id"], class_="anchor"),
            element("p", _origin(row), class_="quiet"),
            note("Accepted: ", row["accepted"], about="warn") if row["accepted"] else "",
            *_checks(row["checks"], seen),
            "" if row["checks"] else element("p", "None of its checks ran.", class_="quiet"),
            class_="inside",
        ),
        class_=f"requirement {look.name}",
        open=row["verdict"] in OPEN,
        **_filtered(row),
    )


def _origin(row: Requirement | Excluded) -> Html:
    """Return where a demand comes from."""
    lines = f"lines {row['lines']}" if row["lines"] else "no lines"
    parts = [f"Guide, {lines}", row["section"]]
    if row.get("implied"):
        parts.append("implied")
    profiles = row.get("profiles")
    if isinstance(profiles, list) and profiles:
        parts.append(f"profiles {', '.join(map(str, profiles))}")
    return fragment(" · ".join(part for part in parts if part))


def _checks(checks: list[Check], seen: list[Exchange]) -> Iterator[Html]:
    """Yield checks by what they look at, told once for all of its cases; failures come first."""
    ordered = sorted(checks, key=lambda check: check["verdict"] not in OPEN)
    for (test, summary), cases in itertools.groupby(ordered, _what_it_looks_at):
        yield element(
            "div",
            element("p", summary),
            element("p", element("code", test), class_="test"),
            *(_check(check, seen) for check in cases),
            class_="cases",
        )


def _what_it_looks_at(check: Check) -> tuple[str, str]:
    return check["test"].partition("[")[0], check["summary"]


def _check(check: Check, seen: list[Exchange]) -> Html:
    look = VERDICTS[check["verdict"]]
    place = check["exchange"]
    found = seen[place] if place is not None and place < len(seen) else None
    return element(
        "article",
        element(
            "h4",
            badge(look),
            element("span", check["id"]),
            element("small", f"{check['profile']}, {duration(check['duration_s'])}"),
        ),
        element("p", element("b", "Seen: "), check["seen"], class_="seen") if check["seen"] else "",
        note("Accepted: ", check["accepted"], about="warn") if check["accepted"] else "",
        _exchange(found, is_open=check["verdict"] in OPEN) if found else "",
        class_=f"check {look.name}",
    )


def _exchange(found: Exchange, *, is_open: bool) -> Html:
    summary = element("summary", exchanges.title(found))
    return element("details", summary, exchanges.render(found), class_="traffic", open=is_open)


def _baseline(report: Report) -> Html:
    baseline = report["baseline"]
    if baseline is None:
        return Html()
    accepted = [
        element(
            "li",
            badge(VERDICTS[finding["verdict"]]),
            element("b", finding["id"]),
            element("span", finding["reason"] or "no reason given"),
        )
        for finding in baseline["accepted"]
    ]
    stale = [
        note(
            element("b", finding),
            " is accepted, but nothing is found there any more: take it out.",
            about="warn",
        )
        for finding in baseline["stale"]
    ]
    return section(
        "Accepted findings",
        element("p", "Known before, from ", element("code", baseline["file"]), ".", class_="quiet"),
        *stale,
        element("ul", *accepted, class_="rows") if accepted else element("p", "None."),
        name="baseline",
    )


def _excluded(rows: list[Excluded]) -> Html:
    if not rows:
        return Html()
    told = [
        element(
            "li",
            element("b", row["id"]),
            level(row["level"]),
            element("span", row["demand"]),
            element("p", row["reason"]),
            element("p", _origin(row), class_="quiet"),
        )
        for row in rows
    ]
    lead = element("p", "No check can decide these, in no run.", class_="quiet")
    return section("Never checked", lead, element("ul", *told, class_="rows"), name="excluded")


def _foot(report: Report) -> Html:
    suite = report["suite"]
    return element(
        "footer",
        element("p", f"{suite['name']}, report format {report['format']}"),
        element("p", "catalogue ", element("code", suite["catalogue_sha256"])),
        element("p", "code ", element("code", suite["code_sha256"])),
    )
