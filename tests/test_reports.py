"""What is drawn from a report: all of it is told, nothing of it is trusted."""

from __future__ import annotations

import html
import json
import re
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import jsonschema_rs
import pytest

from conformance import catalogue, compare
from conformance.reports import badge, comparison, exchange, looks, markup, page
from conformance.reports.shape import Outcome, Report, Verdict
from tests import sample_reports

CONTRACTS = Path(__file__).parent.parent / "contracts"
SCHEMA = json.loads((CONTRACTS / "conformance-report.schema.json").read_text("utf-8"))
GOOD = json.loads((CONTRACTS / "cases" / "conformance-report.json").read_text("utf-8"))["good"]
CONTRACT = jsonschema_rs.validator_for(SCHEMA, offline=True)
SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "quotes": "x\" onclick='alert(1)' x=\"",
    "ends": "--></style></title></pre></details><img src=http://evil.example onerror=alert(1)>",
    "entity": "&lt;b&gt; &#x3c;",
    "control": "nul\x00 escape\x1b[31m bell\x07 delete\x7f",
    "direction": "abc\u202egnp.exe\u2066",
    "surrogate": "half \ud800 of a pair",
    "url": "javascript:alert(1)",
}


class Outline(HTMLParser):
    """
    The elements of a page with their attributes, and its text.

    Attributes:
        elements: start tags in their order.
        text: all that is shown, on one line.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._texts: list[str] = []
        self._tag = ""
        self.feed(text)
        self.text = " ".join("".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self._tag = tag
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Keep text that is shown."""
        if self._tag not in {"style", "script"}:
            self._texts.append(data)

    def with_class(self, name: str) -> list[dict[str, str]]:
        """Return the attributes of the elements of a class."""
        return [
            attributes
            for _, attributes in self.elements
            if name in attributes.get("class", "").split()
        ]


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def write(folder: Path, *reports: Report) -> list[str]:
    """Write reports as JSON files; return their names."""
    paths = [folder / f"{place}.json" for place in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report), encoding="utf-8")
    return [str(path) for path in paths]


def mirrors(hint: Any, schema: dict[str, Any], at: str) -> None:
    """Assert that a type of `shape.py` says what *schema* says: keys, values, types."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    names = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
    options = [option for option in get_args(hint) or (hint,) if option is not type(None)]
    if get_origin(hint) is Literal:
        assert list(get_args(hint)) == schema["enum"], at
    elif get_origin(hint) is list:
        assert schema["type"] == "array", at
        mirrors(options[0], schema["items"], f"{at}[]")
    elif is_typeddict(options[0]):
        hints = get_type_hints(options[0])
        assert set(hints) == set(schema["properties"]), at
        assert options[0].__required_keys__ == set(schema["required"]), at
        for name, inner in hints.items():
            mirrors(inner, schema["properties"][name], f"{at}/{name}")
    elif "const" not in schema:
        types = {names[options[0]], *(["null"] if options != [hint] else [])}
        assert types == {
            *([schema["type"]] if isinstance(schema["type"], str) else schema["type"])
        }, at


def test_shape_mirrors_the_contract() -> None:
    """Python's types and the JSON Schema name the same fields with the same types and values."""
    mirrors(Report, SCHEMA, "")


@pytest.mark.parametrize("body", [case["body"] for case in GOOD])
def test_good_cases_hold_what_the_contract_cannot_say(body: Report) -> None:
    """Counts are those of the requirements, and a check's exchange is there."""
    assert body["counts"] == sample_reports.counts(body["requirements"])
    for row in body["requirements"]:
        for check in row["checks"]:
            assert check["exchange"] is None or check["exchange"] < len(body["exchanges"])


@pytest.mark.parametrize(
    "report",
    [sample_reports.report(), sample_reports.mixed(), sample_reports.unreachable()],
    ids=["conformant", "mixed", "unreachable"],
)
def test_samples_hold_the_contract(report: Report) -> None:
    """What these tests draw is what the suite writes."""
    CONTRACT.validate(report)


@pytest.mark.parametrize("case", GOOD, ids=[case["name"] for case in GOOD])
def test_whatever_the_contract_allows_is_drawn(case: dict[str, Any]) -> None:
    """Each good case becomes a page, a comparison with itself, and a badge."""
    assert case["body"]["reason"] in Outline(page.render(case["body"])).text
    assert case["body"]["reason"] in Outline(comparison.render([case["body"]] * 2)).text
    assert case["body"]["verdict"] in badge.render(case["body"])


@pytest.mark.parametrize("outcome", sample_reports.outcomes())
def test_verdict_stands_on_top_in_words(outcome: Outcome) -> None:
    """Each verdict over all stands on the page with its reason, and in its title."""
    report = sample_reports.report(outcome=outcome)
    shown = Outline(page.render(report))

    assert f"{outcome}{report['reason']}" in shown.text
    assert f"127.0.0.1:8000: {outcome}" in shown.text


@pytest.mark.parametrize("verdict", sample_reports.verdicts())
def test_requirement_has_its_verdict_in_words(verdict: Verdict) -> None:
    """A verdict is a word and an icon of its own on tile and detail, and never a colour alone."""
    shown = Outline(page.render(sample_reports.report({"RID-4": verdict})))
    look = looks.VERDICTS[verdict]
    tile = next(each for each in shown.with_class("tile") if each["href"] == "#RID-4")

    assert f"RID-4, MUST, {look.words}" in shown.text
    assert f"{look.words}RID-4MUSTEvery response of any kind" in shown.text
    assert look.name in tile["class"].split()
    assert tile["title"].startswith(f"MUST, {look.words}: Every response")


def test_looks_differ_in_more_than_colour() -> None:
    """No two verdicts share a word, a symbol or an icon."""
    used = list(looks.VERDICTS.values())
    icons = re.findall(r'<symbol id="icon-\w+".*?</symbol>', page.render(sample_reports.report()))

    assert len({look.words for look in used}) == len({look.symbol for look in used}) == len(used)
    assert len({icon.partition("><")[2] for icon in icons}) == len(used)


def test_every_tile_leads_to_its_detail() -> None:
    """Tiles and details are the report's requirements, in its order, under ids that are unique."""
    report = sample_reports.mixed()
    shown = Outline(page.render(report))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    rows = [row["id"] for row in report["requirements"]]

    assert [f"#{row}" for row in rows] == [tile["href"] for tile in shown.with_class("tile")]
    assert rows == [each["id"] for each in shown.with_class("anchor")]
    assert len(ids) == len(set(ids))


def test_only_failures_are_open() -> None:
    """What fails lies open with its exchange, everything else is folded."""
    shown = Outline(page.render(sample_reports.mixed()))
    opened = [each["data-verdict"] for each in shown.with_class("requirement") if "open" in each]
    traffic = [each for each in shown.with_class("traffic") if "open" in each]

    assert {"FAIL", "ENGINE-ERROR"} == set(opened)
    assert 5 == len(opened)
    assert 6 == len(traffic)


def test_page_tells_all_of_a_check() -> None:
    """Demand, origin, summary, what was seen, request, response, timing and curl are there."""
    text = Outline(page.render(sample_reports.report({"RID-4": "FAIL"}))).text
    lines = catalogue.load()["RID-4"].lines

    for told in (
        f"Guide, lines {lines} · 2. Request ID Propagation · implied · profiles wire",
        "Success or error, routed or not, streamed or not",
        "Seen: no X-Request-ID; the headers are content-type",
        "GET /v1/models200 OKin 3.4 ms",
        "User-Agent: tier3a-conformance",
        "sent 1.2 s into the run, head after 2.1 ms, end after 3.4 ms",
        "curl -sS -i http://127.0.0.1:8000/v1/models",
        "conformance/test_request_id.py::test_on_each_response",
    ):
        assert told in text


def test_failing_cases_come_first_and_say_once_what_they_look_at() -> None:
    """Of many cases of one check the failing ones stand on top; its sentence isn't repeated."""
    report = sample_reports.report()
    row = next(row for row in report["requirements"] if row["id"] == "RID-4")
    row["checks"] = [
        sample_reports.check("RID-4", place, "FAIL" if place == 2 else "PASS") for place in range(4)
    ]
    report["requirements"] = [row]
    text = Outline(page.render(report)).text
    cases = re.findall(r"(?:passed|failed)(RID-4-[a-z]+)wire", text)

    assert ["RID-4-error", "RID-4-list", "RID-4-stream", "RID-4-preflight"] == cases
    assert 1 == text.count(row["checks"][0]["summary"])


def test_page_tells_start_baseline_and_exclusions() -> None:
    """How long each state of the start lasted, what was accepted and why, what has no check."""
    text = Outline(page.render(sample_reports.mixed())).text

    for told in (
        "refused from 0 ms, for 410 ms",
        "ready after 2.31 s",
        "Accepted: the proxy in front joins them",
        "MODEL-5 is accepted, but nothing is found there any more",
        "PT-6SHOULDWhat the time means for a stream is documented.It is about",
        "revision 2, 9f2c9f2c9f2c",
        "started by",
    ):
        assert told in text


def test_unreachable_page_has_no_empty_parts() -> None:
    """Without a server there is the verdict and the facts of the run, and no matrix."""
    shown = Outline(page.render(sample_reports.unreachable()))

    assert "unreachablenothing answers at http://127.0.0.1:9: connection refused" in shown.text
    assert [] == shown.with_class("tile") == shown.with_class("toolbar")
    assert "What was found" not in shown.text


def test_request_without_response_says_so() -> None:
    """A request that nothing answered is shown with what was sent and how long was waited."""
    made = sample_reports.exchange("GET", "/health", None, "")
    text = Outline(str(exchange.render(made))).text

    assert "No response came." in text
    assert "given up after 10 s" in text
    assert "no response" in exchange.title(made)


def test_selection_is_told() -> None:
    """A run of only some checks says so, so that nobody takes it for the whole."""
    report = sample_reports.report()
    report["run"]["selected"] = "-k RID"

    assert "Only a part was run: -k RID" in Outline(page.render(report)).text


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"a":[1,{"b":[]}],"c":{}}', '{ "a": [ 1, { "b": [] } ], "c": {} }'),
        ('{"n":1e400,"n":-0.10,"s":"\\u0041 , \\"x\\" {"}', None),
        ("[]", "[]"),
        (" null ", "null"),
        ("data: {}\n\ndata: [DONE]", "data: {} data: [DONE]"),
        ('{"cut": ["half', '{"cut": ["half'),
        ("[" * 4000, None),
        ("[" * 400 + "]" * 400, None),
    ],
)
def test_json_is_laid_out_and_nothing_else_changed(body: str, shown: str | None) -> None:
    """Only white space is added: numbers, escapes and doubled keys stay what the server sent."""
    text = html.unescape(re.sub(r"<[^>]*>", "", exchange.pretty(body)))

    assert "".join(body.split()) == "".join(text.split())
    assert shown is None or shown == " ".join(text.split())
    assert len(text) < 60_000


def test_cut_body_says_its_whole_length() -> None:
    """A long body that was cut says how long it was."""
    made = sample_reports.exchange("GET", "/v1/models", [], "x" * 9000)
    made["response"] = {"status": 299, "headers": [], "body": "x" * 4000, "body_bytes": 9000}
    text = Outline(str(exchange.render(made))).text

    assert "9,000 bytes, cut after 4,000 characters" in text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text(text: str) -> None:
    """What a server sends adds no element, no attribute and no address to any page."""
    plain, wild = sample_reports.hostile("harmless"), sample_reports.hostile(text)
    for drawn, expected in (
        (page.render(wild), page.render(plain)),
        (comparison.render([wild, wild]), comparison.render([plain, plain])),
    ):
        shape = [(tag, sorted(attributes)) for tag, attributes in Outline(drawn).elements]
        assert [(tag, sorted(each)) for tag, each in Outline(expected).elements] == shape
        assert Outline(str(markup.escape(text))).text in Outline(drawn).text
        assert drawn.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text_in_a_badge(text: str) -> None:
    """A badge is sound XML whatever the profiles are called."""
    report = sample_reports.report()
    report["run"]["profiles"] = [text]
    drawn = ET.fromstring(badge.render(report))

    assert {"svg", "title", "rect", "path", "g", "text"} == {
        each.tag.removeprefix(SVG) for each in drawn.iter()
    }


def test_nothing_unseen_is_left() -> None:
    """Control characters and those that turn the direction of text are written out."""
    escaped = markup.escape("a\x1b[1m\u202eb\ud800\r\n\tc")

    assert "a\\x1b[1m\\u202eb\\ud800\\r\n\tc" == escaped


def test_markup_of_markup_is_not_escaped_twice() -> None:
    """An element inside another stays one; text beside it does not become one."""
    inner = markup.element("b", "1 < 2", title='"x"', hidden=True, lang="")

    assert '<p><b title="&quot;x&quot;" hidden>1 &lt; 2</b>&lt;i&gt;</p>' == markup.element(
        "p", inner, "<i>"
    )


@pytest.mark.parametrize(
    "drawn",
    [
        page.render(sample_reports.mixed()),
        comparison.render([sample_reports.report(), sample_reports.mixed()]),
    ],
    ids=["page", "comparison"],
)
def test_page_needs_nothing_else(drawn: str) -> None:
    """Addresses lead into the page itself; its own policy forbids to fetch and to run anything."""
    outline = Outline(drawn)
    addresses = {
        value
        for _, attributes in outline.elements
        for name, value in attributes.items()
        if name in {"href", "src", "action", "srcset", "data", "poster"}
    }
    policy = next(each["content"] for tag, each in outline.elements if "http-equiv" in each)

    assert not [each for each in addresses if not each.startswith(("#", "data:image/svg+xml;"))]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import", drawn)
    assert not [each for _, each in outline.elements if "style" in each]


def test_long_report_is_drawn_quickly() -> None:
    """200 checks with long bodies take no time to speak of, and give a page that can be sent."""
    report = sample_reports.mixed()
    body = json.dumps({"content": ["<&> " * 50] * 19})
    report["exchanges"] = [sample_reports.exchange("GET", "/x", [["a", "b"]], body)] * 200
    rows = report["requirements"][:50]
    report["requirements"] = rows
    for row in rows:
        row["checks"] = [sample_reports.check(row["id"], place, "PASS") for place in range(4)]
    began_s = time.process_time()
    drawn = page.render(report)

    assert time.process_time() - began_s < 2
    assert len(drawn) < 4_000_000


def test_comparison_tells_where_servers_differ() -> None:
    """Rows with one verdict can be hidden; the others stay."""
    mixed = sample_reports.mixed()
    shown = Outline(comparison.render([sample_reports.report(), mixed]))

    assert 12 == len(shown.with_class("differs"))
    assert mixed["counts"]["PASS"] == len(shown.with_class("same"))
    assert "These runs used different profiles: wire; wire, startup." in shown.text


def test_server_that_was_not_reached_differs_from_nobody() -> None:
    """Where one server has no verdicts at all, the rows in which the others agree stay the same."""
    reports = [sample_reports.report(), sample_reports.unreachable(), sample_reports.report()]

    assert [] == Outline(comparison.render(reports)).with_class("differs")


def test_comparison_names_what_a_run_lacks() -> None:
    """A requirement that one run doesn't have is a cell that says so, in the order of its area."""
    whole, part = sample_reports.report(name="whole"), sample_reports.report(name="part")
    part["requirements"] = part["requirements"][:10]
    shown = Outline(comparison.render([part, whole]))
    missing = shown.with_class("missing")
    areas = comparison.rows_by_area([part, whole])

    assert len(whole["requirements"]) - 10 == len(missing)
    assert "DISC-11 is not in this run of part" == missing[0]["title"]
    assert list(comparison.rows_by_area([whole])) == list(areas)
    assert list(comparison.rows_by_area([whole])["DISC"]) == list(areas["DISC"])


def test_comparison_of_different_catalogues_says_so() -> None:
    """Runs that asked for different things are not silently put side by side."""
    old = sample_reports.report()
    old["suite"] |= {"revision": 1, "catalogue_sha256": "ab" * 32}
    old["run"]["selected"] = "-k RID"
    remarks = list(comparison.remarks([old, sample_reports.report()]))

    assert [
        "These runs used different catalogues of requirements: "
        "revision 1, abababababab and revision 2, 9f2c9f2c9f2c.",
        "Of some only a part was run.",
    ] == remarks
    assert [] == list(comparison.remarks([sample_reports.report()] * 2))


def test_cell_tells_what_was_seen() -> None:
    """Pointing at a verdict shows whose it is and why."""
    shown = Outline(comparison.render([sample_reports.mixed("A"), sample_reports.report(name="B")]))
    titles = [cell["title"] for cell in shown.with_class("cell")]

    assert f"RID-4 failed at A. {sample_reports.SEEN['FAIL']}" in titles
    assert "RID-4 passed at B. " in titles


def test_markdown_is_a_table_of_areas() -> None:
    """A row for each area, a column for each server, counts by verdict, and the symbols' meaning."""
    lines = comparison.markdown(
        [sample_reports.report(name="a|b"), sample_reports.mixed(), sample_reports.unreachable()]
    ).splitlines()

    assert "|  | a\\|b | 127.0.0.1:8001 | 127.0.0.1:9 |" == lines[0]
    assert "| --- | --- | --- | --- |" == lines[1]
    assert (
        "| verdict | conformant (wire) | not conformant (wire, startup) | unreachable (wire) |"
        == lines[2]
    )
    n_pat = sum(row.area == "PAT" for row in catalogue.load().values())
    assert f"| PAT | ✓ {n_pat} | ✓ {n_pat - 1}, ✗ 1 | not in this run |" in lines
    assert (
        "✓ passed, ✗ failed, ! fell short, ⚡ engine error, ? not tested, ○ not applicable" in lines
    )


@pytest.mark.parametrize("text", [*HOSTILE.values(), "a\n| b", "[x](http://evil.example)", "`*_~"])
def test_hostile_name_stays_text_in_markdown(text: str) -> None:
    """A server's name makes no new cell or line, no link and no HTML."""
    table = comparison.markdown([sample_reports.report(name=text)] * 2)
    head = table.splitlines()[0]

    assert 4 == len(re.findall(r"(?<!\\)\|", head))
    assert "<" not in table
    assert not re.search(r"(?<!\\)[\[`]", table)


def test_command_writes_page_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m conformance.compare` reads reports, writes the page and prints the table."""
    files = write(tmp_path, sample_reports.report(), sample_reports.mixed())
    target = tmp_path / "matrix.html"
    compare.main([*files, "--html", str(target), "--markdown"])

    assert "2 reports side by side" in target.read_text("utf-8")
    assert capsys.readouterr().out.startswith("|  | 127.0.0.1:8000 | 127.0.0.1:8001 |")


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ("{}", ["--markdown"], "not a report: the whole body against required"),
        ("nonsense", ["--markdown"], "not JSON"),
        ("[" * 9999, ["--markdown"], "not JSON"),
        (None, ["--markdown"], "No such file or directory"),
        (json.dumps(sample_reports.unreachable()), [], "say what to make"),
        (json.dumps(sample_reports.unreachable()), ["--html", "/"], "/: Is a directory"),
    ],
)
def test_command_refuses_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    options: list[str],
    problem: str,
) -> None:
    """What can't be read or written ends the command with 2 and one line that says why."""
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        compare.main([str(path), *options])

    assert 2 == ended.value.code
    assert problem in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("outcome", sample_reports.outcomes())
def test_badge_says_verdict_and_profiles(outcome: Outcome) -> None:
    """The badge is an image with a name, of the verdict's colour, that can be read on it."""
    report = sample_reports.report(outcome=outcome)
    report["run"]["profiles"] = ["wire", "startup"]
    drawn = ET.fromstring(badge.render(report))
    label = f"conformance: {outcome} (wire, startup)"
    colours = [each.get("fill") for each in drawn if each.tag in {f"{SVG}rect", f"{SVG}path"}]

    assert label == drawn.get("aria-label") == drawn.findtext(f"{SVG}title")
    assert ["conformance", f"{outcome} (wire, startup)"] == [
        text.text for text in drawn.iter(f"{SVG}text")
    ]
    assert looks.OUTCOMES[outcome].colour in colours
    for colour in colours:
        assert 1.05 / (luminance(str(colour)) + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.00213, "2.13 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1 s"),
        (8.213, "8.21 s"),
        (1234.5, "1,234 s"),
    ],
)
def test_times_have_three_digits(seconds: float, shown: str) -> None:
    """A time is told in the unit that suits it."""
    assert shown == looks.duration(seconds)


def test_compared_server_can_be_given_a_name(tmp_path: Path) -> None:
    """`NAME=FILE` calls a server by the name that people know it by."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sample_reports.report()))

    assert "mlx_lm.server" == compare.named(f"mlx_lm.server={path}")["server"]["name"]
    assert compare.read(path) == compare.named(str(path))
