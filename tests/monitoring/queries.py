"""What the dashboard and the alert rules ask Prometheus."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.live import ROOT

FOLDER = ROOT / "service" / "monitoring"
ALERTS = FOLDER / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def of_panels() -> list[tuple[str, str]]:
    """Return each query of the dashboard, with its panel's title."""
    return [(panel["title"], one["expr"]) for panel in PANELS for one in panel["targets"]]


def of_rules() -> list[tuple[str, str]]:
    """Return the query of each rule, with its name."""
    return [(rule["alert"], rule["expr"]) for rule in RULES]
