"""
One engine process after another, kept alive and told apart from its death.

The engine is `fake_engine.py`: a real process that speaks the real protocol, without a model.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from service.errors import (
    EngineDied,
    InternalError,
    InvalidRequest,
    ModelNotReady,
    PromptTooLong,
    ServiceError,
    ShuttingDown,
)
from service.fleet import supervisor as module
from service.fleet.lifecycle import Lifecycle, State
from service.fleet.supervisor import Supervisor
from service.fleet.ticket import Ticket
from service.protocol import Chat, Job, Load, Sampling, Text, Tokens, Turn
from service.telemetry import Metrics

FAKE = Path(__file__).parent / "fake_engine.py"
LOAD = Load(None, None, 8, True, "INFO")
S, L, W, R, D, E, F = (
    State.STARTING,
    State.LOADING,
    State.WARMING,
    State.READY,
    State.DRAINING,
    State.STOPPED,
    State.FAILED,
)
LIMIT_S = 15.0


class Remembering(Lifecycle):
    """
    A lifecycle that remembers its way.

    Attributes:
        passed: every state it has been in, the present one last.
        reasons: the reason given for each.
    """

    def __init__(self) -> None:
        super().__init__(warmup_enabled=True)
        self.passed = [self.state]
        self.reasons = [self.reason]
        self._awaited: dict[State, asyncio.Event] = {}

    async def comes_to(self, state: State) -> None:
        """Return in the turn after the one in which *state* is reached."""
        if self.state is not state:
            await self._awaited.setdefault(state, asyncio.Event()).wait()

    def _move(self, to: State, reason: str | None) -> None:
        super()._move(to, reason)
        self.passed.append(to)
        self.reasons.append(reason)
        if awaited := self._awaited.pop(to, None):
            awaited.set()

    def explained(self, reason: str) -> None:
        """Remember the reason as well that comes later."""
        super().explained(reason)
        self.reasons.append(reason)


class House:
    """
    A supervisor over fake engines, and what is to be seen of it.

    Attributes:
        supervisor: what is tested.
        model: its model's states.
    """

    def __init__(
        self,
        journal: Path,
        word: str = "normal",
        *,
        stall_s: float = 60.0,
        load_s: float = 60.0,
        memory_bytes: int | None = None,
        pauses_s: Sequence[float] = (0.01,),
        command: Sequence[str] | None = None,
    ) -> None:
        self.model = Remembering()
        self._journal = journal
        self._metrics = Metrics()
        self.supervisor = Supervisor(
            LOAD,
            self.model,
            self._metrics,
            command=command or [sys.executable, str(FAKE), word, str(journal)],
            stall_s=stall_s,
            load_s=load_s,
            memory_bytes=memory_bytes,
            pauses_s=pauses_s,
        )

    @property
    def heard(self) -> list[str]:
        """What the engines wrote into their journal."""
        return self._journal.read_text("utf-8").splitlines() if self._journal.exists() else []

    @property
    def pids(self) -> list[int]:
        """Every engine process that was born, in order."""
        return [int(line.split()[1]) for line in self.heard if line.startswith("born")]

    @property
    def n_deaths(self) -> int:
        """Deaths that were counted."""
        return self.supervisor.n_deaths

    def metric(self, name: str) -> float | None:
        """Return the value of a counter."""
        labels = {"model": "fake/engine"}
        return self._metrics.registry.get_sample_value(f"tier3a_{name}_total", labels)

    def submit(self, *texts: str) -> Ticket:
        """Send one job for each of *texts*, its last turn."""
        return self.supervisor.submit([Job(Chat((Turn("user", text),))) for text in texts])


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is more than a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], object]) -> None:
    """Wait for *condition*, for real processes take their time."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 (what changes is another process)
            await asyncio.sleep(0.005)


async def until_state(house: House, state: State) -> None:
    """Wait until the model is in *state*."""
    async with asyncio.timeout(LIMIT_S):
        await house.model.comes_to(state)


@contextlib.asynccontextmanager
async def running(house: House) -> AsyncIterator[House]:
    """Start *house* and stop it in the end; no process may be left, and nothing may have broken."""
    house.supervisor.start()
    (keeper,) = (task for task in asyncio.all_tasks() if task.get_name() == "supervisor")
    try:
        yield house
    finally:
        async with asyncio.timeout(LIMIT_S):
            await house.supervisor.stop()
    assert [] == [pid for pid in house.pids if is_alive(pid)]
    assert State.STOPPED is house.model.state
    assert keeper.cancelled() or keeper.exception() is None


async def outcome(ticket: Ticket, idle_s: float = LIMIT_S) -> tuple[list[str], ServiceError | None]:
    """Read *ticket* to its end; return its texts and the error that ended it, if one did."""
    texts: list[str] = []
    try:
        async with asyncio.timeout(LIMIT_S):
            await ticket.accepted()
            async for delta in ticket.deltas(idle_s):
                assert delta is not None
                texts.append(delta.text)
    except ServiceError as error:
        return texts, error
    return texts, None


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The file that all engines of a test write to."""
    return tmp_path / "journal"


@pytest.fixture(autouse=True)
def unhandled() -> Iterator[list[str]]:
    """No task may end in an exception that nobody hears of; asyncio would log it."""
    heard: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    handler = Keep(logging.ERROR)
    logging.getLogger("asyncio").addHandler(handler)
    yield heard
    gc.collect()  # what was left open, or ended unheard, shows in this very test
    logging.getLogger("asyncio").removeHandler(handler)
    assert [] == heard


# ---------------------------------------------------------------- a good life


def test_states_when_all_goes_well(journal: Path) -> None:
    """From the start through loading and warm-up to ready, and in order to the end."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            assert State.STARTING is house.model.state
            await until_state(house, R)
            assert house.model.is_ready

    asyncio.run(scenario())

    assert [S, L, W, R, D, E] == house.model.passed
    assert 1 == len(house.pids)
    assert 0 == house.n_deaths


def test_job_when_answered(journal: Path) -> None:
    """Its deltas reach its ticket in order, and its tokens are counted."""
    house = House(journal)

    async def scenario() -> tuple[tuple[int, ...], list[str]]:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("one two three")
            n_prompt_tokens = await ticket.accepted()
            texts = [delta.text async for delta in ticket.deltas(LIMIT_S) if delta is not None]
            return n_prompt_tokens, texts

    assert ((3,), ["one", "two", "three"]) == asyncio.run(scenario())
    assert (3, 3) == (house.metric("prompt_tokens"), house.metric("completion_tokens"))


def test_jobs_when_many_at_once(journal: Path) -> None:
    """Each ticket gets its own answer and nothing of another's."""
    house = House(journal)

    async def scenario() -> list[tuple[list[str], ServiceError | None]]:
        async with running(house):
            await until_state(house, R)
            tickets = [house.submit(f"a{i} b{i} c{i}") for i in range(50)]
            assert 50 == len({number for ticket in tickets for number in ticket.numbers})
            return await asyncio.gather(*map(outcome, tickets))

    expected = [([f"a{i}", f"b{i}", f"c{i}"], None) for i in range(50)]

    assert expected == asyncio.run(scenario())


def test_jobs_of_one_request(journal: Path) -> None:
    """Several answers to one request come on one ticket, each under its index."""
    house = House(journal)

    async def scenario() -> tuple[tuple[int, ...], list[tuple[int, str]]]:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("a b", "c", "d e f")
            lengths = await ticket.accepted()
            found = [(ticket.index_of(d), d.text) async for d in ticket.deltas(LIMIT_S) if d]
            assert 0 == house.supervisor.n_owed
            return lengths, found

    lengths, found = asyncio.run(scenario())

    assert (2, 1, 3) == lengths
    assert [(0, "a"), (0, "b"), (1, "c"), (2, "d"), (2, "e"), (2, "f")] == sorted(found)
    assert (6, 6) == (house.metric("prompt_tokens"), house.metric("completion_tokens"))


@pytest.mark.parametrize("bad", ["REJECT", "FAIL"])
def test_jobs_of_one_request_when_one_goes_wrong(bad: str, journal: Path) -> None:
    """The request has failed; closing it stops the others, and leaves nothing behind."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("BEGIN", bad, "BEGIN")
            _, error = await outcome(ticket)
            assert isinstance(error, InvalidRequest if bad == "REJECT" else InternalError)
            ticket.close()
            ticket.close()
            assert 2 == house.supervisor.n_owed  # cancels, which the engine has not answered yet
            assert (["later"], None) == await outcome(house.submit("later"))
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())

    assert ["Cancel 1", "Cancel 3", "Submit 4"] == house.heard[5:]


def test_questions_about_tokens(journal: Path) -> None:
    """A prompt becomes tokens and tokens a text, beside jobs and each other."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            job = house.submit("fine")
            hello, text, none = await asyncio.gather(
                house.supervisor.tokenize(Text("hé")),
                house.supervisor.detokenize((104, 195, 169)),
                house.supervisor.tokenize(Tokens(())),
            )
            assert ((104, 195, 169), (b"h", b"\xc3", b"\xa9")) == (hello.ids, hello.pieces)
            assert ("hé", ()) == (text, none.ids)
            assert (["fine"], None) == await outcome(job)
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())


def test_vectors_and_scores(journal: Path) -> None:
    """They come whole, or the refusal does, with the input that is at fault; nothing is left behind."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            found = await house.supervisor.embed((Text("hé"),))
            scored = await house.supervisor.score(("a",), ("b", "cde"), ("query", "documents"))
            with pytest.raises(InvalidRequest):
                await house.supervisor.embed((Text("REJECT"),))
            assert (("hé".encode(),), (1.0, 3.0)) == (found.vectors, scored.scores)
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())


def test_end_waits_for_what_is_being_read(journal: Path) -> None:
    """A request for vectors gets its time to finish, as an answer does, and then its error."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            asking = asyncio.create_task(house.supervisor.embed((Text("SILENT"),)))
            await asyncio.sleep(0)
            begun_s = time.monotonic()
            await house.supervisor.drain(0.2)
            with pytest.raises(ShuttingDown):
                await asking
            assert time.monotonic() - begun_s >= 0.2

    asyncio.run(scenario())


def test_question_when_it_is_refused_or_breaks(journal: Path) -> None:
    """The engine's refusal is the caller's error, its fault is ours; neither leaves anything behind."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            for text, error in (("REJECT", InvalidRequest), ("FAIL", InternalError)):
                with pytest.raises(error):
                    await house.supervisor.tokenize(Text(text))
            assert 0 == house.supervisor.n_owed
            assert "ok" == await house.supervisor.detokenize((111, 107))

    asyncio.run(scenario())


def test_question_when_nobody_answers(journal: Path) -> None:
    """A hung engine is found out by a question, too; whoever asked is told that it died."""
    house = House(journal, stall_s=0.3)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            with pytest.raises(EngineDied):
                await asyncio.wait_for(house.supervisor.tokenize(Text("SILENT")), LIMIT_S)
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())


def test_question_when_whoever_asked_is_gone(journal: Path) -> None:
    """The engine is told to forget it; an answer that comes too late is nobody's, and breaks nothing."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            asking = asyncio.create_task(house.supervisor.tokenize(Text("a")))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            assert (["later"], None) == await outcome(house.submit("later"))
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())


def test_question_before_there_is_an_engine(journal: Path) -> None:
    """Too early is told as such."""
    house = House(journal, "slow-load")

    async def scenario() -> None:
        async with running(house):
            await until_state(house, L)
            with pytest.raises(ModelNotReady):
                await house.supervisor.tokenize(Text("a"))

    asyncio.run(scenario())


def test_job_when_rejected(journal: Path) -> None:
    """The engine's refusal is the caller's error, with place and code."""
    house = House(journal)

    async def scenario() -> ServiceError | None:
        async with running(house):
            await until_state(house, R)
            return (await outcome(house.submit("REJECT")))[1]

    error = asyncio.run(scenario())

    assert isinstance(error, PromptTooLong)
    assert (400, "messages", "context_length_exceeded") == (error.status, error.param, error.code)
    assert (5000, 4095) == (error.n_tokens, error.max_tokens)


def test_job_when_it_breaks(journal: Path) -> None:
    """A job that breaks costs itself alone: the next one is answered by the same process."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            texts, error = await outcome(house.submit("FAIL"))
            assert isinstance(error, InternalError)
            assert ["x"] == texts
            assert (["fine"], None) == await outcome(house.submit("fine"))

    asyncio.run(scenario())

    assert 1 == len(house.pids)


@pytest.mark.parametrize("text", ["SILENT", "BEGIN"])
def test_close_before_the_finish(text: str, journal: Path) -> None:
    """A ticket closed early tells the engine to stop, once, however often it is closed."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit(text)
            if text == "BEGIN":
                await ticket.accepted()
            ticket.close()
            ticket.close()
            assert (["later"], None) == await outcome(house.submit("later"))

    asyncio.run(scenario())

    assert ["Submit 1", "Cancel 1", "Submit 2"] == house.heard[2:]


@pytest.mark.parametrize("text", ["done and over", "REJECT", "FAIL"])
def test_close_after_the_end(text: str, journal: Path) -> None:
    """A ticket that is over, well or badly, is closed without a word to the engine."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit(text)
            await outcome(ticket)
            ticket.close()
            assert (["later"], None) == await outcome(house.submit("later"))

    asyncio.run(scenario())

    assert ["Submit 1", "Submit 2"] == house.heard[2:]


def test_close_after_the_engine_has_died(journal: Path) -> None:
    """A ticket of a former life is closed without a word to the new engine."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("DIE")
            await outcome(ticket)
            await until(lambda: len(house.pids) == 2 and house.model.state is R)
            ticket.close()
            assert (["later"], None) == await outcome(house.submit("later"))

    asyncio.run(scenario())

    assert [] == [line for line in house.heard if line.startswith("Cancel")]


def test_submit_before_there_is_an_engine(journal: Path) -> None:
    """Too early is told as such, with a time to come again."""
    house = House(journal, "slow-load")

    async def scenario() -> list[ModelNotReady]:
        errors = []
        async with running(house):
            for state in (S, L):
                await until_state(house, state)
                with pytest.raises(ModelNotReady) as caught:
                    house.submit("x")
                errors.append(caught.value)
        return errors

    for error in asyncio.run(scenario()):
        assert 503 == error.status
        assert error.retry_after_s


def test_submit_while_warming_up(journal: Path) -> None:
    """While warm-up runs, requests are taken."""
    house = House(journal, "warmup-hangs")

    async def scenario() -> None:
        async with running(house):
            await until_state(house, W)
            house.submit("x").close()

    asyncio.run(scenario())


def test_warmup_when_it_fails(journal: Path) -> None:
    """The model serves all the same, and the reason says that warm-up failed."""
    house = House(journal, "warmup-fails")

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            assert (False, False) == (house.model.is_ready, house.model.warmup_completed)
            assert "RuntimeError" in (house.model.reason or "")
            assert (["fine"], None) == await outcome(house.submit("fine"))

    asyncio.run(scenario())


# ---------------------------------------------------------------- deaths


@pytest.mark.parametrize("text", ["DIE", "BEGIN", "SILENT"])
def test_engine_that_dies_with_jobs(text: str, journal: Path) -> None:
    """All its tickets fail at once, another process takes over, and it answers."""
    house = House(journal)

    async def scenario() -> list[tuple[list[str], ServiceError | None]]:
        async with running(house):
            await until_state(house, R)
            tickets = [house.submit("SILENT"), house.submit("BEGIN"), house.submit(text)]
            await until(lambda: "Submit 3" in house.heard)
            if text != "DIE":
                os.kill(house.pids[0], signal.SIGKILL)
            began_s = time.perf_counter()
            ends = await asyncio.gather(*map(outcome, tickets))
            assert time.perf_counter() - began_s < 1
            await until(lambda: len(house.pids) == 2 and house.model.state is R)
            assert (["again"], None) == await outcome(house.submit("again"))
            return ends

    ends = asyncio.run(scenario())

    assert [(EngineDied, "engine_died")] * 3 == [
        (type(error), error.code if error else None) for _, error in ends
    ]
    assert [S, L, W, R, F, S, L, W, R, D, E] == house.model.passed
    assert 1 == house.n_deaths
    assert any("SIGKILL" in (reason or "") for reason in house.model.reasons)


@pytest.mark.parametrize("text", ["HANG UP", "BABBLE", "DIE"])
def test_link_that_ends_is_the_engine_s_end(
    text: str, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state and every ticket know it in one turn, however long the process then takes to end."""
    monkeypatch.setattr(module, "EXIT_S", 2.0)
    house = House(journal)

    async def read(ticket: Ticket) -> tuple[type[ServiceError | None], State]:
        _, error = await outcome(ticket)
        return type(error), house.model.state

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            asking = asyncio.create_task(house.supervisor.tokenize(Text("SILENT")))
            tickets = [house.submit("SILENT"), house.submit("BEGIN"), house.submit(text)]
            began_s = time.perf_counter()
            assert [(EngineDied, F)] * 3 == await asyncio.gather(*map(read, tickets))
            assert time.perf_counter() - began_s < 1
            with pytest.raises(EngineDied):
                await asking
            with pytest.raises(ModelNotReady, match="failed") as refused:
                house.submit("x")
            assert refused.value.retry_after_s
            assert 0 == house.supervisor.n_owed
            assert text != "HANG UP" or is_alive(house.pids[0])
            await until(lambda: len(house.pids) == 2 and house.model.state is R)
            assert not is_alive(house.pids[0])
            assert (["again"], None) == await outcome(house.submit("again"))

    asyncio.run(scenario())

    assert 1 == house.n_deaths


def test_no_request_is_refused_by_a_model_that_is_ready(journal: Path) -> None:
    """Whoever comes while the engine dies is taken and told of the death, or told that there is none."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            house.submit("DIE")
            taken: list[Ticket] = []
            refusals: list[str] = []
            while len(refusals) < 100:
                try:
                    taken.append(house.submit("SILENT"))
                except ModelNotReady as error:
                    refusals.append(error.message)
                await asyncio.sleep(0)
            assert not any("(ready)" in refusal for refusal in refusals)
            assert {EngineDied} == {type((await outcome(ticket))[1]) for ticket in taken}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("word", "state"), [("hangs-up-loading", State.LOADING), ("hangs-up-warming", State.WARMING)]
)
def test_link_that_ends_before_the_model_is_ready(
    word: str, state: State, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state tells it at once there, too."""
    monkeypatch.setattr(module, "EXIT_S", 2.0)
    house = House(journal, word)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, state)
            await until_state(house, F)  # while the process goes on, for two seconds more
            assert is_alive(house.pids[0])
            with pytest.raises(ModelNotReady, match="failed"):
                house.submit("x")

    asyncio.run(scenario())


def test_reason_of_a_death_is_told_when_it_is_known(journal: Path) -> None:
    """At first that the process has ended, then what ended it."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            await outcome(house.submit("DIE"))
            await until(lambda: len(house.pids) == 2)

    asyncio.run(scenario())

    first = house.model.passed.index(F)
    assert [
        "its process has ended",
        "its process was ended by SIGKILL",
    ] == house.model.reasons[first : first + 2]


def test_engine_that_dies_while_a_child_of_it_holds_the_link(journal: Path) -> None:
    """No end of file comes then; the end of the process is enough."""
    house = House(journal)

    def heirs() -> list[int]:
        return [int(line.split()[1]) for line in house.heard if line.startswith("heir")]

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            assert isinstance((await outcome(house.submit("HEIR")))[1], EngineDied)
            await until(lambda: len(house.pids) == 2 and house.model.state is R)
            assert is_alive(heirs()[0])

    try:
        asyncio.run(scenario())
    finally:
        for pid in heirs():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("load-failed-for-now", "config.json cannot be read"),
        ("exits-while-loading", "its process exited with status 3"),
        ("dies-while-loading", "SIGKILL"),
        ("dies-warming", "SIGKILL"),
    ],
)
def test_engine_that_dies_again_and_again(word: str, reason: str, journal: Path) -> None:
    """Three quick deaths are enough: the model stays failed, and its reason tells why."""
    house = House(journal, word)

    async def scenario() -> None:
        async with running(house):
            await until(lambda: house.model.passed.count(F) == 3)
            await asyncio.sleep(0.1)
            assert State.FAILED is house.model.state
            assert reason in (house.model.reason or "")
            with pytest.raises(ModelNotReady):
                house.submit("x")

    asyncio.run(scenario())

    assert (3, 3) == (len(house.pids), house.n_deaths)
    assert [F, D, E] == house.model.passed[-3:]


def test_model_that_can_never_be_loaded(journal: Path) -> None:
    """There is one try: the next one would end as this one did."""
    house = House(journal, "load-failed")

    async def scenario() -> None:
        async with running(house):
            await until_state(house, F)
            await asyncio.sleep(0.3)
            assert "config.json cannot be read" == house.model.reason

    asyncio.run(scenario())

    assert (1, 1) == (len(house.pids), house.n_deaths)


def test_engine_that_dies_after_a_long_life(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only quick deaths are counted: a life that lasted starts the counting anew."""
    monkeypatch.setattr(module, "QUICK_DEATH_S", 0.0)
    house = House(journal, "dies-warming")

    async def scenario() -> None:
        async with running(house):
            await until(lambda: len(house.pids) > 4)

    asyncio.run(scenario())


def test_engine_that_never_gets_ready_is_given_up_however_long_it_took(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that fails late is no better than one that fails at once."""
    monkeypatch.setattr(module, "QUICK_DEATH_S", 0.0)
    house = House(journal, "exits-while-loading")

    async def scenario() -> None:
        async with running(house):
            await until(lambda: house.model.passed.count(F) == 3)
            await asyncio.sleep(0.1)

    asyncio.run(scenario())

    assert 3 == len(house.pids)


def test_engine_that_hangs_is_killed_although_its_client_left(journal: Path) -> None:
    """A cancel wants an answer too: nobody has to stay for a hung engine to be found out."""
    house = House(journal, stall_s=0.3)

    async def scenario() -> None:
        async with running(house):
            await until(lambda: house.model.state is State.READY)
            house.submit("HANG").close()
            await until(lambda: house.n_deaths == 1)

    asyncio.run(scenario())


def test_job_that_cannot_be_sent_leaves_no_ticket_behind(journal: Path) -> None:
    """What does not fit the protocol is our bug: it costs the request, and nothing waits for it."""
    house = House(journal)

    async def scenario() -> None:
        async with running(house):
            await until(lambda: house.model.state is State.READY)
            with pytest.raises(OverflowError):
                house.supervisor.submit([Job(Text("x"), Sampling(top_k=10**30))])
            assert 0 == house.supervisor.n_owed

    asyncio.run(scenario())


def test_engine_that_cannot_be_started(journal: Path) -> None:
    """A command that is not there is a reason like any other."""
    house = House(journal, command=["/nowhere/engine"])

    async def scenario() -> None:
        async with running(house):
            await until(lambda: house.model.passed.count(F) == 3)
            assert "could not be started" in (house.model.reason or "")

    asyncio.run(scenario())

    assert [S, F, S, F, S, F, D, E] == house.model.passed


@pytest.mark.parametrize("word", ["garbage-frame", "unknown-message", "over-large-frame"])
def test_engine_that_speaks_nonsense(word: str, journal: Path) -> None:
    """Its link is closed, its process ended, and the next life begins."""
    house = House(journal, word)

    async def scenario() -> None:
        async with running(house):
            await until(lambda: len(house.pids) == 2)
            assert not is_alive(house.pids[0])

    asyncio.run(scenario())

    assert F in house.model.passed


# ---------------------------------------------------------------- stalls


def test_engine_that_hangs_on_a_job(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work and no word for too long: it is killed, its job fails, and the reason says so."""
    monkeypatch.setattr(module, "EXIT_S", 0.1)
    house = House(journal, stall_s=0.3)

    async def scenario() -> tuple[list[str], ServiceError | None]:
        async with running(house):
            await until_state(house, R)
            end = await outcome(house.submit("HANG"))
            await until(lambda: len(house.pids) == 2 and house.model.state is R)
            return end

    _, error = asyncio.run(scenario())

    assert isinstance(error, EngineDied)
    assert any("no progress" in (reason or "") for reason in house.model.reasons)


def test_engine_that_hangs_in_warmup(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up is work too: one that never ends is ended."""
    monkeypatch.setattr(module, "EXIT_S", 0.1)
    house = House(journal, "warmup-hangs", stall_s=0.2)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, F)
            assert "no progress" in (house.model.reason or "")

    asyncio.run(scenario())


def test_engine_that_is_idle(journal: Path) -> None:
    """Silence without work is no fault, and does not count against the next job."""
    house = House(journal, stall_s=1.0)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            await asyncio.sleep(1.5)
            assert (["fine"], None) == await outcome(house.submit("fine"))

    asyncio.run(scenario())

    assert 1 == len(house.pids)


def test_engine_that_takes_long(journal: Path) -> None:
    """Signs of life are enough: a long prompt is no hang."""
    house = House(journal, stall_s=0.9)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            assert (["done"], None) == await outcome(house.submit("TOIL"))

    asyncio.run(scenario())

    assert 1 == len(house.pids)


def test_engine_that_hangs_on_a_prompt_while_others_are_served(journal: Path) -> None:
    """Its clients leave and come again, and others get their answers: it is found out all the same."""
    house = House(journal, stall_s=0.4)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            while not house.n_deaths:
                with contextlib.suppress(ServiceError):
                    house.submit("STICK").close()
                    await outcome(house.submit("fine"))
                await asyncio.sleep(0.02)

    asyncio.run(scenario())

    assert any("it made no prompt" in (reason or "") for reason in house.model.reasons)


def test_engine_that_is_stopped_while_idle(journal: Path) -> None:
    """It is doubted first, which readiness tells, and killed when its time is over."""
    house = House(journal, stall_s=0.6)

    async def scenario() -> tuple[float, float]:
        async with running(house):
            await until_state(house, R)
            stopped_s = time.monotonic()
            os.kill(house.pids[0], signal.SIGSTOP)
            await until(lambda: house.model.doubt)
            assert not house.model.is_ready
            assert house.model.healthy_card is not None
            doubted_s = time.monotonic()
            await until(lambda: house.n_deaths == 1)
            return doubted_s - stopped_s, time.monotonic() - stopped_s

    doubted_s, dead_s = asyncio.run(scenario())

    assert doubted_s < dead_s
    assert (
        0.5 <= dead_s < 2
    )  # its last word may have been a beat ago; then LOOK_S, and a busy machine
    assert any("it said nothing" in (reason or "") for reason in house.model.reasons)


def test_engine_that_is_stopped_for_a_moment(journal: Path) -> None:
    """The doubt goes with its reason."""
    house = House(journal, stall_s=2.0)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, R)
            os.kill(house.pids[0], signal.SIGSTOP)
            await until(lambda: house.model.doubt)
            os.kill(house.pids[0], signal.SIGCONT)
            await until(lambda: house.model.is_ready)
            assert (["fine"], None) == await outcome(house.submit("fine"))

    asyncio.run(scenario())

    assert 1 == len(house.pids)


def test_engine_that_never_says_a_word_has_its_time_to_load(journal: Path) -> None:
    """It is killed then, and the reason says so."""
    house = House(journal, "slow-load", load_s=0.3)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, F)
            assert "did not load its model within 0.3 s" in (house.model.reason or "")

    asyncio.run(scenario())


def test_download_has_all_the_time_it_takes(journal: Path) -> None:
    """It is told as what it is; only then does the time to load begin."""
    house = House(journal, "downloads", load_s=0.5)

    async def scenario() -> None:
        async with running(house):
            await until(
                lambda: (
                    "the model is being downloaded, 1,200 of 2,400 MB (50%), 30.0 MB/s, 40 s left"
                    == house.model.reason
                )
            )
            await until(lambda: house.model.reason == "the model is being loaded")
            assert house.model.state is L
            await until_state(house, F)
            assert "did not load its model" in (house.model.reason or "")

    asyncio.run(scenario())


def test_engine_that_takes_too_much_memory(journal: Path) -> None:
    """It is ended before the machine has to choose whom to end."""
    house = House(journal, memory_bytes=50_000_000)

    async def scenario() -> None:
        async with running(house):
            await until_state(house, F)
            assert "more than the 50 MB of ENGINE_MEMORY_MB" in (house.model.reason or "")

    asyncio.run(scenario())


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("normal", State.STARTING),
        ("slow-load", State.LOADING),
        ("warmup-hangs", State.WARMING),
        ("normal", State.READY),
        ("dies-while-loading", State.FAILED),
        ("ignores-eof", State.READY),
    ],
)
def test_stop_in_each_state(
    word: str, state: State, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is stopped, it is soon over and no process is left."""
    monkeypatch.setattr(module, "EXIT_S", 0.2)
    house = House(journal, word, pauses_s=(5.0,))

    async def scenario() -> float:
        async with running(house):
            await until_state(house, state)
            began_s = time.perf_counter()
        return time.perf_counter() - began_s

    assert asyncio.run(scenario()) < 2
    assert [D, E] == house.model.passed[-2:]


@pytest.mark.parametrize("n_turns", range(12))
def test_stop_just_after_the_start(n_turns: int, journal: Path) -> None:
    """At whatever turn of the loop the end comes, nothing is left open: warnings are errors here."""
    house = House(journal)

    async def scenario() -> None:
        n_before = psutil.Process().num_fds()
        async with running(house):
            for _ in range(n_turns):
                await asyncio.sleep(0)
        assert psutil.Process().num_fds() <= n_before + 1  # asyncio's own for its children

    asyncio.run(scenario())


@pytest.mark.parametrize("n_turns", range(6))
def test_stop_while_an_engine_is_being_ended(n_turns: int, journal: Path) -> None:
    """An engine that is just about to be killed is not forgotten, at whatever turn the end comes."""
    house = House(journal, "garbage-then-hangs")

    async def scenario() -> None:
        try:
            async with running(house):
                await until_state(house, F)
                for _ in range(n_turns):
                    await asyncio.sleep(0)
        finally:
            for pid in filter(is_alive, house.pids):
                os.kill(pid, signal.SIGKILL)

    asyncio.run(scenario())


def test_stop_with_jobs(journal: Path) -> None:
    """Who still waits is told that the server ends."""
    house = House(journal)

    async def scenario() -> ServiceError | None:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("BEGIN")
            reading = asyncio.create_task(outcome(ticket))
            await until(lambda: "Submit 1" in house.heard)
        return (await reading)[1]

    assert isinstance(asyncio.run(scenario()), ShuttingDown)


def test_drain_lets_jobs_finish(journal: Path) -> None:
    """What runs may finish; what comes is refused."""
    house = House(journal)

    async def scenario() -> tuple[list[str], ServiceError | None]:
        async with running(house):
            await until_state(house, R)
            reading = asyncio.create_task(outcome(house.submit("TOIL")))
            await until(lambda: "Submit 1" in house.heard)
            draining = asyncio.create_task(house.supervisor.drain(LIMIT_S))
            await asyncio.sleep(0)
            with pytest.raises(ShuttingDown):
                house.submit("x")
            end = await reading
            async with asyncio.timeout(1):
                await draining
            return end

    assert (["done"], None) == asyncio.run(scenario())


def test_drain_when_its_time_is_over(journal: Path) -> None:
    """What has not finished by then is told that the server ends."""
    house = House(journal)

    async def scenario() -> ServiceError | None:
        async with running(house):
            await until_state(house, R)
            reading = asyncio.create_task(outcome(house.submit("BEGIN")))
            await until(lambda: "Submit 1" in house.heard)
            began_s = time.perf_counter()
            await house.supervisor.drain(0.05)
            assert 0.04 < time.perf_counter() - began_s < 1
            return (await reading)[1]

    assert isinstance(asyncio.run(scenario()), ShuttingDown)


def test_drain_when_nothing_runs(journal: Path) -> None:
    """Nothing to wait for is not waited for."""
    house = House(journal)

    async def scenario() -> float:
        async with running(house):
            await until_state(house, R)
            began_s = time.perf_counter()
            await house.supervisor.drain(LIMIT_S)
            return time.perf_counter() - began_s

    assert asyncio.run(scenario()) < 0.5


def test_drain_when_a_client_leaves(journal: Path) -> None:
    """A ticket that is closed is not waited for."""
    house = House(journal)

    async def scenario() -> float:
        async with running(house):
            await until_state(house, R)
            ticket = house.submit("BEGIN")
            await ticket.accepted()
            began_s = time.perf_counter()
            asyncio.get_running_loop().call_later(0.05, ticket.close)
            await house.supervisor.drain(LIMIT_S)
            return time.perf_counter() - began_s

    assert asyncio.run(scenario()) < 1


def test_drain_when_the_engine_dies_meanwhile(journal: Path) -> None:
    """A death in the end is not followed by another life."""
    house = House(journal)

    async def scenario() -> ServiceError | None:
        async with running(house):
            await until_state(house, R)
            reading = asyncio.create_task(outcome(house.submit("BEGIN")))
            await until(lambda: "Submit 1" in house.heard)
            draining = asyncio.create_task(house.supervisor.drain(LIMIT_S))
            await asyncio.sleep(0)
            os.kill(house.pids[0], signal.SIGKILL)
            await draining
            await asyncio.sleep(0.05)
            return (await reading)[1]

    assert isinstance(asyncio.run(scenario()), EngineDied)
    assert 1 == len(house.pids)
    assert [S, L, W, R, D, E] == house.model.passed


def test_drain_when_the_link_ends_meanwhile(journal: Path) -> None:
    """Then there is nothing left to wait for, although the process goes on."""
    house = House(journal)

    async def scenario() -> tuple[ServiceError | None, float]:
        async with running(house):
            await until_state(house, R)
            reading = asyncio.create_task(outcome(house.submit("HANG UP")))
            began_s = time.perf_counter()
            await house.supervisor.drain(LIMIT_S)
            assert State.DRAINING is house.model.state
            assert is_alive(house.pids[0])
            return (await reading)[1], time.perf_counter() - began_s

    error, lasted_s = asyncio.run(scenario())

    assert isinstance(error, EngineDied)
    assert lasted_s < 0.9


def test_drain_in_the_pause_between_two_lives(journal: Path) -> None:
    """A server that ends starts no further life, and nothing breaks when the pause is over."""
    house = House(journal, "dies-while-loading", pauses_s=(0.1,))

    async def scenario() -> None:
        async with running(house):
            await until_state(house, F)
            await house.supervisor.drain(0)
            await asyncio.sleep(0.2)
            assert State.DRAINING is house.model.state

    asyncio.run(scenario())

    assert 1 == len(house.pids)
    assert [S, L, F, D, E] == house.model.passed


# ---------------------------------------------------------------- in the long run


def test_descriptors_after_many_lives(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty lives leave as many descriptors open as the first, and no zombie."""
    monkeypatch.setattr(module, "QUICK_DEATH_S", 0.0)
    house = House(journal, pauses_s=(0.0,))

    async def scenario() -> tuple[int, int]:
        counts = []
        async with running(house):
            for i in range(20):
                n_born = i + 1
                await until(lambda: len(house.pids) == n_born and house.model.state is R)  # noqa: B023
                counts.append(psutil.Process().num_fds())
                os.kill(house.pids[-1], signal.SIGKILL)
            await until(lambda: len(house.pids) == 21 and house.model.state is R)
            assert [] == [pid for pid in house.pids[:-1] if is_alive(pid)]
        return counts[0], counts[-1]

    first, last = asyncio.run(scenario())

    assert last <= first
