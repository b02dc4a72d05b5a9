"""The benchmark's arithmetic, its workloads, and what its load generator makes of answers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests import environments
from tests.benchmarks import plot, prompts, results, rivals, workloads
from tests.benchmarks.__main__ import (
    WARM_UP,
    Place,
    Progress,
    absences,
    compare,
    earlier,
    main,
    measure,
    write,
)
from tests.benchmarks.load import Answer, Ask, Client, Target, judge, send_all, text_of
from tests.benchmarks.results import Result, Spread, figures, percentile
from tests.benchmarks.rivals import RIVALS, NotInstalled, Rival
from tests.benchmarks.systems import KINDS, NotUp, Other, Run, Setup, end
from tests.benchmarks.workloads import Goal, Plan, System, Workload
from tests.live import free_port, is_alive

PLAN = workloads.read()
PAIR = Workload(
    "w",
    "two systems",
    "question",
    clients=1,
    tokens=4,
    systems=["ours", "bare"],
    goals=[Goal("tokens_per_s", against="bare", at_least=0.97)],
)
SEEN = [
    {"ours": {"tokens_per_s": 90.0}, "bare": {"tokens_per_s": 100.0}},
    {"ours": {"tokens_per_s": 99.0}, "bare": {"tokens_per_s": 100.0}},
    {"ours": {"tokens_per_s": 210.0}, "bare": {"tokens_per_s": 200.0}},
]


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1)]
)
def test_percentile_by_nearest_rank(percent: float, expected: int) -> None:
    """The 99th of a hundred values is the ninety-ninth."""
    assert expected == percentile(list(range(100, 0, -1)), percent)


def test_percentile_of_few_values() -> None:
    """The 99th percentile of a few is the greatest, the median of two the smaller."""
    assert (3, 1) == (percentile([3, 1, 2], 99), percentile([2, 1], 50))


def test_figures_of_a_run() -> None:
    """Failures and unmeasured answers count as requests, and give no times."""
    whole = Answer(
        True, 1.0, first_s=1.1, ended_s=3.0, gaps_s=[0.9, 1.0], n_tokens=3,
        prefill_s=0.095, failure=None,
    )  # fmt: skip
    beside = Answer(False, 0.0, first_s=9.0, ended_s=9.5, n_tokens=7, failure=None)
    lost = Answer(True, 1.0, failure="ConnectionResetError")
    seen = figures(Run([whole, beside, lost], memory_mb=[50.0, 70.0, 60.0], api_cpu_s=0.001))

    assert (3, 1, 10) == (seen["requests"], seen["failures"], seen["tokens"])
    assert pytest.approx(1.5) == seen["tokens_per_s"]
    assert pytest.approx(100) == seen["ttft_p99_ms"]
    assert pytest.approx(1) == seen["ttft_less_5_ms_over_prefill"]
    assert pytest.approx(1000) == seen["gap_p99_ms"]
    assert (70, 10) == (seen["peak_mb"], seen["growth_mb"])
    assert pytest.approx(100) == seen["api_cpu_us_per_token"]


def test_figures_where_nothing_came() -> None:
    """A system that is down has failures, and no other figure."""
    expected = {"requests": 2, "failures": 2, "tokens": 0}

    assert expected == figures(Run([Answer(True, 0.0), Answer(True, 0.0)]))


def test_ratio_is_taken_round_by_round() -> None:
    """The median of the rounds' ratios counts, not the ratio of medians."""
    spread = Result(PAIR, "embedded", SEEN).held(PAIR.goals[0])

    assert spread is not None
    assert pytest.approx((0.9, 0.99, 1.05)) == (spread.low, spread.middle, spread.high)


def test_goals_table() -> None:
    """Each goal has a row that says whether its median reaches it; one never seen says so."""
    met = results.goals_table([Result(PAIR, "embedded", SEEN)])
    unseen = results.goals_table([Result(PAIR, "embedded", [{"ours": {}, "bare": {}}])])

    assert "| >= 0.97 | 0.99 | 0.90 and 1.05 | yes |" in met
    assert "| - | - | not measured |" in unseen


@pytest.mark.parametrize(
    ("n", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (9, 2, 8), (20, 6, 15)]
)
def test_where_the_median_is(n: int, low: int, high: int) -> None:
    """The ranks are those of the tables for the sign test; of few rounds, all are between them."""
    spread = Spread.of([float(value) for value in range(1, n + 1)])

    assert (low, high) == (spread.low, spread.high)


def test_one_round_tells_no_order() -> None:
    """On which side of 1 a median is takes more than one value."""
    assert (0, 1, -1, 0) == (
        Spread.of([1.2]).side,
        Spread.of([1.2, 1.1]).side,
        Spread.of([0.8, 0.9]).side,
        Spread.of([0.9, 1.1]).side,
    )


def test_order_of_two_runs() -> None:
    """Only systems that can be told apart in both runs can come in another order."""
    faster = [
        {"ours": {"tokens_per_s": 110.0 + i}, "bare": {"tokens_per_s": 100.0}} for i in (1, 2)
    ]
    slower = [{"ours": {"tokens_per_s": 90.0 + i}, "bare": {"tokens_per_s": 100.0}} for i in (1, 2)]
    one, other, unsure = (Result(PAIR, "embedded", seen) for seen in (faster, slower, SEEN))

    assert "before: 1; told apart in one of both runs only: 0; in the other order: 0" in (
        results.order_table([one], [one])
    )
    assert "before: 0; told apart in one of both runs only: 1; in the other order: 0" in (
        results.order_table([one], [unsure])
    )
    assert "| w | embedded | ours / bare | 1.12 | 0.92 |" in (results.order_table([one], [other]))


def test_second_run_is_compared_with_the_first(tmp_path: Path) -> None:
    """What a run leaves in its folder is what the next one there reads."""
    found = [Result(PAIR, "embedded", SEEN)]
    assert earlier(tmp_path) is None
    write(tmp_path, found, json.dumps(results.document(found, "2026-01-01T00:00:00+00:00")))
    before = earlier(tmp_path)
    assert before is not None
    compare(tmp_path, found, results.read(before, [PAIR]), before["began_at"])
    page = (tmp_path / "README.md").read_text("utf-8")

    assert "Compared with the run of 2026-01-01" in page
    assert "in the other order: 0" in page


def test_document_has_no_name_of_the_machine() -> None:
    """The JSON describes the machine by what figures depend on."""
    told = results.document([Result(PAIR, "embedded", SEEN)], "2026-01-01T00:00:00+00:00")

    assert {"processor", "cores", "memory_gb", "system", "python"} == set(told["machine"])
    assert told["results"][0]["goals"][0]["met"] is True


def test_plot_is_one_drawing() -> None:
    """The drawing is well-formed, and refers to nothing outside."""
    drawn = plot.draw([Result(PAIR, "embedded", SEEN)], "a <machine>")

    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "href" not in drawn
    assert ">0.99<" in drawn


@pytest.mark.parametrize("workload", PLAN.workload, ids=lambda workload: workload.name)
def test_workload_is_valid(workload: Workload) -> None:
    """Names, kinds, systems and goals of each workload lead somewhere."""
    assert workload.prompts in prompts.KINDS
    assert set(workload.systems) <= set(PLAN.systems)
    assert {PLAN.systems[name].kind for name in workload.systems} <= set(KINDS)
    assert workload.clients == len(workload.measured(0))
    for goal in workload.goals:
        assert goal.against is None or goal.against in workload.systems[1:]
        assert (goal.at_least is None) != (goal.at_most is None)


def test_bare_gets_only_what_it_can_do() -> None:
    """It answers greedily, one ask of each client, all at once."""
    for workload in PLAN.workload:
        if "bare" in workload.systems:
            clients = workload.measured(0)
            assert (workload.sampling, workload.at_once) == ("greedy", None)
            assert all(client.at_s == 0 and len(client.asks) == 1 for client in clients)


def test_disturbing_clients_are_not_measured() -> None:
    """Those that come beside disturb, and their own times do not count."""
    (workload,) = (each for each in PLAN.workload if each.beside)
    (client,) = workload.disturbing(0)

    assert 0 < client.at_s
    assert [False] == [ask.is_measured for ask in client.asks]


def test_texts_differ_between_rounds_and_not_within() -> None:
    """A shared prompt is the same for all clients of a round, and unknown in the next."""
    (workload,) = (each for each in PLAN.workload if each.name == "shared prefix")
    systems = [client.asks[0].messages[0] for client in workload.measured(0)]
    (later,) = (client.asks[0].messages[0] for client in workload.priming(1))

    assert systems[0] == systems[-1]
    assert systems[0] == workload.priming(0)[0].asks[0].messages[0]
    assert systems[0] != later


def test_no_question_was_asked_before() -> None:
    """A cache that knows questions from before would hide what an engine costs."""
    (workload,) = (each for each in PLAN.workload if each.name == "32 clients")
    clients = [*WARM_UP, *workload.measured(0), *workload.measured(1)]
    asked = [client.asks[0].messages[0]["content"] for client in clients]

    assert len(asked) == len(set(asked))


def test_text_is_as_long_as_ordered() -> None:
    """It has the tokens that were asked for, in the built-in model's vocabulary."""
    order = prompts.Order(0, 500, 8, 1, 0, {})
    said = prompts.text(500, order.own())

    assert len(prompts._tokenizer().encode(said).ids) in range(495, 501)


def test_refused_connections_are_failures() -> None:
    """Where nobody listens, each request is a failure with its reason, and nothing is raised."""
    ask = Ask(({"role": "user", "content": "Hello"},), 4)
    answers = asyncio.run(send_all(Target(free_port(), "m"), [Client((ask,))] * 3, limit_s=5))

    assert ["ConnectionRefusedError"] * 3 == [answer.failure for answer in answers]


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", "status 429"),
        (b"HTTP/1.0 200 OK\r\n\r\ndata: [DONE]", "status 200"),
        (
            b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":{"message":"The host \\"x\\"\\nis none.","code":1}}',
            'status 400: The host "x" is none.',
        ),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"usage":{"completion_tokens":7}}', None),
    ],
)
def test_what_counts_as_an_answer(raw: bytes, failure: str | None) -> None:
    """Only a stream that ends with its usage does."""
    answer = Answer(True, 0.0)
    judge(raw, answer)

    assert failure == answer.failure


def test_text_of_a_stream() -> None:
    """The contents of its chunks, whatever stands between them."""
    raw = (
        b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\n\n: hold on\n\n'
        b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\ndata: {"choices":[{"delta":'
        b'{"content":"lo"}}]}\n\ndata: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n'
    )

    assert "Hello" == text_of(raw)


class Steady:
    """A system that gives every client one token."""

    def __init__(self, _setup: Setup) -> None:
        self._is_up = False

    def start(self) -> None:
        """Be up."""
        self._is_up = True

    def stop(self) -> None:
        """Be down."""
        self._is_up = False

    def is_up(self) -> bool:
        """Tell whether it is up."""
        return self._is_up

    def run(self, clients: Sequence[Client], *_: object) -> Run:
        """Answer."""
        return Run([Answer(True, 0.0, 0.5, 1.0, n_tokens=1, failure=None) for _ in clients])


class Refusing(Steady):
    """A system that answers no request but with an error."""

    def run(self, clients: Sequence[Client], *_: object) -> Run:
        """Refuse."""
        return Run([Answer(True, 0.0, failure="status 400: no such host") for _ in clients])


@pytest.mark.parametrize(("system", "failed"), [(Steady, False), (Refusing, True)])
def test_server_that_fails_everything_was_not_measured(
    system: type[Steady],
    failed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first reason stands beside its failures, and the exit status isn't 0."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in KINDS:
        monkeypatch.setitem(KINDS, name, system if name == "ours" else Steady)
    words = ["--workload", "1 client", "--model", "embedded", "--rounds", "1"]
    with pytest.raises(SystemExit) if failed else nullcontext() as ended:
        main(words)
    told = capsys.readouterr().err

    assert failed == ("failed: 1 of 1 (status 400: no such host)" in told)
    if ended is not None:
        assert "every request of: 1 client, embedded, ours" in str(ended.value)


def test_absent_rival_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival that can't be measured has a row that says so, and its reason stands above the table."""
    monkeypatch.setitem(KINDS, "ours", Steady)
    workload = Workload("w", "", "question", clients=1, tokens=4, systems=["ours", "vllm-mlx"])
    plan = Plan({"ours": System("ours"), "vllm-mlx": System("vllm-mlx")}, [workload])
    place = Place(tmp_path, None, absences([RIVALS["vllm-mlx"]], None, tmp_path))
    found = [measure(plan, workload, "embedded", place, 2, Progress(2))]
    (told,) = results.document(found, "2026-01-01T00:00:00+00:00")["results"]

    assert [{"ours"}, {"ours"}] == [set(seen) for seen in found[0].rounds]
    assert "| w | embedded | vllm-mlx | not measured |" in results.figures_table(found)
    assert "- vllm-mlx was not measured: not installed: --rivals names no folder" in (
        results.others(found, {})
    )
    assert ["vllm-mlx"] == list(told["absent"])


def test_versions_of_rivals_are_told(tmp_path: Path) -> None:
    """The page says which release was measured, and on which engine."""
    seen = {"vllm-mlx": {"vllm-mlx": "1.0", "mlx": "2.0", "mlx-lm": "3.0"}}
    write(tmp_path, [Result(PAIR, "embedded", SEEN)], "{}", seen)

    assert "- vllm-mlx 1.0, with mlx 2.0 and mlx-lm 3.0\n" in (
        (tmp_path / "README.md").read_text("utf-8")
    )


def test_rival_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there already is not installed again; on Linux all is but what can't be."""
    asked: list[Sequence[str]] = []
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "r")}))

    def install(folder: Path, words: Sequence[str], timeout_s: float) -> None:
        asked.append(words)
        described = packages / "r-1.0.dist-info" / "METADATA"
        described.parent.mkdir(parents=True, exist_ok=True)
        described.write_text(
            "Metadata-Version: 2.1\nName: r\nVersion: 1.0\nRequires-Dist: Heavy_One>1\n"
            "Requires-Dist: mlx>=1\nRequires-Dist: pytest; extra == 'dev'\n"
        )

    monkeypatch.setattr(environments, "make", lambda *_: None)
    monkeypatch.setattr(environments, "install", install)
    monkeypatch.setattr(sys, "platform", "linux")
    rival = Rival("r", (), not_on_linux=("heavy-one",))
    rivals.set_up(rival, tmp_path)
    rivals.set_up(rival, tmp_path)

    assert [["--no-deps", "r"], ["mlx>=1", rivals.MLX_ON_LINUX]] == asked
    assert {"r": "1.0"} == rivals.versions(rival, tmp_path)


def test_rival_that_cannot_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the last that the installer said."""

    def fail(*_: object) -> None:
        raise AssertionError("pip ended with 1:\nmuch\nERROR: ResolutionImpossible\n")

    monkeypatch.setattr(environments, "make", fail)

    with pytest.raises(NotInstalled, match="can't be installed here: ERROR: ResolutionImpossible"):
        rivals.set_up(RIVALS["vllm-mlx"], tmp_path)


def test_rival_that_ends_at_once(tmp_path: Path) -> None:
    """It isn't waited for, and the last line of its log is the reason."""
    rival = Rival("r", ("-c", "raise SystemExit('no such model {model}')"), is_here=True)
    system = Other(rival, Setup(Path("m"), 8, {}, tmp_path))

    with pytest.raises(NotUp, match="r ended: no such model m"):
        system.start()


@pytest.mark.parametrize("rival", RIVALS.values(), ids=lambda rival: rival.name)
def test_rival_has_as_many_rows_as_ours(rival: Rival) -> None:
    """Model, port and rows are all in the command, and nothing is left to fill in."""
    words = rival.words(Path("a model"), 4321, 64)

    assert {"a model", "4321", "64"} < set(words)
    assert not [word for word in words if "{" in word]


def test_end_leaves_no_child() -> None:
    """A server that works in a process below it leaves none of both."""
    below = "import time; time.sleep(60)"
    above = f"""if True:
        import subprocess, sys, time
        print(subprocess.Popen([sys.executable, "-c", {below!r}]).pid, flush=True)
        time.sleep(60)
    """
    process = psutil.Popen([sys.executable, "-c", above], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(process.stdout.readline()))
    end(process)
    child.wait(5)

    assert not is_alive(process.pid)


def test_system_has_fields_of_its_own() -> None:
    """They come on top of what the workload asks for."""
    (workload,) = (each for each in PLAN.workload if each.name == "8 with a repetition penalty")
    clients = workload.measured(0)
    penalised, plain = (PLAN.systems[name].asked(clients) for name in workload.systems)

    assert plain == clients
    assert {**clients[0].asks[0].fields, "repetition_penalty": 1.1} == penalised[0].asks[0].fields
    assert clients[0].asks[0].messages == penalised[0].asks[0].messages
