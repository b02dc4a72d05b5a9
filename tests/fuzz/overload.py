"""
Ten times as many clients as there are places: `python -m tests.fuzz.overload`.

Whoever finds no place is told so at once, probes are answered meanwhile, and those who have one get as many
answers in a second as without the others.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx

from tests.fuzz.accounts import left_over
from tests.fuzz.asking import CHAT, READY_S, chat, percentile
from tests.fuzz.record import Row, tell
from tests.live import UVICORN, running

PLACES = {"MAX_CONCURRENCY": "4", "QUEUE_SIZE": "4"}
N_PLACES = 8
TENFOLD = 10 * N_PLACES
PAUSE_S = 0.5  # of a client that was refused; Retry-After says more
PROBE_S = 0.05
MAX_REFUSAL_S = MAX_PROBE_S = 0.05
MIN_GOODPUT = 0.95
BODY = chat(max_tokens=64, ignore_eos=True)


@dataclass
class Seen:
    """What clients saw: how long refusals and probes took, in seconds, and how many answers came."""

    refusals_s: list[float] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    n_answers: int = 0
    others: list[int] = field(default_factory=list)


async def keep_asking(http: httpx.AsyncClient, seen: Seen) -> None:
    """Ask for ever."""
    while True:
        began_s = time.perf_counter()
        answer = await http.post(CHAT, json=BODY)
        took_s = time.perf_counter() - began_s
        if answer.status_code == 200:
            seen.n_answers += 1
        elif answer.status_code == 429 and answer.headers["Retry-After"]:
            seen.refusals_s.append(took_s)
            await asyncio.sleep(PAUSE_S)
        else:
            seen.others.append(answer.status_code)


async def keep_probing(http: httpx.AsyncClient, seen: Seen) -> None:
    """Ask whether the server lives, for ever."""
    while True:
        began_s = time.perf_counter()
        answer = await http.get("/livez")
        seen.probes_s.append(time.perf_counter() - began_s)
        if answer.status_code != 200:
            seen.others.append(answer.status_code)
        await asyncio.sleep(PROBE_S)


async def crowd(url: str, n_clients: int, seconds: float) -> Seen:
    """Let *n_clients* ask for so many *seconds*, and a probe beside them."""
    seen = Seen()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        tasks = [asyncio.create_task(keep_asking(http, seen)) for _ in range(n_clients)]
        tasks.append(asyncio.create_task(keep_probing(http, seen)))
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for each in ended:
        if not isinstance(each, asyncio.CancelledError):
            raise click.ClickException(f"a client broke: {each!r}")
    return seen


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="For each of the two crowds.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(seconds: float, out: Path | None) -> None:
    """Fill all places, then ask ten times as often."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "log", UVICORN, **PLACES) as server,
    ):
        server.wait_until("/readyz", 200, READY_S)
        full = asyncio.run(crowd(server.url, N_PLACES, seconds))
        wrong = left_over(server)
        over = asyncio.run(crowd(server.url, TENFOLD, seconds))
        wrong = left_over(server) or wrong
    refusal_s, probe_s = (
        percentile(each or [float("inf")], 0.99) for each in (over.refusals_s, over.probes_s)
    )
    goodput = over.n_answers / max(full.n_answers, 1)
    others = full.others + over.others
    row = Row(
        what=f"{TENFOLD} clients for {N_PLACES} places",
        goal=f"p99 of 429 and of /livez at most {MAX_REFUSAL_S * 1000:g} ms, "
        f"at least {MIN_GOODPUT:.0%} of the answers that {N_PLACES} clients get",
        seen=f"429: p99 {refusal_s * 1000:.1f} ms of {len(over.refusals_s):,}; "
        f"/livez: p99 {probe_s * 1000:.1f} ms of {len(over.probes_s):,}; "
        f"{goodput:.0%} of {full.n_answers:,} answers"
        + f"; also {sorted(set(others))}" * bool(others)
        + f"; {wrong}" * bool(wrong),
        is_met=refusal_s <= MAX_REFUSAL_S
        and probe_s <= MAX_PROBE_S
        and goodput >= MIN_GOODPUT
        and not (others or wrong),
        command=f"python -m tests.fuzz.overload --seconds {seconds:g}",
    )
    tell(row, out)
    sys.exit(not row.is_met)


if __name__ == "__main__":
    main()
