"""
The benchmark: `python -m tests.benchmarks`.

It reports and does not judge speed by its exit status: machines are shared and noisy, so what counts is the
ratio of two figures taken one after the other. The systems of a workload therefore take turns, round by
round, and each round begins with another one. A system that fails or dies gives failures, and is started
again. The status is 1 only where this server failed every request of a workload, which measures nothing.

Servers of others with environments of their own are installed first, where `--rivals` names a folder, and
asked once. What isn't installed or doesn't answer is left out of all workloads, and the page says why.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.catalog.card import EMBEDDED_FOLDER
from tests.benchmarks import deep_model, plot, random_model, results, rivals, workloads
from tests.benchmarks.load import NOT_ENDED, Answer, Client
from tests.benchmarks.results import Figures, Result, Round
from tests.benchmarks.rivals import NotInstalled, Rival
from tests.benchmarks.systems import KINDS, Measurable, NotUp, Other, Run, Setup
from tests.benchmarks.workloads import Plan, Workload

MADE = {"random": random_model.make, "deep": deep_model.make}
MODELS = ("embedded", *MADE)
# Of a round before all others: nobody asks it again.
WARM_UP = Workload("", "", "question", clients=1, tokens=4, systems=[]).measured(-1)
WARM_UP_S = 30.0


@dataclass(frozen=True)
class Place:
    """
    Where a run of the benchmark has its things.

    Attributes:
        folder: for models and logs; it goes with the run.
        rivals: where rivals with environments of their own are installed; none: they aren't.
        absent: why rivals can't be measured, by their names.
    """

    folder: Path
    rivals: Path | None
    absent: Mapping[str, str]

    def present(self, plan: Plan, workload: Workload) -> list[str]:
        """Return the systems of *workload* that can be measured."""
        return [name for name in workload.systems if plan.systems[name].kind not in self.absent]

    def model(self, name: str) -> Path:
        """Return the folder of a model."""
        return EMBEDDED_FOLDER if name == "embedded" else self.folder / name


class Progress:
    """A line on standard error for each measurement."""

    def __init__(self, n_all: int) -> None:
        self._n_all = n_all
        self._n_done = 0
        self._began_s = time.monotonic()

    def tell(self, what: str, seen: Figures, reason: str | None = None) -> None:
        """Say what was measured, what was seen, and the *reason* of the first failure."""
        self._n_done += 1
        minutes, seconds = divmod(int(time.monotonic() - self._began_s), 60)
        head = f"[{self._n_done:3}/{self._n_all} {minutes:2}:{seconds:02}] {what:<56}"
        print(head, _summary(seen, reason), file=sys.stderr, flush=True)


class Contender:
    """
    A system in one workload: how it is prepared, asked, and brought back.

    Attributes:
        reason: why the first request that failed in the last measurement did; None: none failed.
    """

    def __init__(self, plan: Plan, workload: Workload, name: str, model: str, place: Place) -> None:
        log = Path(tempfile.mkdtemp(dir=place.folder))
        folder = log / "folder"
        folder.mkdir()
        described = plan.systems[name]
        environment = {
            key: value.format(folder=folder, embedded=EMBEDDED_FOLDER)
            for key, value in {**workload.environment, **described.environment}.items()
        }
        setup = Setup(place.model(model), workload.concurrency, environment, log, place.rivals)
        self._workload = workload
        self._described = described
        self._system: Measurable = KINDS[described.kind](setup)
        self.reason: str | None = None

    def measure(self, n_round: int) -> Figures:
        """Return the figures of one round; if it is not up and won't come up, nothing but failures."""
        workload = self._workload
        clients = self._described.asked(workload.measured(n_round))
        if self._described.beside:
            clients = [*clients, *workload.disturbing(n_round)]
        try:
            self._prepare(workload.priming(n_round))
        except NotUp as error:
            self.reason = str(error)
            return results.figures(Run([Answer(False, 0.0) for _ in clients]))
        seen = self._system.run(clients, workload.limit_s, workload.at_once)
        self.reason = next((one.failure for one in seen.answers if one.failure), None)
        if workload.life != "workload" or any(one.failure == NOT_ENDED for one in seen.answers):
            self.stop()  # it may still be at work on what was broken off
        return results.figures(seen)

    def stop(self) -> None:
        """End it."""
        self._system.stop()

    def _prepare(self, priming: Sequence[Client]) -> None:
        """Bring it to where its workload wants it before the measurement."""
        system, life = self._system, self._workload.life
        if life == "workload" and system.is_up():
            self._ask_first(priming)
            return
        system.stop()
        system.start()
        if life == "workload":
            system.run(WARM_UP, WARM_UP_S, None)
        self._ask_first(priming)
        if life == "restart":
            system.stop()
            system.start()

    def _ask_first(self, priming: Sequence[Client]) -> None:
        if priming:
            self._system.run(priming, self._workload.limit_s, None)


def absences(wanted: Iterable[Rival], folder: Path | None, work: Path) -> dict[str, str]:
    """
    Return why rivals can't be measured, by their names, for those of *wanted* that can't.

    The others are installed in *folder*, and have answered a question each, when this returns.
    """
    found: dict[str, str] = {}
    for rival in wanted:
        try:
            rivals.set_up(rival, folder)
            _try(rival, folder, work)
        except (NotInstalled, NotUp) as reason:
            found[rival.name] = str(reason)
            print(f"  {rival.name} {reason}", file=sys.stderr, flush=True)
    return found


def _try(rival: Rival, folder: Path | None, work: Path) -> None:
    """
    Ask *rival* one question, with the embedded model.

    Raises:
        NotUp: it does not start, or does not answer.
    """
    log = Path(tempfile.mkdtemp(dir=work))
    system = Other(rival, Setup(EMBEDDED_FOLDER, 1, {}, log, folder))
    try:
        system.start()
        (answer,) = system.run(WARM_UP, WARM_UP_S, None).answers
    except NotUp as reason:
        raise NotUp(f"does not run here: {reason}") from reason
    finally:
        system.stop()
    if answer.failure:
        raise NotUp(f"does not run here: it starts, but gives no answer ({answer.failure})")


def measure(
    plan: Plan, workload: Workload, model: str, place: Place, n_rounds: int, progress: Progress
) -> Result:
    """Return what the systems of one workload show, in turns."""
    present = place.present(plan, workload)
    contenders = {name: Contender(plan, workload, name, model, place) for name in present}
    rounds: list[Round] = []
    try:
        for n_round in range(n_rounds):
            turn = n_round % len(present)
            order = [*present[turn:], *present[:turn]]
            seen: Round = {}
            for name in order:
                seen[name] = contenders[name].measure(n_round)
                what = f"{workload.name}, {model}, round {n_round + 1}/{n_rounds}, {name}"
                progress.tell(what, seen[name], contenders[name].reason)
            rounds.append(seen)
    finally:
        for contender in contenders.values():
            contender.stop()
    absent = {
        name: place.absent[plan.systems[name].kind]
        for name in workload.systems
        if name not in present
    }
    return Result(workload, model, rounds, absent)


def unmeasured(plan: Plan, found: Iterable[Result]) -> list[str]:
    """Return where this server failed every request of a workload: the workload, the model, the system."""
    return [
        f"{', '.join(result.names)}, {name}"
        for result in found
        for name in result.workload.systems
        if plan.systems[name].kind == "ours"
        and all(seen[name]["failures"] == seen[name]["requests"] for seen in result.rounds)
    ]


def main(words: Sequence[str] | None = None) -> None:
    """
    Measure what the arguments ask for; tell it in a table, and in files or on standard output as JSON.

    Raises:
        SystemExit: this server failed every request of a workload; all is told before.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with all it started
    plan = workloads.read()
    asked = _arguments(plan, words)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    before = asked.out and earlier(asked.out)
    work = [
        (workload, model, min(asked.rounds or workload.rounds, workload.rounds))
        for workload in plan.workload
        for model in workload.models
        if (not asked.workload or workload.name in asked.workload) and asked.model in (None, model)
    ]
    kinds = {plan.systems[name].kind for workload, _, _ in work for name in workload.systems}
    others = [each for name, each in rivals.RIVALS.items() if name in kinds and not each.is_here]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in {model for _, model, _ in work} & MADE.keys():
            MADE[model](folder / model)
        absent = absences(others, asked.rivals, folder)
        place = Place(folder, asked.rivals, absent)
        progress = Progress(sum(n * len(place.present(plan, each)) for each, _, n in work))
        found = [
            measure(plan, workload, model, place, n_rounds, progress)
            for workload, model, n_rounds in work
        ]
    versions = {
        each.name: rivals.versions(each, asked.rivals) for each in others if each.name not in absent
    }
    print(f"\n{results.goals_table(found)}\n", file=sys.stderr)
    told = json.dumps(results.document(found, began_at, versions), indent=1) + "\n"
    if asked.out is None:
        print(told, end="")
    else:
        write(asked.out, found, told, versions)
        if before:
            compare(asked.out, found, results.read(before, plan.workload), before["began_at"])
    if lost := unmeasured(plan, found):
        sys.exit(f"This server failed every request of: {'; '.join(lost)}.")


def earlier(folder: Path) -> dict[str, Any] | None:
    """Return what a run before has left in *folder*; None: there was none."""
    file = folder / "results.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def write(
    folder: Path,
    found: Sequence[Result],
    told: str,
    versions: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write the JSON, the drawing, and a page with both tables and rivals' *versions* into *folder*."""
    machine = results.machine()
    where = "{processor}, {cores} cores, {memory_gb} GB, {system}".format(**machine)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(told, "utf-8")
    (folder / "ratios.svg").write_text(plot.draw(found, where), "utf-8")
    page = [
        "# What was measured",
        f"By `python -m tests.benchmarks` on {where}.",
        "![How many times better](ratios.svg)",
        "## Goals",
        "Ratios of two systems in the same round, or figures of the first: the median, and between which\n"
        "values it is with 95 % certainty (of fewer than six rounds, all are between them).",
        results.goals_table(found),
        "## Figures",
        "Medians of the rounds. What each workload and system is, is said in `../workloads.toml`.",
        *filter(None, [results.others(found, versions or {})]),
        results.figures_table(found),
    ]
    (folder / "README.md").write_text("\n\n".join(page) + "\n", "utf-8")


def compare(folder: Path, found: Sequence[Result], before: Sequence[Result], when: str) -> None:
    """Add to the page in *folder* whether the order is that of the run *before*, and say so."""
    told = f"Compared with the run of {when}.\n\n{results.order_table(before, found)}"
    print(told, file=sys.stderr)
    with (folder / "README.md").open("a", encoding="utf-8") as page:
        page.write(f"\n## Again\n\n{told}\n")


def _arguments(plan: Plan, words: Sequence[str] | None) -> argparse.Namespace:
    names = [workload.name for workload in plan.workload]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure this server, servers of others and the bare BatchGenerator in turns.",
        epilog=f"Workloads: {'; '.join(names)}.",
    )
    parser.add_argument("--rounds", type=int, help="at most so many of each workload")
    parser.add_argument("--workload", nargs="+", choices=names, metavar="NAME", help="only these")
    parser.add_argument("--model", choices=MODELS, help="only this one")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results there")
    parser.add_argument(
        "--rivals",
        type=lambda word: Path(word).resolve(),
        metavar="FOLDER",
        help="where vllm-mlx and mlx-openai-server are installed, or will be now (some 7 GB each)",
    )
    return parser.parse_args(words)


def _summary(seen: Figures, reason: str | None) -> str:
    """Return the figures in a few words, and the *reason* of the first failure."""
    why = f" ({reason})" if reason else ""
    if "tokens_per_s" not in seen:
        return f"failed: {seen['failures']:.0f} of {seen['requests']:.0f}{why}"
    said = f"{seen['tokens_per_s']:7.1f} tok/s"
    if "ttft_p50_ms" in seen:
        said += f"  TTFT {seen['ttft_p50_ms']:.0f}/{seen['ttft_p99_ms']:.0f} ms"
    if "gap_p50_ms" in seen:
        said += f"  gap {seen['gap_p50_ms']:.1f}/{seen['gap_p99_ms']:.1f} ms"
    return said + (f"  failed {seen['failures']:.0f}{why}" if seen["failures"] else "")


if __name__ == "__main__":
    main()
