"""`service.engine.scheduler.scheduler` and `service.engine.warmup`, with the embedded model."""

from __future__ import annotations

import dataclasses
import functools
import gc
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
import pytest
from mlx_lm.models.cache import make_prompt_cache

from service.engine.cache.kv import Cache, Caches, keep_rows
from service.engine.decoding import batch
from service.engine.decoding.sequence import Status
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler import lanes
from service.engine.scheduler.output import StepOutput
from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.answer import Answer
from service.engine.text.prompt import Prepared
from service.engine.warmup import warm_up
from service.protocol import Chat, Delta, Job, Sampling, TokenLogprob, Tokens, Turn
from tests.engine.conftest import job, run
from tests.engine.random_models import dressed


def text(deltas: list[Delta]) -> str:
    """Return the whole answer."""
    return "".join(delta.text for delta in deltas)


def test_batch_answers_as_each_alone(scheduler: Scheduler, preparer: Preparer) -> None:
    """Prompts of different lengths side by side give the greedy answers that they give alone."""
    questions = ["Hello", "What does /health mean?", "Who are you? " * 60, "Which port?"]
    alone = []
    for question in questions:
        scheduler.add(1, preparer.prepare(job(question)), job(question, max_tokens=24))
        alone.append(text(run(scheduler)[1]))
    for ticket, question in enumerate(questions):
        scheduler.add(ticket, preparer.prepare(job(question)), job(question, max_tokens=24))
    together = run(scheduler)

    assert alone == [text(together[ticket]) for ticket in range(4)]


def test_rows_that_join_later_do_not_disturb(scheduler: Scheduler, preparer: Preparer) -> None:
    """A row that comes while another decodes changes nothing for it."""
    prompt = preparer.prepare(job())
    scheduler.add(1, prompt, job(max_tokens=20))
    alone = text(run(scheduler)[1])
    scheduler.add(1, prompt, job(max_tokens=20))
    first = [delta for _ in range(6) for delta in scheduler.step().deltas]
    scheduler.add(2, preparer.prepare(job("Which port?")), job(max_tokens=20))
    rest = run(scheduler)

    assert alone == text(first + rest[1])


def test_finish_reason_and_count(scheduler: Scheduler, preparer: Preparer) -> None:
    """`length` after exactly so many tokens; `stop` at the end of the turn, which is not counted."""
    prompt = preparer.prepare(job())
    scheduler.add(1, prompt, job(max_tokens=3))
    scheduler.add(2, prompt, job())
    seen = run(scheduler)
    n_tokens = seen[2][-1].n_completion_tokens

    assert (seen[1][-1].finish_reason, seen[1][-1].n_completion_tokens) == ("length", 3)
    assert seen[2][-1].finish_reason == "stop"
    scheduler.add(3, prompt, job(max_tokens=n_tokens + 5, ignore_eos=True))
    assert run(scheduler)[3][-1].n_completion_tokens == n_tokens + 5


def test_stop_text_frees_the_row_at_once(scheduler: Scheduler, preparer: Preparer) -> None:
    """The row is gone with its last delta, and so is its cache."""
    prompt = preparer.prepare(job())
    scheduler.add(1, prompt, job())
    whole = text(run(scheduler)[1])
    stop = whole[5:9]
    scheduler.add(1, prompt, job(stop=(stop,)))
    deltas = run(scheduler)[1]

    assert text(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert scheduler.tickets == []
    assert scheduler.kv_bytes == 0


@pytest.mark.parametrize("n_steps", [0, 1, 2, 8])
def test_removed_row_is_gone_at_every_stage(
    n_steps: int, scheduler: Scheduler, preparer: Preparer
) -> None:
    """Waiting, prefilling or decoding: it brings nothing more, and its neighbour is as if alone."""
    long = job("tell me " * 500, ignore_eos=True)
    scheduler.add(1, preparer.prepare(long), long)
    scheduler.add(2, preparer.prepare(job()), job(max_tokens=20))
    before = [delta for _ in range(n_steps) for delta in scheduler.step().deltas]
    scheduler.cancel({1})
    after = run(scheduler)
    scheduler.add(3, preparer.prepare(job()), job(max_tokens=20))
    alone = run(scheduler)[3]

    assert 1 not in after
    assert text([d for d in before if d.ticket == 2] + after[2]) == text(alone)
    assert scheduler.kv_bytes == 0


def test_context_ends_an_answer(
    loaded: LoadedModel, vocabulary: Vocabulary, preparer: Preparer
) -> None:
    """More tokens than the context has room for are never generated."""
    card = msgspec.structs.replace(loaded.card, context_length=48)
    short = LoadedModel(loaded.model, loaded.tokenizer, card, loaded.sampling)
    scheduler = Scheduler(short, vocabulary, max_rows=1)
    prompt = preparer.prepare(job())
    scheduler.add(1, prompt, job(ignore_eos=True, max_tokens=1000))
    last = run(scheduler)[1][-1]

    assert last.finish_reason == "length"
    assert len(prompt.ids) + last.n_completion_tokens == 48


def test_seeded_rows_repeat_in_any_company(scheduler: Scheduler, preparer: Preparer) -> None:
    """The same seed draws the same answer alone and beside three others, which draw their own."""

    def drawn(seed: int) -> Job:
        return job(sampling=Sampling(temperature=2.0, seed=seed), max_tokens=32, ignore_eos=True)

    prompt = preparer.prepare(job("zxqv 17 ][ blorp"))
    scheduler.add(1, prompt, drawn(9))
    alone = text(run(scheduler)[1])
    for ticket, seed in enumerate([1, 9, 2, 3]):
        scheduler.add(ticket, prompt, drawn(seed))
    together = [text(deltas) for _, deltas in sorted(run(scheduler).items())]

    assert alone == together[1]
    assert len(set(together)) > 1


class Keeping(Caches):
    """Caches of which *n_kept* are held on to, whatever becomes of their rows."""

    def __init__(self, model: nn.Module) -> None:
        self.n_kept = 0
        self.kept: list[Cache] = []
        super().__init__(model, None, None)

    def make(self) -> Cache:
        """Return an empty cache."""
        made = super().make()
        if len(self.kept) < self.n_kept:
            self.kept.append(made)
        return made


@pytest.mark.parametrize("n_kept", [0, 1])
def test_rows_leave_nothing_behind(
    n_kept: int, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """The cache of a single row among thirty is seen; what else comes and goes is far less."""
    caches = Keeping(loaded.model)
    scheduler = Scheduler(loaded, vocabulary, 2, caches=caches)

    def held(n_answers: int) -> int:
        for ticket in range(n_answers):
            scheduler.add(ticket, Prepared([50, 60, 70]), job(max_tokens=2))
            run(scheduler)
        gc.collect()
        return mx.get_active_memory()

    before = held(10)
    caches.n_kept = n_kept
    n_rows_left = (held(30) - before) / caches.n_bytes(1)

    assert n_rows_left == pytest.approx(n_kept, abs=0.5)


def test_warm_up_leaves_nothing_behind(scheduler: Scheduler, preparer: Preparer) -> None:
    """It runs real rows through the scheduler, and the batch is empty again after it."""
    warm_up(scheduler, preparer.prepare(job()).ids, 4)

    assert scheduler.tickets == []


def test_warm_up_fails_if_the_model_does(
    scheduler: Scheduler, preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks a step breaks warm-up; it never passes for done."""

    def broken(self: Scheduler) -> StepOutput:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Scheduler, "step", broken)

    with pytest.raises(RuntimeError, match="out of memory"):
        warm_up(scheduler, preparer.prepare(job()).ids, 4)


def reported(deltas: list[Delta]) -> list[TokenLogprob]:
    """Return the log-probabilities of a whole answer."""
    return [each for delta in deltas for each in delta.logprobs]


def test_logprobs_are_the_models_own(scheduler: Scheduler, preparer: Preparer) -> None:
    """Greedy, each token is the likeliest; the numbers are the same amid neighbours, and drawn or not."""
    wanted = job(max_tokens=8, top_logprobs=3)
    prompt = preparer.prepare(wanted)
    scheduler.add(1, prompt, wanted)
    alone = reported(run(scheduler)[1])
    scheduler.add(1, prompt, job("Who are you?", max_tokens=8))
    scheduler.add(2, prompt, wanted)
    scheduler.add(3, prompt, job(max_tokens=4, top_logprobs=0, sampling=Sampling(temperature=1)))
    together = run(scheduler)

    assert len(alone) == 8
    assert all(each.chosen == each.top[0] and len(each.top) == 3 for each in alone)
    assert b"".join(each.chosen.piece for each in alone).decode() == text(together[2])
    assert [each.chosen.id for each in alone] == [each.chosen.id for each in reported(together[2])]
    assert not reported(together[1])
    assert all(each.top == () for each in reported(together[3]))


def test_logprobs_of_a_stop_text_are_left_out(scheduler: Scheduler, preparer: Preparer) -> None:
    """The tokens told are those of the text told."""
    wanted = job(max_tokens=20, top_logprobs=0)
    scheduler.add(1, preparer.prepare(wanted), wanted)
    whole = text(run(scheduler)[1])
    stopped = job(max_tokens=20, top_logprobs=0, stop=(whole[9:14],))
    scheduler.add(1, preparer.prepare(stopped), stopped)
    deltas = run(scheduler)[1]
    told = b"".join(each.chosen.piece for each in reported(deltas)).decode()

    assert text(deltas) == whole[: whole.index(whole[9:14])]
    assert told.startswith(text(deltas))
    assert len(told) < 14


def test_echo_scores_the_prompt(scheduler: Scheduler, preparer: Preparer) -> None:
    """A prompt's own tokens get what they get when they are generated after each other."""
    wanted = job(max_tokens=6, top_logprobs=2)
    prepared = preparer.prepare(wanted)
    scheduler.add(1, prepared, wanted)
    generated = reported(run(scheduler)[1])
    ids = (*prepared.ids, *(each.chosen.id for each in generated))
    echo = Job(Tokens(ids), Sampling(temperature=0), max_tokens=3, top_logprobs=2, echo=True)
    plain = Job(Tokens(ids), Sampling(temperature=0), max_tokens=3)
    scheduler.add(1, preparer.prepare(echo), echo)
    scheduler.add(2, preparer.prepare(plain), plain)
    seen = run(scheduler)
    scored = reported(seen[1])

    assert [each.chosen.id for each in scored[: len(ids)]] == list(ids)
    assert scored[0].chosen.logprob is None
    for one, other in zip(scored[len(prepared.ids) :], generated, strict=False):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-3)
        assert [each.id for each in one.top] == [each.id for each in other.top]
    assert text(seen[1]).endswith(text(seen[2]))


def test_echo_alone(scheduler: Scheduler, preparer: Preparer) -> None:
    """No token is generated where none is wanted, and a prompt of one token has nothing to score."""
    for ids in ((300, 301), (300,)):
        echo = Job(Tokens(ids), max_tokens=0, top_logprobs=0, echo=True)
        scheduler.add(1, preparer.prepare(echo), echo)
        (delta,) = run(scheduler)[1]

        assert (delta.finish_reason, delta.n_completion_tokens) == ("length", 0)
        assert len(delta.logprobs) == len(ids)


def test_bias_and_penalties_move_one_row_alone(scheduler: Scheduler, preparer: Preparer) -> None:
    """A ban, a must, and a price for repeating; the neighbour answers as ever."""
    plain = job(max_tokens=12)
    prepared = preparer.prepare(plain)
    scheduler.add(1, prepared, job(max_tokens=12, top_logprobs=0))
    before = run(scheduler)[1]
    first = reported(before)[0].chosen.id
    wishes = [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, logit_bias=((first, -100.0),)),
        Sampling(temperature=0.0, logit_bias=((300, 100.0),)),
        Sampling(temperature=0.0, logit_bias=((300, 100.0),), frequency_penalty=2.0),
    ]
    for ticket, sampling in enumerate(wishes):
        scheduler.add(ticket, prepared, job(max_tokens=100, top_logprobs=0, sampling=sampling))
    seen = {
        ticket: [each.chosen.id for each in reported(deltas)]
        for ticket, deltas in run(scheduler).items()
    }

    assert seen[0][:12] == [each.chosen.id for each in reported(before)]
    assert first not in seen[1][:1]
    assert set(seen[2]) == {300}
    assert 1 < len(set(seen[3]))
    assert seen[3].count(300) > 40


def test_repetition_penalty_counts_the_prompt(scheduler: Scheduler, preparer: Preparer) -> None:
    """A token of the prompt is dear from the first step on; presence is paid once."""
    ids = tuple(preparer.ids(Chat((Turn("user", "Hello"),))))
    free = Job(Tokens(ids), Sampling(temperature=0), max_tokens=6, top_logprobs=0)
    dear = Job(
        Tokens(ids), Sampling(temperature=0, repetition_penalty=50), max_tokens=6, top_logprobs=0
    )
    scheduler.add(1, preparer.prepare(free), free)
    scheduler.add(2, preparer.prepare(dear), dear)
    seen = {
        ticket: [each.chosen.id for each in reported(deltas)]
        for ticket, deltas in run(scheduler).items()
    }

    assert seen[1] != seen[2]
    assert len(set(seen[2])) == 6


def test_rows_wait_until_memory_is_free(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Whoever does not fit waits; first come, first served, and all are served."""
    caches = Caches(loaded.model, None, None)
    scheduler = Scheduler(
        loaded, vocabulary, 4, caches=caches, kv_budget_bytes=2.5 * caches.n_bytes(100)
    )
    wanted = Job(Tokens(tuple(range(20, 80))), max_tokens=40, ignore_eos=True)
    for ticket in range(4):
        scheduler.add(ticket, Prepared(list(range(20, 80))), wanted)
    most, ends = 0, []
    while scheduler.tickets:
        ends += [delta.ticket for delta in scheduler.step().deltas if delta.finish_reason]
        most = max(most, scheduler.n_rows)

    assert most == 2
    assert ends == [0, 1, 2, 3]


def test_long_prompt_does_not_stall_its_neighbours(
    scheduler: Scheduler, preparer: Preparer, vocabulary: Vocabulary
) -> None:
    """While it is read, piece by piece, the others go on with a token in each step."""
    decoding = job(ignore_eos=True, max_tokens=400, top_logprobs=0)
    scheduler.add(1, preparer.prepare(decoding), decoding)
    for _ in range(20):
        scheduler.step()
    long = Job(Tokens(tuple(i % 1000 + 20 for i in range(1000))), max_tokens=1)
    scheduler.add(2, preparer.prepare(long), long)
    n_steps = n_tokens = 0
    while 2 in scheduler.tickets and 1 in scheduler.tickets:
        n_tokens += any(delta.ticket == 1 for delta in scheduler.step().deltas)
        n_steps += 1

    assert n_steps > 10
    assert n_tokens == n_steps


def test_long_row_goes_beside_short_ones(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones aren't padded to it, and all answer as alone."""
    monkeypatch.setattr(lanes, "MIN_LANE_BYTES", 1 << 20)
    scheduler = Scheduler(dressed("full", loaded), vocabulary, 8)
    long = [i % 1000 + 20 for i in range(2000)]
    short = [[50 + i, 60, 70] for i in range(4)]
    wanted = Job(Tokens((1,)), Sampling(temperature=0.0), max_tokens=60, ignore_eos=True)

    def answers(prompts: list[list[int]]) -> list[str]:
        seen: dict[int, str] = {}
        n_lanes = most_bytes = 0
        waiting = list(enumerate(prompts))
        while scheduler.tickets or waiting:
            if (
                not scheduler.tickets or scheduler.n_lanes
            ):  # the others come once the long one decodes
                for ticket, prompt in [waiting.pop(0)] if not scheduler.tickets else waiting:
                    scheduler.add(ticket, Prepared(prompt), wanted)
                waiting = waiting if not scheduler.n_lanes else []
            for delta in scheduler.step().deltas:
                seen[delta.ticket] = seen.get(delta.ticket, "") + delta.text
            n_lanes = max(n_lanes, scheduler.n_lanes)
            most_bytes = max(most_bytes, scheduler.kv_bytes)
        assert n_lanes == (1 if len(prompts) == 1 else 2)
        assert most_bytes < 2.1 * 2000 * 1024  # not five times as much
        return [seen[ticket] for ticket in range(len(prompts))]

    alone = [answers([prompt])[0] for prompt in (long, *short)]

    assert alone == answers([long, *short])
    assert scheduler.kv_bytes == 0


def drawn(
    scheduler: Scheduler, jobs: list[tuple[list[int], Job]]
) -> tuple[list[list[int]], list[int]]:
    """Run *jobs*; return their tokens, and the tickets of those that failed."""
    for ticket, (prompt, each) in enumerate(jobs):
        scheduler.add(ticket, Prepared(prompt), each)
    sequences = list(scheduler.sequences.values())
    failures: list[int] = []
    while scheduler.tickets:
        failures += scheduler.step().failures
    return [each.tokens[len(each.prompt) :] for each in sequences], failures


def several(n_tokens: int = 60) -> list[tuple[list[int], Job]]:
    """Return four prompts of unlike lengths, greedy, drawn, penalised and held to a form."""
    samplings = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.5, seed=4),
        Sampling(temperature=0.0, repetition_penalty=1.2, frequency_penalty=0.3),
        Sampling(temperature=0.9, seed=5, top_p=0.8),
    ]
    return [
        ([20 + 7 * i + n for n in range(12 + 20 * i)], wanted)
        for i, sampling in enumerate(samplings)
        for wanted in [Job(Tokens((1,)), sampling, max_tokens=n_tokens, ignore_eos=True)]
    ]


def test_preempted_sequences_go_on_where_they_were(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """They outgrow the memory in which they began; each answer is as if there were plenty."""
    model, jobs = dressed("full", loaded), several(340)
    caches = Caches(model.model, None, None)
    expected, _ = drawn(Scheduler(model, vocabulary, 4, caches=caches), jobs)
    tight = Scheduler(model, vocabulary, 4, caches=caches, kv_budget_bytes=caches.n_bytes(4 * 310))
    for ticket, (prompt, each) in enumerate(jobs):
        tight.add(ticket, Prepared(prompt), each)
    sequences = list(tight.sequences.values())
    n_rows = []
    while tight.tickets:
        assert not tight.step().failures
        n_rows.append(tight.n_rows)

    assert [each.tokens[len(each.prompt) :] for each in sequences] == expected
    assert max(n_rows) == 4
    assert 3 in n_rows[n_rows.index(4) :]


class Failing(nn.Module):
    """A model that raises *error* at its *n*-th call from now."""

    def __init__(self, model: nn.Module, error: Exception, n: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.make_cache = functools.partial(make_prompt_cache, model)
        self.error = error
        self.n_left = n

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits."""
        self.n_left -= 1
        if not self.n_left:
            raise self.error
        logits: mx.array = self.model(inputs, cache=cache)
        return logits


@pytest.mark.parametrize("n_calls", [2, 12])
def test_memory_that_runs_out_costs_one_request(
    n_calls: int, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """In a prefill whose it was, in a step the longest one; the others are prefilled again and go on."""
    like = dressed("full", loaded)
    jobs = several()
    expected, _ = drawn(Scheduler(like, vocabulary, 4), jobs)
    scheduler = Scheduler(like, vocabulary, 4)
    error = RuntimeError("[malloc] Unable to allocate 99 bytes of memory")
    failing = Failing(like.model, error, -1)
    scheduler = Scheduler(dataclasses.replace(like, model=failing), vocabulary, 4)
    failing.n_left = n_calls
    said, failures = drawn(scheduler, jobs)

    (lost,) = failures
    assert [tokens for i, tokens in enumerate(said) if i != lost] == [
        tokens for i, tokens in enumerate(expected) if i != lost
    ]
    assert scheduler.kv_bytes == 0


def test_error_while_a_prompt_is_scored_costs_that_prompt(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Those that generate go on."""
    like = dressed("full", loaded)
    jobs = several()[:2]
    expected, _ = drawn(Scheduler(like, vocabulary, 4), jobs)
    failing = Failing(like.model, ValueError("shapes"), -1)
    scheduler = Scheduler(dataclasses.replace(like, model=failing), vocabulary, 4)
    echo = Job(Tokens((1,)), max_tokens=3, top_logprobs=1, echo=True)
    failing.n_left = 1
    said, failures = drawn(scheduler, [*jobs, ([50, 60, 70], echo)])

    assert failures == [2]
    assert said[:2] == expected


@pytest.mark.parametrize("n_calls", [2, 12])
def test_error_that_does_not_come_again_costs_nobody(
    n_calls: int, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Nobody knows whose fault it is: each goes on alone for a while, and all answers are as ever."""
    like = dressed("full", loaded)
    failing = Failing(like.model, ValueError("shapes"), -1)
    scheduler = Scheduler(dataclasses.replace(like, model=failing), vocabulary, 4)
    failing.n_left = n_calls
    said, failures = drawn(scheduler, several())
    expected, _ = drawn(Scheduler(like, vocabulary, 4), several())

    assert not failures
    assert said == expected


def test_error_costs_whose_fault_it_is(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """It breaks again alone, amid its answer; what the others say is as if it had never been there."""
    like = dressed("full", loaded)
    jobs = several()
    expected, _ = drawn(Scheduler(like, vocabulary, 4), jobs)
    others = {token for i in (0, 2, 3) for token in (*expected[i], *jobs[i][0])}
    bad = next(token for token in expected[1][5:] if token not in others)

    class Choking(Failing):
        def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
            if inputs.shape[1] == 1 and (inputs == bad).any().item():
                raise self.error
            return super().__call__(inputs, cache)

    choking = Choking(like.model, ValueError("shapes"), -1)
    scheduler = Scheduler(dataclasses.replace(like, model=choking), vocabulary, 4)
    said, failures = drawn(scheduler, jobs)

    assert failures == [1]
    assert [said[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]
    assert scheduler.kv_bytes == 0


def test_answer_that_cannot_be_parsed_costs_no_other(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ticket fails, the other one ends as if alone."""
    add = Answer.add

    def broken(self: Answer, token: int, logprob: TokenLogprob | None = None) -> Any:
        if logprob is not None:
            raise IndexError("no such piece")
        return add(self, token, logprob)

    jobs = several()[:2]
    expected, _ = drawn(Scheduler(loaded, vocabulary, 4), jobs)
    monkeypatch.setattr(Answer, "add", broken)
    jobs[0] = (jobs[0][0], msgspec.structs.replace(jobs[0][1], top_logprobs=0))
    said, failures = drawn(Scheduler(loaded, vocabulary, 4), jobs)

    assert failures == [0]
    assert said[1] == expected[1]


def test_cancelled_rows_are_taken_out_in_one_pass(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients that leave at once cost the others one pass over the cache."""
    passes = []

    def counted(cache: Any, places: list[int]) -> None:
        passes.append(len(places))
        keep_rows(cache, places)

    scheduler = Scheduler(dressed("full", loaded), vocabulary, 128)
    wanted = Job(Tokens((1,)), Sampling(temperature=0.0), max_tokens=60, ignore_eos=True)
    for ticket in range(104):
        scheduler.add(ticket, Prepared([50 + ticket, 60, 70]), wanted)
    while any(each.status is not Status.DECODING for each in scheduler.sequences.values()):
        scheduler.step()
    monkeypatch.setattr(batch, "keep_rows", counted)
    scheduler.cancel(set(range(100)))

    assert passes == [4]
    assert sorted(run(scheduler)) == [100, 101, 102, 103]


@pytest.mark.parametrize("n_long", [0, 700])
def test_padding_that_all_rows_have_is_taken_out(
    n_long: int, loaded: LoadedModel, scheduler: Scheduler, preparer: Preparer
) -> None:
    """
    Rows come and go, and each layer has as many places as the longest of them has tokens.

    Also after a row has left that was longer than the model's windows, which go round by then.
    """
    questions = ["Hello", "What does /health mean?", "Which port?", "Who are you?", "Why MLX?"]
    if n_long:
        long = Job(Tokens(tuple(i % 1000 + 20 for i in range(n_long))), max_tokens=5)
        scheduler.add(100, preparer.prepare(long), long)
    coming = [job(questions[i % 5], max_tokens=20 + i % 7, ignore_eos=True) for i in range(24)]
    seen: dict[int, list[Delta]] = {}
    begun = most_bytes = 0
    while scheduler.tickets or begun < len(coming):
        while begun < len(coming) and len(scheduler.tickets) < 4:
            scheduler.add(begun, preparer.prepare(coming[begun]), coming[begun])
            begun += 1
        for delta in scheduler.step().deltas:
            seen.setdefault(delta.ticket, []).append(delta)
        if 100 not in scheduler.tickets:
            most_bytes = max(most_bytes, scheduler.kv_bytes)

    # Four rows of at most 60 tokens, in arrays of 256, and what joins; windows would hold 512.
    assert most_bytes <= 4 * 320 * 2 * Caches(loaded.model, None, None).bytes_per_token
    alone = []
    for each in coming[:8]:
        scheduler.add(1, preparer.prepare(each), each)
        alone.append(text(run(scheduler)[1]))
    assert [text(seen[ticket]) for ticket in range(8)] == alone
