"""From what was seen to figures, from figures to ratios and verdicts, and those as a table and as JSON."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.systems import Run
from tests.benchmarks.workloads import Goal, Workload

PACKAGES = ("mlx", "mlx-lm", "falcon", "uvicorn", "mlx-tier3a")
UNDER_LIMIT_S = 0.005
DOUBT = 0.05
_WORDS = {
    "tokens_per_s": "tokens/s",
    "ttft_p50_ms": "time to first token, p50",
    "ttft_p99_ms": "time to first token, p99",
    "gap_p99_ms": "between tokens, p99",
    "failures": "failed requests",
    "api_cpu_us_per_token": "processor time of the API process per token, us",
    "ttft_less_5_ms_over_prefill": "(time to first token - 5 ms) / the engine's own prefill time",
    "growth_mb": "growth of memory, MB",
}

Figures = dict[str, float]
# One round: the figures of each system.
Round = dict[str, Figures]


@dataclass(frozen=True)
class Spread:
    """The median of a figure over the rounds, and between which values it is with 95 % certainty."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return it for the *values* of the rounds; of fewer than six, it lies between all of them."""
        ordered, n = sorted(values), len(values)
        ranks = (k for k in range(2, n // 2 + 1) if _doubt(k, n) <= DOUBT)
        k = max(ranks, default=1)
        return cls(ordered[k - 1], statistics.median(ordered), ordered[n - k])

    @property
    def side(self) -> int:
        """On which side of 1 the median is, 1 above and -1 below; 0: that can't be told, as by one value."""
        return (self.low > 1) - (self.high < 1) if self.low < self.high else 0


@dataclass
class Result:
    """
    What the rounds of one workload on one model gave.

    Attributes:
        absent: why systems were not measured, by the names of those that were not.
    """

    workload: Workload
    model: str
    rounds: list[Round]
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, str]:
        """The workload's name and the model's."""
        return self.workload.name, self.model

    def spread(self, figure: str, of: str, against: str | None = None) -> Spread | None:
        """Return the spread of a figure, or of its ratio to another system's; none if it was never seen."""
        values = []
        for seen in self.rounds:
            value = seen.get(of, {}).get(figure)
            if value is not None and against is not None:
                other = seen.get(against, {}).get(figure)
                value = value / other if other else None
            if value is not None:
                values.append(value)
        return Spread.of(values) if values else None

    def held(self, goal: Goal) -> Spread | None:
        """Return the spread of what *goal* is about."""
        return self.spread(goal.figure, self.workload.systems[0], goal.against)


def _doubt(k: int, n: int) -> float:
    """Return how likely the true median is outside of the *k* th least and the *k* th greatest of *n*."""
    return sum(math.comb(n, i) for i in range(k)) / 2.0 ** (n - 1)


def percentile(values: Sequence[float], percent: float) -> float:
    """
    Return the smallest of *values* that at least *percent* of them don't exceed (the nearest rank).

    Of fewer than a hundred values, the 99th percentile so is the greatest.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def figures(run: Run) -> Figures:
    """Return the figures of one measurement; those that nothing was seen of are left out."""
    whole = [answer for answer in run.answers if answer.failure is None]
    found: Figures = {
        "requests": len(run.answers),
        "failures": len(run.answers) - len(whole),
        "tokens": sum(answer.n_tokens for answer in whole),
    }
    measured = [answer for answer in whole if answer.is_measured]
    if measured:
        began_s = min(answer.began_s for answer in measured)
        seconds = max(answer.ended_s for answer in measured) - began_s
        found["seconds"] = seconds
        found["tokens_per_s"] = sum(answer.n_tokens for answer in measured) / seconds
    firsts = [(one.first_s - one.began_s, one) for one in measured if one.first_s is not None]
    if firsts:
        found["ttft_p50_ms"] = percentile([wait_s for wait_s, _ in firsts], 50) * 1000
        found["ttft_p99_ms"] = percentile([wait_s for wait_s, _ in firsts], 99) * 1000
    beyond = [(wait_s - UNDER_LIMIT_S) / one.prefill_s for wait_s, one in firsts if one.prefill_s]
    if beyond:
        found["ttft_less_5_ms_over_prefill"] = percentile(beyond, 50)
    gaps_s = [gap_s for answer in measured for gap_s in answer.gaps_s]
    if gaps_s:
        found["gap_p50_ms"] = percentile(gaps_s, 50) * 1000
        found["gap_p99_ms"] = percentile(gaps_s, 99) * 1000
    if run.memory_mb:
        found["peak_mb"] = max(run.memory_mb)
        found["growth_mb"] = run.memory_mb[-1] - run.memory_mb[len(run.memory_mb) // 5]
    if run.api_cpu_s is not None and found["tokens"]:
        found["api_cpu_us_per_token"] = run.api_cpu_s / found["tokens"] * 1e6
    return found


def is_met(goal: Goal, value: float) -> bool:
    """Tell whether *value* reaches the goal."""
    if goal.at_least is not None and value < goal.at_least:
        return False
    return goal.at_most is None or value <= goal.at_most


def bound(goal: Goal) -> str:
    """Return the goal's bound in writing."""
    return f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"


def goals_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown: each goal, and what was seen."""
    lines = [
        "| workload | model | figure | goal | median | between | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for goal in result.workload.goals:
            seen = result.held(goal)
            cells = [result.workload.name, result.model, _wording(result, goal), bound(goal)]
            if seen is None:
                cells += ["-", "-", "not measured"]
            else:
                cells += [_number(seen.middle), f"{_number(seen.low)} and {_number(seen.high)}"]
                cells.append("yes" if is_met(goal, seen.middle) else "**no**")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown: medians of each workload and system, or that it was not measured."""
    lines = [
        "| workload | model | system | tokens/s | TTFT p50 / p99, ms | gap p50 / p99, ms "
        "| tokens | failed of | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for system in result.workload.systems:
            if system in result.absent:
                cells = [*result.names, system, "not measured", *["-"] * 5]
                lines.append(f"| {' | '.join(cells)} |")
                continue

            def middle(figure: str, result: Result = result, system: str = system) -> str:
                seen = result.spread(figure, system)
                return "-" if seen is None else _number(seen.middle)

            cells = [
                result.workload.name,
                result.model,
                system,
                middle("tokens_per_s"),
                f"{middle('ttft_p50_ms')} / {middle('ttft_p99_ms')}",
                f"{middle('gap_p50_ms')} / {middle('gap_p99_ms')}",
                middle("tokens"),
                f"{middle('failures')} of {middle('requests')}",
                middle("peak_mb"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def others(results: Sequence[Result], versions: Mapping[str, Mapping[str, str]]) -> str:
    """Return in Markdown with which *versions* rivals were measured, and why others were not."""
    said = []
    for name, of in versions.items():
        with_ = " and ".join(f"{package} {of[package]}" for package in of if package != name)
        said.append(f"- {name} {of.get(name, '')}, with {with_}")
    absent = {name: why for result in results for name, why in result.absent.items()}
    return "\n".join(
        [*said, *(f"- {name} was not measured: {why}" for name, why in absent.items())]
    )


def order_table(before: Sequence[Result], results: Sequence[Result]) -> str:
    """
    Return in Markdown whether systems are as fast beside each other as they were *before*.

    Two of them can be told apart where the median of the ratio of their tokens per second is not 1, as far as
    its spread says.
    """
    lines = [
        "| workload | model | tokens/s | before | now |",
        "|---|---|---|---|---|",
    ]
    n_same = n_once = 0
    for result in results:
        earlier = next((one for one in before if one.names == result.names), None)
        for one, other in combinations(result.workload.systems, 2):
            was = earlier.spread("tokens_per_s", one, other) if earlier else None
            seen = result.spread("tokens_per_s", one, other)
            if was is None or seen is None or was.side == seen.side == 0:
                continue
            if was.side == seen.side:
                n_same += 1
            elif 0 in (was.side, seen.side):
                n_once += 1
            else:
                ratios = [_number(was.middle), _number(seen.middle)]
                lines.append(f"| {' | '.join([*result.names, f'{one} / {other}', *ratios])} |")
    n_turned = len(lines) - 2
    said = (
        f"Pairs of systems in the same order as before: {n_same}; told apart in one of both runs "
        f"only: {n_once}; in the other order: {n_turned}."
    )
    return "\n\n".join([said, "\n".join(lines)] if n_turned else [said])


def read(document: dict[str, Any], workloads: Sequence[Workload]) -> list[Result]:
    """Return the results of a *document*, as far as there are still such *workloads*."""
    known = {workload.name: workload for workload in workloads}
    return [
        Result(known[one["workload"]], one["model"], one["rounds"], one.get("absent", {}))
        for one in document["results"]
        if one["workload"] in known
    ]


def document(
    results: Sequence[Result],
    began_at: str,
    versions: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """
    Return all that was seen, round by round, with the machine it was seen on, ready for JSON.

    *versions* are those of the packages that rivals have in environments of their own.
    """
    return {
        "began_at": began_at,
        "machine": machine(),
        "versions": {name: _version(name) for name in PACKAGES},
        "rivals": versions or {},
        "results": [
            {
                "workload": result.workload.name,
                "about": result.workload.about,
                "model": result.model,
                "rounds": result.rounds,
                "absent": result.absent,
                "goals": [_told(result, goal) for goal in result.workload.goals],
            }
            for result in results
        ],
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on, and nothing that tells whose machine it is."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    if platform.system() == "Darwin":
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _told(result: Result, goal: Goal) -> dict[str, Any]:
    seen = result.held(goal)
    return {
        "figure": goal.figure,
        "of": result.workload.systems[0],
        "against": goal.against,
        "goal": bound(goal),
        "median": seen and seen.middle,
        "between": seen and [seen.low, seen.high],
        "met": None if seen is None else is_met(goal, seen.middle),
    }


def _wording(result: Result, goal: Goal) -> str:
    said = _WORDS.get(goal.figure, goal.figure)
    return f"{said}, {result.workload.systems[0]} / {goal.against}" if goal.against else said


def _number(value: float) -> str:
    """Return three digits that mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
