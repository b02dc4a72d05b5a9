"""
The README's picture: `python -m tests.benchmarks.hero` draws it anew into `service/speed.svg`.

Five bars against the line at 1, where both are the same: four where this server is faster, one where it is
not. Their numbers are those of the table in `service/SPEED.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.live import ROOT

PATH = ROOT / "service" / "speed.svg"
WIDTH, LEFT, TOP, ROW, UNIT = 760, 292, 78, 40, 116


@dataclass(frozen=True)
class Bar:
    """
    One figure.

    Attributes:
        label: what was compared, with whom.
        ratio: ours to the other's.
        is_good: more is better, or less is.
        row: how the table in SPEED.md calls it, and which of its figures this is.
    """

    label: str
    ratio: str
    is_good: bool
    row: tuple[str, int]


BARS = (
    Bar("mlx_lm.server, 1 client", "1.18", True,
        ("tokens/s, against mlx_lm.server; 1 client, 8 clients", 0)),
    Bar("mlx_lm.server, 8 clients", "1.11", True,
        ("tokens/s, against mlx_lm.server; 1 client, 8 clients", 1)),
    Bar("vllm-mlx, 8 clients", "1.17", True,
        ("tokens/s, against vllm-mlx; 1, 8, 16 clients", 1)),
    Bar("mlx-openai-server, 8 clients", "3.6", True,
        ("tokens/s, against mlx-openai-server; 1, 8, 16 clients", 1)),
    Bar("mlx_lm.server, 16 clients: wait", "1.27", False,
        ("time to first token, p50, against mlx_lm.server; 1 client, 8, 16 clients", 2)),
)  # fmt: skip

STYLE = """
    text { font: 15px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
    .title { font-size: 17px; font-weight: 600; }
    .small { font-size: 13px; fill: #59636e; }
    .label { text-anchor: end; }
    .value { font-weight: 600; }
    .good { fill: #2f7d5b; }
    .bad { fill: #b4532a; }
    .one { stroke: #59636e; stroke-dasharray: 3 4; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .small { fill: #9198a1; }
      .good { fill: #4fae84; }
      .bad { fill: #de8157; }
      .one { stroke: #9198a1; }
    }
"""


def draw() -> str:
    """Return the picture as SVG."""
    bottom = TOP + ROW * len(BARS)
    at_one = LEFT + UNIT
    rows = []
    for i, bar in enumerate(BARS):
        y, length = TOP + ROW * i, float(bar.ratio) * UNIT
        kind = "good" if bar.is_good else "bad"
        rows.append(
            f'  <text class="label" x="{LEFT - 12}" y="{y + 20}">{bar.label}</text>\n'
            f'  <rect class="{kind}" x="{LEFT}" y="{y + 4}" width="{length:.0f}" height="24" rx="2"/>\n'
            f'  <text class="value" x="{LEFT + length + 8:.0f}" y="{y + 21}">{bar.ratio}</text>\n'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 62}" '
        f'width="{WIDTH}" height="{bottom + 62}" role="img">\n'
        f"  <style>{STYLE}  </style>\n"
        '  <text class="title" x="16" y="30">This server against others, the same model, in turns</text>\n'
        f'  <text class="small" x="{at_one}" y="{TOP - 14}" text-anchor="middle">1 = the same</text>\n'
        + "".join(rows)
        + f'  <line class="one" x1="{at_one}" y1="{TOP - 6}" x2="{at_one}" y2="{bottom}"/>\n'
        f'  <text class="small" x="16" y="{bottom + 26}">Green: tokens per second, ours to theirs; '
        "longer is better for us.</text>\n"
        f'  <text class="small" x="16" y="{bottom + 46}">Red: how long half of the clients wait for their '
        "first token; longer is worse for us.</text>\n"
        "</svg>\n"
    )


if __name__ == "__main__":
    PATH.write_text(draw(), "utf-8")
