"""The dashboard, the alert rules and the page about them ask for metrics and labels that there are."""

from __future__ import annotations

import re

import pytest
import yaml
from prometheus_client.samples import Sample

from service.catalog.resolve import Names
from service.fleet.fleet import Fleet
from service.telemetry import Metrics
from service.web.engine_metrics import EngineMetrics
from tests.live import ROOT
from tests.monitoring.queries import DASHBOARD, FOLDER, PANELS, RULES, of_panels, of_rules
from tests.test_engine_metrics import WRITES, served

RUNNING = (ROOT / "service" / "RUNNING.md").read_text("utf-8")
CASES = yaml.safe_load((ROOT / "tests" / "monitoring" / "alerts.test.yml").read_text("utf-8"))


def samples() -> list[Sample]:
    """Return one sample at least of all that there is, from a server where everything has happened once."""
    metrics = Metrics()
    metrics.registry.register(EngineMetrics(Fleet([served("m", WRITES)], Names({}))))
    for each in [*vars(metrics).values()]:
        if getattr(each, "_labelnames", ()):
            each = each.labels(*each._labelnames)
        if hasattr(each, "observe"):
            each.observe(1)
        elif hasattr(each, "inc"):
            each.inc()
    return [sample for family in metrics.registry.collect() for sample in family.samples]


LABELS = {sample.name: {*sample.labels} for sample in samples()}


def unknown(expression: str) -> list[str]:
    """Return what *expression* asks for that there isn't: metrics, and labels of those that there are."""
    found = []
    for name, selector in re.findall(r"\b(tier3a_\w+)(?:\{([^}]*)\})?", expression):
        if name not in LABELS:
            found.append(name)
            continue
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
        found += [f"{name}{{{one}}}" for one in labels if one not in LABELS[name]]
    return found


@pytest.mark.parametrize(("where", "expression"), [*of_panels(), *of_rules()])
def test_query_asks_for_what_there_is(where: str, expression: str) -> None:
    """Each metric by its full name, each label that it selects by."""
    assert [] == unknown(expression), where
    assert re.search(r"\btier3a_\w+|\bup\b", expression)


def test_query_that_asks_for_nothing_is_found() -> None:
    """The rule has teeth: a family's name is none of its samples', and a label may be another's."""
    wrong = 'rate(tier3a_queue_seconds[1m]) + tier3a_queue_length{state="x", model="m"} + tier3a_no'

    assert ["tier3a_queue_seconds", "tier3a_queue_length{state}", "tier3a_no"] == unknown(wrong)


def test_page_tells_of_metrics_that_there_are() -> None:
    """Under the name that a query has, or that of a histogram."""
    histograms = {name.removesuffix("_bucket") for name in LABELS if name.endswith("_bucket")}
    told = set(re.findall(r"`(tier3a_\w+)`", RUNNING))

    assert told
    assert set() == told - LABELS.keys() - histograms


def test_job_of_the_page_is_that_of_the_rules() -> None:
    """A rule asks whether the job is up, by the name that the page gives it."""
    (block,) = re.findall(r"^```yaml\n(rule_files.*?)^```$", RUNNING, re.MULTILINE | re.DOTALL)
    page = yaml.safe_load(block)
    asked = {job for _, query in of_rules() for job in re.findall(r'job="(\w+)"', query)}

    assert ["alerts.yml"] == page["rule_files"]
    assert asked == {each["job_name"] for each in page["scrape_configs"]}


def test_dashboard_is_one_that_can_be_imported() -> None:
    """Its panels have ids of their own and don't overlap, and it brings no data source of ours."""
    places = {
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    }
    sizes = [panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"]]

    assert len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]})
    assert sum(sizes) == len(places)
    assert max(x for x, _ in places) < 24
    assert {"${datasource}"} == {panel["datasource"]["uid"] for panel in PANELS}
    assert ["datasource", "model"] == [one["name"] for one in DASHBOARD["templating"]["list"]]


def test_rules_have_cases_and_words() -> None:
    """Each is tried once where it fires and once where it doesn't; each has a summary and a description."""
    names = [rule["alert"] for rule in RULES]

    assert sorted(f"{name} {how}" for name in names for how in ("fires", "is quiet")) == sorted(
        case["name"] for case in CASES["tests"]
    )
    for rule in RULES:
        assert {"summary", "description"} == rule["annotations"].keys()
        assert rule["labels"]["severity"] in {"critical", "warning"}
    assert {"alerts.yml", "dashboard.json"} == {path.name for path in FOLDER.iterdir()}
