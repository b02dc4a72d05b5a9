"""
Two models that take turns in memory for one, under load: `python -m tests.fuzz.cycles`.

A third model, the default, is asked all the while by two clients. Each cycle asks the first of the two and
then the other, so that each is loaded and unloaded once.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import httpx
import psutil

from service.catalog.card import EMBEDDED_FOLDER
from tests.fuzz.accounts import left_over
from tests.fuzz.asking import READY_S
from tests.fuzz.record import Row, tell
from tests.live import MODULE, LiveServer, running

MODEL_MB = 400
BUDGET_MB = 2 * MODEL_MB + MODEL_MB // 2
MAX_GROWTH_MB = 20.0
QUESTION = "What does /health mean?"


class Asker:
    """Asks, and counts what is wrong with the answers."""

    def __init__(self, server: LiveServer) -> None:
        self._http = server.client()
        self._http.timeout = httpx.Timeout(120)
        self._right: dict[str, str] = {}
        self.n_wrong = self.n_failed = self.n_asked = 0

    def ask(self, model: str) -> None:
        """Ask *model* what it was asked before; greedily, so that it has to say the same."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 40,
            "temperature": 0,
        }
        self.n_asked += 1
        answer = self._http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            self.n_failed += 1
            print(f"\n{model}: {answer.status_code} {answer.text[:200]}", file=sys.stderr)
            return
        said = answer.json()["choices"][0]["message"]["content"]
        self.n_wrong += said != self._right.setdefault(model, said)


@click.command()
@click.option(
    "--cycles", default=100, show_default=True, help="How often each of the two is loaded."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(cycles: int, out: Path | None) -> None:
    """Run the cycles; fail if an answer was wrong, a request failed or memory grew."""
    tables = [
        f'[[model]]\nid = "{name}"\npath = "{EMBEDDED_FOLDER}"\nmemory_mb = {MODEL_MB}\n'
        for name in ("default", "first", "second")
    ]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models.toml")
        models.write_text("\n".join(tables))
        how = (*MODULE, "--models", str(models))
        with running(Path(folder, "log"), how, MODELS_MEMORY_MB=str(BUDGET_MB)) as server:
            server.wait_until("/readyz", 200, READY_S)
            row = _cycle(server, cycles)
    tell(row, out)
    sys.exit(not row.is_met)


def _cycle(server: LiveServer, n_cycles: int) -> Row:
    taking_turns, others = Asker(server), [Asker(server), Asker(server)]
    is_over = threading.Event()
    api = psutil.Process(server.process.pid)
    engine = psutil.Process(server.engine_pid())
    threads = [threading.Thread(target=_keep_asking, args=(one, is_over)) for one in others]
    for thread in threads:
        thread.start()
    memory_mb: list[float] = []
    took_s: list[float] = []
    for i, name in itertools.product(range(n_cycles), ("first", "second")):
        began_s = time.monotonic()
        taking_turns.ask(name)
        took_s.append(time.monotonic() - began_s)
        memory_mb.append((api.memory_info().rss + engine.memory_info().rss) / 1e6)
        print(f"\rcycle {i + 1}/{n_cycles}  {memory_mb[-1]:.1f} MB", end="", file=sys.stderr)
    is_over.set()
    for thread in threads:
        thread.join()
    askers = [taking_turns, *others]
    n_wrong, n_failed = (sum(getattr(a, what) for a in askers) for what in ("n_wrong", "n_failed"))
    tenth = max(1, len(memory_mb) // 10)
    growth_mb = statistics.median(memory_mb[-tenth:]) - statistics.median(memory_mb[:tenth])
    n_asked, middle_s = sum(asker.n_asked for asker in askers), statistics.median(took_s)
    wrong = left_over(server)
    return Row(
        what=f"Two models that take turns in memory for one, {n_cycles} times, beside a third under load",
        goal=f"0 wrong, 0 failed, memory grows by at most {MAX_GROWTH_MB:g} MB",
        seen=f"{2 * n_cycles} loads, {n_asked:,} asked, {n_wrong} wrong, {n_failed} failed; an answer with "
        f"its load took {middle_s:.2f} s in the middle; API process and third engine {growth_mb:+.1f} MB"
        + f"; {wrong}"
        * bool(wrong),
        is_met=not (n_wrong or n_failed or wrong or growth_mb > MAX_GROWTH_MB),
        command=f"python -m tests.fuzz.cycles --cycles {n_cycles}",
    )


def _keep_asking(asker: Asker, is_over: threading.Event) -> None:
    while not is_over.wait(0.05):
        asker.ask("default")


if __name__ == "__main__":
    main()
