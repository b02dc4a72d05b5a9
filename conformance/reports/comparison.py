"""Several reports as one HTML matrix, or as a table of Markdown that a README can carry."""

from collections import Counter
from collections.abc import Iterable, Iterator

from conformance.reports.drawing import (
    badge,
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
from conformance.reports.looks import OUTCOMES, VERDICTS, area_of, title_of
from conformance.reports.markup import Html, element, escape
from conformance.reports.shape import Report, Requirement, Verdict

TITLE = "Conformance of Tier 3A servers"
NOT_RUN = "not in this run"

Row = list[Requirement | None]


def rows_by_area(reports: list[Report]) -> dict[str, dict[str, Row]]:
    """
    Return each requirement that any of *reports* has, by area and id, with a place for each report.

    The order is that of the first report; what only later ones have comes at its area's end.
    """
    areas: dict[str, dict[str, Row]] = {}
    for place, report in enumerate(reports):
        for requirement in report["requirements"]:
            rows = areas.setdefault(area_of(requirement["id"]), {})
            rows.setdefault(requirement["id"], [None] * len(reports))[place] = requirement
    return areas


def render(reports: list[Report]) -> str:
    """Return *reports* side by side as a page that needs nothing but itself, and no script."""
    worst = max((report["verdict"] for report in reports), key=list(OUTCOMES).index)
    head = element(
        "header",
        element("p", f"{len(reports)} reports side by side", class_="kicker"),
        element("h1", TITLE),
        *(note(remark, about="warn") for remark in remarks(reports)),
        element("div", *map(_card, reports), class_="cards"),
        class_="head",
    )
    return document(TITLE, worst, head, element("main", _matrix(reports)))


def remarks(reports: list[Report]) -> Iterator[str]:
    """Yield what keeps *reports* from being compared as they stand."""
    revisions = {report["suite"]["catalogue_sha256"]: revision(report) for report in reports}
    if len(revisions) > 1:
        told = " and ".join(sorted(revisions.values()))
        yield f"These runs used different catalogues of requirements: {told}."
    profiles = {
        frozenset(each): ", ".join(each) for each in (r["run"]["profiles"] for r in reports)
    }
    if len(profiles) > 1:
        yield f"These runs used different profiles: {'; '.join(sorted(profiles.values()))}."
    if any(report["run"]["selected"] for report in reports):
        yield "Of some only a part was run."


def _card(report: Report) -> Html:
    look, server = OUTCOMES[report["verdict"]], report["server"]
    return element(
        "article",
        element("h2", server["name"]),
        element("p", badge(look)),
        element("p", report["reason"]),
        counts(report) if report["requirements"] else "",
        selection(report),
        facts(
            [
                ("url", element("code", server["url"])),
                ("tested", started(report)),
                ("profiles", ", ".join(report["run"]["profiles"])),
                ("catalogue", revision(report)),
                ("model", server["model"]),
                ("software", server["software"]),
            ]
        ),
        class_=f"card {look.name}",
    )


def _matrix(reports: list[Report]) -> Html:
    areas = rows_by_area(reports)
    if not areas:
        return section("Requirements", element("p", "None of them was tested."), name="matrix")
    bodies = (
        element(
            "tbody",
            _area(area, 1 + len(reports)),
            *(_row(row, reports) for row in rows.values()),
        )
        for area, rows in areas.items()
    )
    table = element("table", element("thead", _heads(reports)), *bodies)
    key = [element("li", icon(look), element("span", look.words)) for look in VERDICTS.values()]
    return section(
        "Requirements",
        element("ul", *key, class_="legend key-list"),
        _differences_only(),
        element("div", table, class_="table", tabindex="0", role="region", aria_label="Matrix"),
        name="matrix",
    )


def _differences_only() -> Html:
    box = element("input", type="checkbox", id="only-differences", autocomplete="off")
    return element("label", box, "only where they differ", class_="only")


def _heads(reports: list[Report]) -> Html:
    heads = [
        element(
            "th",
            element("b", report["server"]["name"]),
            badge(OUTCOMES[report["verdict"]]),
            title=f"{report['server']['url']}: {report['reason']}",
            scope="col",
        )
        for report in reports
    ]
    return element("tr", element("th", "requirement", scope="col"), *heads)


def _area(area: str, n_columns: int) -> Html:
    title = element("span", area, element("small", title_of(area)))
    head = element("th", title, colspan=str(n_columns), scope="rowgroup")
    return element("tr", head, class_="area-row")


def _row(row: Row, reports: list[Report]) -> Html:
    """Return one requirement at all servers; one that was never reached differs from nobody."""
    first = next(requirement for requirement in row if requirement)
    pairs = list(zip(row, reports, strict=True))
    verdicts = {each and each["verdict"] for each, report in pairs if report["requirements"]}
    return element(
        "tr",
        element(
            "th",
            element("b", first["id"]),
            " ",
            level(first["level"]),
            element("span", first["demand"], class_="demand"),
            title=first["demand"],
            scope="row",
        ),
        *(_cell(first["id"], each, report["server"]["name"]) for each, report in pairs),
        class_="differs" if len(verdicts) > 1 else "same",
    )


def _cell(requirement_id: str, requirement: Requirement | None, name: str) -> Html:
    if requirement is None:
        return element(
            "td", NOT_RUN, class_="missing", title=f"{requirement_id} is {NOT_RUN} of {name}"
        )
    look = VERDICTS[requirement["verdict"]]
    found = [check["seen"] for check in requirement["checks"] if check["seen"]]
    accepted = requirement["accepted"] and f" Accepted: {requirement['accepted']}"
    return element(
        "td",
        icon(look),
        element("span", f" {look.words}"),
        element("small", " accepted") if accepted else "",
        class_=f"cell {look.name}",
        title=f"{requirement_id} {look.words} at {name}. {' '.join(found[:1])}{accepted}",
    )


def markdown(reports: list[Report]) -> str:
    """Return *reports* as a table of areas by servers: the verdict, then counts by verdict."""
    lines = [
        ["", *(report["server"]["name"] for report in reports)],
        ["---", *("---" for _ in reports)],
        ["verdict", *(_verdict(report) for report in reports)],
    ]
    areas = rows_by_area(reports)
    for area, rows in areas.items():
        columns = zip(*rows.values(), strict=True)
        lines.append([area, *(_tally(each for each in column if each) for column in columns)])
    used = {each["verdict"] for report in reports for each in report["requirements"]}
    key = ", ".join(
        f"{look.symbol} {look.words}" for name, look in VERDICTS.items() if name in used
    )
    table = [f"| {' | '.join(map(_cell_text, cells))} |" for cells in lines]
    notes = [key] if key else []
    notes += map(_cell_text, remarks(reports))
    return "\n".join([*table, *(f"\n{line}" for line in notes)]) + "\n"


def _verdict(report: Report) -> str:
    return f"{report['verdict']} ({', '.join(report['run']['profiles'])})"


def _tally(requirements: Iterable[Requirement]) -> str:
    tally: Counter[Verdict] = Counter(each["verdict"] for each in requirements)
    told = [f"{look.symbol} {tally[name]}" for name, look in VERDICTS.items() if tally[name]]
    return ", ".join(told) or NOT_RUN


def _cell_text(text: str) -> str:
    """Return *text* so that it is nothing but text in a table of Markdown."""
    line = " ".join(escape(text).split())
    return "".join(f"\\{each}" if each in "\\`*_[]|~" else each for each in line)
