"""
The ratios as one drawing, SVG by hand: it needs no library, and any browser shows it.

Each row is one comparison of our server with another system; a bar goes from 1 to the median of the rounds,
a line over where it is with 95 % certainty. The scale is logarithmic, so that twice and half are as far
from the middle; to the right of it ours is better, whatever the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.benchmarks.results import Result, Spread

COLOURS = {
    "bare": "#5b7fa6",
    "mlx_lm": "#d08545",
    "vllm-mlx": "#9b6fa8",
    "mlx-openai-server": "#c2575b",
}
OTHER = "#7a9a62"
INK, FAINT, PAPER = "#222222", "#d9d9d9", "#ffffff"
# The figures drawn, and whether more of it is better.
PANELS = (
    ("tokens_per_s", "Tokens per second", True),
    ("ttft_p50_ms", "Time to first token", False),
)
WIDTH, LEFT, RIGHT, ROW, HEAD, GAP = 920, 370, 80, 22, 44, 26
MOST = 32.0


@dataclass(frozen=True)
class Row:
    """One comparison: how many times better the first system is."""

    label: str
    against: str
    times: Spread


def rows(results: Sequence[Result], figure: str, is_more_better: bool) -> list[Row]:
    """Return the comparisons of a figure, in the order of the results."""
    found = []
    for result in results:
        ours, *others = result.workload.systems
        for other in others:
            seen = (
                result.spread(figure, ours, other)
                if is_more_better
                else result.spread(figure, other, ours)
            )
            if seen is not None:
                label = f"{result.workload.name}, {result.model}"
                found.append(Row(label, f"{ours} : {other}", seen))
    return found


def draw(results: Sequence[Result], subtitle: str) -> str:
    """Return the drawing."""
    body: list[str] = []
    top = 78
    for figure, title, is_more_better in PANELS:
        found = rows(results, figure, is_more_better)
        if found:
            body += _panel(found, title, top)
            top += HEAD + ROW * len(found) + GAP
    height = top + 4
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
            f' height="{height}" font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
            '<text x="20" y="32" font-size="18" font-weight="600">How many times better</text>',
            f'<text x="20" y="54" fill="#666666">{escape(subtitle)}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _panel(found: Sequence[Row], title: str, top: int) -> list[str]:
    bottom = top + HEAD + ROW * len(found)
    low, high = _reach(found)
    lines = [f'<text x="20" y="{top + 20}" font-weight="600">{escape(title)}</text>']
    for power in range(round(math.log2(low)), round(math.log2(high)) + 1):
        x = _x(2.0**power, low, high)
        colour = INK if power == 0 else FAINT
        mark = str(2**power) if power >= 0 else f"1/{2**-power}"
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 28}" y2="{bottom}" stroke="{colour}"/>'
            f'<text x="{x:.1f}" y="{top + 20}" text-anchor="middle" font-size="11" fill="#666666">'
            f"{mark}</text>"
        )
    before = ""
    for i, row in enumerate(found):
        label, before = ("" if row.label == before else row.label), row.label
        lines += _row(row, label, top + HEAD + ROW * i, low, high)
    return lines


def _row(row: Row, label: str, y: int, low: float, high: float) -> list[str]:
    one, middle = _x(1, low, high), _x(row.times.middle, low, high)
    least, most = _x(row.times.low, low, high), _x(row.times.high, low, high)
    colour = COLOURS.get(row.against.partition(" : ")[2], OTHER)
    return [
        f'<text x="20" y="{y + 4}">{escape(label)}</text>',
        f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end" font-size="11" fill="#666666">'
        f"{escape(row.against)}</text>",
        f'<rect x="{min(one, middle):.1f}" y="{y - 6}" width="{abs(middle - one):.1f}" height="12"'
        f' fill="{colour}"/>',
        f'<line x1="{least:.1f}" x2="{most:.1f}" y1="{y}" y2="{y}" stroke="{INK}" stroke-width="1.5"/>',
        f'<text x="{WIDTH - 20}" y="{y + 4}" text-anchor="end" font-weight="600">'
        f"{_times(row.times.middle)}</text>",
    ]


def _reach(found: Sequence[Row]) -> tuple[float, float]:
    """Return the powers of two that hold all medians and what is around them, as far as the paper goes."""
    least = max(1 / MOST, min(0.5, *(row.times.low for row in found)))
    most = min(MOST, max(2.0, *(row.times.high for row in found)))
    return 2.0 ** math.floor(math.log2(least)), 2.0 ** math.ceil(math.log2(most))


def _x(value: float, low: float, high: float) -> float:
    part = math.log2(min(high, max(low, value)) / low) / math.log2(high / low)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _times(value: float) -> str:
    """Return a factor in writing."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
