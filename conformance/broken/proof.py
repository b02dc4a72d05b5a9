"""
The proof of the suite: `python -m conformance.broken.proof [--all] [FAULT ...]`.

For each fault it shows four things, or says which of them doesn't hold:

1. the fault is there: the server's transcript differs from the correct one's;
2. it is found: its own requirement comes out as FAIL or WARN;
3. nothing else is blamed: outside of the collateral that it declares, all is as without it;
4. the collateral is true: each requirement that it declares is broken, too.

A problem counts when it is there twice, the second time with the machine to itself.

A server that is right but different, of `different`, has to be found right in all of its runs.

And for all of them together: no requirement is without a fault, and no check without one that
makes it fail. A correct server passes everything, and no profile checks what belongs to another.
The score is what was shown, out of all that had to be.

Faults that can only be seen in a network of their own are left out where that isn't allowed.

Without the names of faults it takes all of them where `conformance/` or `contracts/` are others
than those that `proved.txt` records, or with `--all`; and else a sample, one of each area. A
sample shows nothing for the faults together; the first line says that it is one, and the last
that it is a part.
"""

import argparse
import gc
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

import pytest

from conformance import catalogue, launch, secluded
from conformance.broken import different, forked, proved
from conformance.broken import fault as faults
from conformance.broken.fault import Fault
from conformance.broken.transcript import PROBES, QUICK_S, difference, transcript
from conformance.reports.shape import Report
from conformance.verdicts import ENGINE_ERROR, FAIL, INAPPLICABLE, PASS, WARN

TITLE = "Show that the suite finds each fault, and blames nothing else."
SUITE = Path(__file__).parent.parent
CORRECT = "the correct server"
BROKEN = {FAIL, WARN, ENGINE_ERROR}
PRIVATE = ("TIER3A_BASE_URL", "PYTEST_ADDOPTS")
N_AT_ONCE = 10  # they mostly wait
N_BESIDE = 4
N_FIRST = 100
N_TAKES = 6
EARLY = 0.7
TURNED = {"CFG", "QUEUE", "WARM"}
PYTEST = (
    *("-q", "-s", "--assert=plain", "--tb=native"),
    *("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "no:logging"),
)


class Run(NamedTuple):
    """
    One way to run the suite.

    Attributes:
        profiles: what is asked for.
        areas: whose files of checks; all where there are none.
        flags: what brings the server into the state that the profiles are about, or hurries it.
    """

    profiles: tuple[str, ...]
    areas: tuple[str, ...] = ()
    flags: str = ""


SURFACE = (
    *("PARAM", "TOOLS", "SCHEMA", "LOGP", "THINK", "IMG"),
    *("EMB", "COMPL", "RESP", "MSG", "TOK"),
)
CHAT = ("OAI", "SHAPE", *SURFACE)
LOGGED = ("LOG", "RID", "PT")
RUNS = {
    "as it is": Run(("wire", "startup")),
    "its surface": Run(("wire", "openai"), areas=CHAT, flags=f"--token-s {QUICK_S}"),
    "held back": Run(("notready",), flags="--model-path /no/such/model"),
    "its options": Run(("managed",), areas=("CFG", "QUEUE", "WARM", "DISC")),
    "its ways": Run(("managed",), areas=("LOCAL",)),
    "its log": Run(("managed",), areas=LOGGED),
    "its ids": Run(("openai",), areas=("RID", "PT", *SURFACE), flags=f"--token-s {QUICK_S}"),
    "under load": Run(("stress",)),
    "anybody's": Run(("openai-api",), flags=f"--token-s {QUICK_S}"),
}


@dataclass(frozen=True)
class Task:
    """One run of the suite against one server; without a run, a look at its transcript."""

    server: str
    run: str = ""


@dataclass
class Result:
    """
    What came of a task.

    Attributes:
        verdicts: each requirement's verdict.
        failed: the checks that didn't pass, as test and requirement.
        passed: those that did.
        strays: the rows and checks that belong to none of the run's profiles.
        evidence: how the transcript differs from the correct one; empty where it doesn't.
        noise: what the suite printed where it wrote no report.
    """

    task: Task
    verdicts: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    strays: set[str] = field(default_factory=set)
    evidence: str = ""
    noise: str = ""


def runs_of(fault: Fault) -> list[str]:
    """Return the runs that a fault can show in."""
    row = catalogue.load()[fault.breaks]
    covering = {name for name, run in RUNS.items() if set(run.profiles) & set(row.profiles)}
    covering -= {"its options"} if row.area in LOGGED else {"its log", "its ids"}
    covering -= {"its options"} if row.area == "LOCAL" else {"its ways"}
    covering -= set() if row.area in CHAT else {"its surface"}
    covering -= {"anybody's"} if len(row.profiles) > 1 else set()
    return [name for name in RUNS if name in covering]


def command(server: str) -> list[str]:
    """Return the words that start a server, right or wrong."""
    words = [sys.executable, "-m", "conformance.broken"]
    if server == CORRECT:
        return [*words, "--port", "{port}"]
    if server in different.load():
        return [*words, "--right", server, "--port", "{port}"]
    words += ["--fault", server]
    if faults.load()[server].server.port_by_variable:
        return ["env", "SERVER_PORT={port}", *words]
    return [*words, "--port", "{port}"]


def look(task: Task, expected: dict[str, str]) -> Result:
    """Compare a fault's transcript with the correct server's, most telling probes first."""
    order = sorted(PROBES, key=partial(is_unlikely, task.server))
    return Result(task, evidence=difference(command(task.server), expected, order))


def is_unlikely(server: str, probe: str) -> bool:
    """Guess that a fault won't show in a probe; that is for the order only."""
    area = faults.load()[server].breaks.partition("-")[0]
    if area in TURNED:
        return probe != "options" and probe.lower().replace("_", "-") not in server
    return probe != ("surface" if area in SURFACE else "requests")


def run_suite(task: Task) -> Result:
    """Run the suite as its users do, and read its report; the process is a fork of its own."""
    run = RUNS[task.run]
    with tempfile.TemporaryDirectory() as folder:
        written, output = Path(folder) / "report.json", Path(folder) / "output"
        words = " ".join([*command(task.server), *run.flags.split()])
        options = [*PYTEST, "--launch", words]
        options += ["--report-json", str(written)]
        # In pytest's usual one, each of those that run at once would tidy up what others are at.
        options += ["--basetemp", str(Path(folder) / "temporary")]
        options += [word for profile in run.profiles for word in ("--profile", profile)]
        with output.open("w") as sink, redirect_stdout(sink), redirect_stderr(sink):
            pytest.main([*paths_of(run), *options])
        if not written.exists():
            return Result(task, noise=output.read_text()[-2000:])
        return read(task, json.loads(written.read_text()))


def prepare() -> None:
    """Import the suite and all faults once, so that each run and each server begins with them."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in PRIVATE:
        os.environ.pop(name, None)
    if forked.CAN_FORK:
        launch.spawn = forked.fork
    faults.load()
    with open(os.devnull, "w") as sink, redirect_stdout(sink):
        pytest.main([str(SUITE), *PYTEST, "--collect-only"])
    gc.disable()  # a run is over before it matters, and what is shared with forks stays shared


def paths_of(run: Run) -> list[str]:
    """Return what pytest is to collect; it looks at a folder once, but once more for each file."""
    others = [area for area in catalogue.areas() if run.areas and area.name not in run.areas]
    return [str(SUITE), *(f"--ignore={SUITE / area.checks}" for area in others)]


def read(task: Task, report: Report) -> Result:
    """Return what a report says, as far as the proof goes."""
    result = Result(task)
    asked = {*RUNS[task.run].profiles}
    for row in report["requirements"]:
        result.strays |= set() if asked & {*row["profiles"]} else {row["id"]}
        result.strays |= {each["id"] for each in row["checks"] if each["profile"] not in asked}
    for row in (row for row in report["requirements"] if row["checks"]):
        result.verdicts[row["id"]] = row["verdict"]
        for each in row["checks"]:
            name = f"{each['test'].partition('[')[0]} {row['id']}"
            (result.failed if each["verdict"] in BROKEN else result.passed).add(name)
    return result


def gather(names: list[str]) -> list[Result]:
    """
    Do all tasks for the correct server and the faults in *names*, a few side by side.

    The first are such as need not know what the correct server shows, while that is found out.
    """
    known = faults.load()
    wrong = [name for name in names if name in known]
    tasks = [Task(CORRECT, run) for run in RUNS] + [Task(name) for name in wrong]
    tasks += [Task(name, run) for name in wrong for run in runs_of(known[name])]
    others = different.load()
    tasks += [Task(name, run) for name in names if name in others for run in others[name].runs]
    tasks = mixed(tasks)
    first = [task for task in tasks[:N_FIRST] if task.run]
    progress = Progress(len(tasks) + 1)
    with _pool(N_AT_ONCE) as pool:
        begun = pool.imap_unordered(run_suite, first)
        expected, unsettled = transcript_of_correct()
        left = [task for task in tasks if task not in first]
        doing = chain(begun, pool.imap_unordered(partial(do, expected=expected), left))
        results = [progress.count(done) for done in doing]
    return [*results, progress.count(Result(Task(CORRECT), evidence=unsettled))]


def do(task: Task, expected: dict[str, str]) -> Result:
    """Do one task, of either kind."""
    return run_suite(task) if task.run else look(task, expected)


def mixed(tasks: list[Task]) -> list[Task]:
    """
    Spread each kind of task evenly, so that those that wait are beside those that compute.

    The longest are over early, since nothing would be left to do beside the last of them.
    """
    kinds = [[task for task in tasks if task.run == run] for run in ("", *RUNS)]
    places = {task: at / len(kind) for kind in kinds for at, task in enumerate(kind)}
    places |= {task: EARLY * at for task, at in places.items() if task.run == "its options"}
    return sorted(tasks, key=lambda task: places[task])


def _pool(n_at_once: int) -> Pool:
    """
    Return processes that do one task each, and so begin each like the first.

    Where they are no forks, see `forked`, each has to prepare itself.
    """
    if forked.CAN_FORK:
        return multiprocessing.get_context("fork").Pool(n_at_once, maxtasksperchild=1)
    return multiprocessing.get_context("spawn").Pool(n_at_once, prepare, maxtasksperchild=1)


def transcript_of_correct() -> tuple[dict[str, str], str]:
    """Return what the correct server shows twice, and what of it never came twice in a few takes."""
    shown: dict[str, Counter[str]] = {}
    doubtful = set(PROBES)
    with _pool(N_BESIDE) as pool:
        for n_takes in (2, *[1] * (N_TAKES - 2)):
            for key, seen in chain(*pool.imap(tell, sorted(doubtful) * n_takes)):
                shown.setdefault(key, Counter())[seen] += 1
            unsettled = {key for key, each in shown.items() if max(each.values()) < 2}
            doubtful = {key.partition(":")[0] for key in unsettled}
    expected = {key: each.most_common(1)[0][0] for key, each in shown.items()}
    return expected, "; ".join(f"{key}: {expected[key]!r}" for key in sorted(unsettled))


def tell(probe: str) -> list[tuple[str, str]]:
    """Return one probe's part of the correct server's transcript."""
    return list(transcript(command(CORRECT), [probe]))


def once_more(found: dict[str, list[str]], results: list[Result]) -> None:
    """Run the suite again, one at a time, on servers with problems: load may have been the cause."""
    doubtful = [name for name, problems in found.items() if problems]
    known, others = faults.load(), different.load()
    runs = {name: runs_of(known[name]) for name in doubtful if name in known}
    runs |= {name: list(others[name].runs) for name in doubtful if name in others}
    runs |= {CORRECT: list(RUNS)} if CORRECT in doubtful else {}
    looks = [result for result in results if not result.task.run]
    with _pool(1) as alone:
        tasks = [Task(name, run) for name in runs for run in runs[name]]
        again = [*alone.map(run_suite, tasks, chunksize=1), *looks]
    found |= {name: problems_with(name, again) for name in doubtful}


class Progress:
    """Says how much is done: on a terminal in one line, elsewhere in one for each tenth."""

    def __init__(self, n_tasks: int) -> None:
        self._n_tasks = n_tasks
        self._began_s = time.monotonic()
        self._n_done = 0

    def count(self, done: Result) -> Result:
        """Count one task and hand its result on."""
        self._n_done += 1
        told = f"{self._n_done} of {self._n_tasks}"
        if sys.stderr.isatty():
            print(f"\r{told}", end="", file=sys.stderr, flush=True)
        elif 10 * self._n_done // self._n_tasks > 10 * (self._n_done - 1) // self._n_tasks:
            print(f"{told}, {time.monotonic() - self._began_s:.0f} s", file=sys.stderr, flush=True)
        return done


def problems_of(fault: Fault, results: list[Result]) -> Iterator[str]:
    """Say what isn't as a fault demands."""
    own = [result for result in results if result.task.server == fault.name]
    verdicts = [pair for result in own for pair in result.verdicts.items()]
    broken = {row for row, verdict in verdicts if verdict in BROKEN}
    noise = "".join(result.noise for result in own)
    if noise:
        yield f"no report: {noise}"
    if not any(result.evidence for result in own):
        yield "it can't be seen on the wire"
    if fault.breaks not in broken:
        yield f"{fault.breaks} isn't found"
    if blamed := sorted(broken - {fault.breaks} - fault.also):
        yield f"beyond its collateral: {', '.join(blamed)}"
    if spared := sorted(fault.also - broken):
        yield f"declared as collateral, but not broken: {', '.join(spared)}"


def problems_of_correct(results: list[Result]) -> Iterator[str]:
    """Say what the correct server doesn't pass, or was never asked."""
    own = [result for result in results if result.task.server == CORRECT]
    asked = {row for result in own for row in result.verdicts}
    for row in catalogue.load().values():
        if not row.excluded and row.id not in asked:
            yield f"{row.id} was never checked"
    for result in own:
        if result.evidence:
            yield f"its transcript isn't the same twice: {result.evidence}"
        if result.noise:
            yield f"{result.task.run}: no report: {result.noise}"
        if result.strays:
            yield f"{result.task.run}: of no such profile: {', '.join(sorted(result.strays))}"
        for row_id, verdict in result.verdicts.items():
            if verdict != PASS:
                yield f"{result.task.run}: {row_id} is {verdict}"


def problems_of_right(name: str, results: list[Result]) -> Iterator[str]:
    """Say what is found in a server that is right."""
    for result in (result for result in results if result.task.server == name):
        if result.noise:
            yield f"{result.task.run}: no report: {result.noise}"
        for row_id, verdict in result.verdicts.items():
            if verdict not in {PASS, INAPPLICABLE}:
                yield f"{result.task.run}: {row_id} is {verdict}"


def problems_with(name: str, results: list[Result]) -> list[str]:
    """Return what doesn't hold for a server: the correct one, one that is different, or wrong."""
    if name == CORRECT:
        return list(problems_of_correct(results))
    if name in different.load():
        return list(problems_of_right(name, results))
    return list(problems_of(faults.load()[name], results))


def problems_of_all(results: list[Result]) -> Iterator[str]:
    """Say which requirements no fault breaks, and which checks none makes fail."""
    rows = {row.id for row in catalogue.load().values() if not row.excluded}
    for row_id in sorted(rows - {fault.breaks for fault in faults.load().values()}):
        yield f"{row_id} has no fault"
    failed = {name for result in results for name in result.failed}
    passed = {name for result in results for name in result.passed}
    for name in sorted(passed - failed):
        yield f"{name}: no fault makes it fail"


def provable() -> list[str]:
    """Return the names of the servers, wrong or different, that can be seen on this machine."""
    is_had = secluded.can_be_had()
    wrong = [
        each.name for each in faults.load().values() if is_had or not each.server.needs_seclusion
    ]
    return [*wrong, *different.load()]


def sample() -> list[str]:
    """Return the name of one fault of each area, another by chance each time."""
    areas: dict[str, list[str]] = {}
    for fault in (known for name, known in faults.load().items() if name in provable()):
        areas.setdefault(fault.breaks.partition("-")[0], []).append(fault.name)
    chosen_ones = [random.choice(names) for names in areas.values()]
    return [*chosen_ones, random.choice(list(different.load()))]


def chosen(options: argparse.Namespace, digest: str) -> list[str]:
    """Return the names of the faults to prove: those asked for, a sample, or all."""
    if options.faults:
        return [str(name) for name in options.faults]
    if options.all or digest != proved.recorded():
        return provable()
    names = sample()
    print(
        f"a sample, as nothing changed since the whole was proved (--all proves it anew): "
        f"{' '.join(names)}",
        flush=True,
    )
    return names


def problems_found(names: list[str], results: list[Result]) -> dict[str, list[str]]:
    """Return what doesn't hold, by fault, for the correct server, and for all faults together."""
    found = {name: problems_with(name, results) for name in (CORRECT, *names)}
    once_more(found, results)
    if len(names) == len(provable()):
        found["the whole"] = list(problems_of_all(results))
    return found


def main(words: list[str]) -> int:
    """Prove the suite, or some faults of it; print what was shown and return the exit status."""
    parser = argparse.ArgumentParser(prog="conformance.broken.proof", description=TITLE)
    parser.add_argument("faults", nargs="*", help="names of faults; without any, see --all")
    parser.add_argument(
        "--all", action="store_true", help="all, even if proved.txt knows these files"
    )
    digest = proved.digest()
    asked = parser.parse_args(words)
    if unknown := set(asked.faults) - {*faults.load(), *different.load()}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    names = chosen(asked, digest)
    began_s = time.monotonic()
    prepare()
    results = gather(names)
    found = problems_found(names, results)
    for name, problems in found.items():
        for problem in problems:
            print(f"{name}: {problem}", flush=True)
    n_shown = sum(not problems for problems in found.values())
    n_checks = len({name for result in results for name in result.passed | result.failed})
    is_whole = len(names) == len(provable())
    print(
        f"proved {n_shown} of {len(found)} ({100 * n_shown / len(found):.1f} %)"
        f"{'' if is_whole else ' of a part'}: "
        f"{len(names)} of {len(faults.load()) + len(different.load())} servers, "
        f"{n_checks} checks, {time.monotonic() - began_s:.0f} s"
    )
    if n_shown < len(found):
        return 1
    if is_whole and digest != proved.recorded():
        print(f"to record it: echo {digest} > conformance/broken/{proved.RECORD.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
