"""`service.engine.scheduler.scheduler` and `service.engine.warmup`, with the embedded model."""

from __future__ import annotations

import mlx.core as mx
import msgspec
import pytest

from service.engine.cache.kv import Caches
from service.engine.cache.prefix_cache import PrefixCache
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Batcher
from service.engine.text.prompt import Prepared, Prompter
from service.engine.warmup import warm_up
from service.protocol import Chat, Delta, Job, Sampling, TokenLogprob, Tokens, Turn
from tests.engine.conftest import job, run


def text(deltas: list[Delta]) -> str:
    """Return the whole answer."""
    return "".join(delta.text for delta in deltas)


def test_batch_answers_as_each_alone(batcher: Batcher, prompter: Prompter) -> None:
    """Prompts of different lengths side by side give the greedy answers that they give alone."""
    questions = ["Hello", "What does /health mean?", "Who are you? " * 60, "Which port?"]
    alone = []
    for question in questions:
        batcher.add(1, prompter.prepare(job(question)), job(question, max_tokens=24))
        alone.append(text(run(batcher)[1]))
    for ticket, question in enumerate(questions):
        batcher.add(ticket, prompter.prepare(job(question)), job(question, max_tokens=24))
    together = run(batcher)

    assert alone == [text(together[ticket]) for ticket in range(4)]


def test_rows_that_join_later_do_not_disturb(batcher: Batcher, prompter: Prompter) -> None:
    """A row that comes while another decodes changes nothing for it."""
    prompt = prompter.prepare(job())
    batcher.add(1, prompt, job(max_tokens=20))
    alone = text(run(batcher)[1])
    batcher.add(1, prompt, job(max_tokens=20))
    first = [delta for _ in range(6) for delta in batcher.step()]
    batcher.add(2, prompter.prepare(job("Which port?")), job(max_tokens=20))
    rest = run(batcher)

    assert alone == text(first + rest[1])


def test_finish_reason_and_count(batcher: Batcher, prompter: Prompter) -> None:
    """`length` after exactly so many tokens; `stop` at the end of the turn, which is not counted."""
    prompt = prompter.prepare(job())
    batcher.add(1, prompt, job(max_tokens=3))
    batcher.add(2, prompt, job())
    seen = run(batcher)
    n_tokens = seen[2][-1].n_completion_tokens

    assert (seen[1][-1].finish_reason, seen[1][-1].n_completion_tokens) == ("length", 3)
    assert seen[2][-1].finish_reason == "stop"
    batcher.add(3, prompt, job(max_tokens=n_tokens + 5, ignore_eos=True))
    assert run(batcher)[3][-1].n_completion_tokens == n_tokens + 5


def test_stop_text_frees_the_row_at_once(batcher: Batcher, prompter: Prompter) -> None:
    """The row is gone with its last delta, and so is its cache."""
    prompt = prompter.prepare(job())
    batcher.add(1, prompt, job())
    whole = text(run(batcher)[1])
    stop = whole[5:9]
    batcher.add(1, prompt, job(stop=(stop,)))
    deltas = run(batcher)[1]

    assert text(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert batcher.tickets == []
    assert batcher.kv_bytes == 0


@pytest.mark.parametrize("n_steps", [0, 1, 2, 8])
def test_removed_row_is_gone_at_every_stage(
    n_steps: int, batcher: Batcher, prompter: Prompter
) -> None:
    """Waiting, prefilling or decoding: it brings nothing more, and its neighbour is as if alone."""
    long = job("tell me " * 500, ignore_eos=True)
    batcher.add(1, prompter.prepare(long), long)
    batcher.add(2, prompter.prepare(job()), job(max_tokens=20))
    before = [delta for _ in range(n_steps) for delta in batcher.step()]
    batcher.remove(1)
    after = run(batcher)
    batcher.add(3, prompter.prepare(job()), job(max_tokens=20))
    alone = run(batcher)[3]

    assert 1 not in after
    assert text([d for d in before if d.ticket == 2] + after[2]) == text(alone)
    assert batcher.kv_bytes == 0


def test_context_ends_an_answer(
    loaded: LoadedModel, vocabulary: Vocabulary, prompter: Prompter
) -> None:
    """More tokens than the context has room for are never generated."""
    card = msgspec.structs.replace(loaded.card, context_length=48)
    short = LoadedModel(loaded.model, loaded.tokenizer, card, loaded.sampling)
    batcher = Batcher(short, vocabulary, max_rows=1)
    prompt = prompter.prepare(job())
    batcher.add(1, prompt, job(ignore_eos=True, max_tokens=1000))
    last = run(batcher)[1][-1]

    assert last.finish_reason == "length"
    assert len(prompt.ids) + last.n_completion_tokens == 48


def test_seeded_rows_repeat_in_any_company(batcher: Batcher, prompter: Prompter) -> None:
    """The same seed draws the same answer alone and beside three others, which draw their own."""

    def drawn(seed: int) -> Job:
        return job(sampling=Sampling(temperature=2.0, seed=seed), max_tokens=32, ignore_eos=True)

    prompt = prompter.prepare(job("zxqv 17 ][ blorp"))
    batcher.add(1, prompt, drawn(9))
    alone = text(run(batcher)[1])
    for ticket, seed in enumerate([1, 9, 2, 3]):
        batcher.add(ticket, prompt, drawn(seed))
    together = [text(deltas) for _, deltas in sorted(run(batcher).items())]

    assert alone == together[1]
    assert len(set(together)) > 1


def test_rows_leave_nothing_behind(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """No more is held after sixty answers than after thirty."""
    batcher = Batcher(loaded, vocabulary, 2)
    seen = []
    for ticket in range(60):
        batcher.add(ticket, Prepared([50, 60, 70]), job(max_tokens=2))
        run(batcher)
        seen.append(mx.get_active_memory())

    assert min(seen[30:]) <= min(seen[10:30])


def test_warm_up_leaves_nothing_behind(batcher: Batcher, prompter: Prompter) -> None:
    """It runs real rows through the batcher, and the batch is empty again after it."""
    warm_up(batcher, prompter.prepare(job()).ids, 4)

    assert batcher.tickets == []


def test_warm_up_fails_if_the_model_does(
    batcher: Batcher, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks a step breaks warm-up; it never passes for done."""

    def broken(self: Batcher) -> tuple[Delta, ...]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Batcher, "step", broken)

    with pytest.raises(RuntimeError, match="out of memory"):
        warm_up(batcher, prompter.prepare(job()).ids, 4)


def reported(deltas: list[Delta]) -> list[TokenLogprob]:
    """Return the log-probabilities of a whole answer."""
    return [each for delta in deltas for each in delta.logprobs]


def test_logprobs_are_the_models_own(batcher: Batcher, prompter: Prompter) -> None:
    """Greedy, each token is the likeliest; the numbers are the same amid neighbours, and drawn or not."""
    wanted = job(max_tokens=8, top_logprobs=3)
    prompt = prompter.prepare(wanted)
    batcher.add(1, prompt, wanted)
    alone = reported(run(batcher)[1])
    batcher.add(1, prompt, job("Who are you?", max_tokens=8))
    batcher.add(2, prompt, wanted)
    batcher.add(3, prompt, job(max_tokens=4, top_logprobs=0, sampling=Sampling(temperature=1)))
    together = run(batcher)

    assert len(alone) == 8
    assert all(each.chosen == each.top[0] and len(each.top) == 3 for each in alone)
    assert b"".join(each.chosen.piece for each in alone).decode() == text(together[2])
    assert [each.chosen.id for each in alone] == [each.chosen.id for each in reported(together[2])]
    assert not reported(together[1])
    assert all(each.top == () for each in reported(together[3]))


def test_logprobs_of_a_stop_text_are_left_out(batcher: Batcher, prompter: Prompter) -> None:
    """The tokens told are those of the text told."""
    wanted = job(max_tokens=20, top_logprobs=0)
    batcher.add(1, prompter.prepare(wanted), wanted)
    whole = text(run(batcher)[1])
    stopped = job(max_tokens=20, top_logprobs=0, stop=(whole[9:14],))
    batcher.add(1, prompter.prepare(stopped), stopped)
    deltas = run(batcher)[1]
    told = b"".join(each.chosen.piece for each in reported(deltas)).decode()

    assert text(deltas) == whole[: whole.index(whole[9:14])]
    assert told.startswith(text(deltas))
    assert len(told) < 14


def test_echo_scores_the_prompt(batcher: Batcher, prompter: Prompter) -> None:
    """A prompt's own tokens get what they get when they are generated after each other."""
    wanted = job(max_tokens=6, top_logprobs=2)
    prepared = prompter.prepare(wanted)
    batcher.add(1, prepared, wanted)
    generated = reported(run(batcher)[1])
    ids = (*prepared.ids, *(each.chosen.id for each in generated))
    echo = Job(Tokens(ids), Sampling(temperature=0), max_tokens=3, top_logprobs=2, echo=True)
    plain = Job(Tokens(ids), Sampling(temperature=0), max_tokens=3)
    batcher.add(1, prompter.prepare(echo), echo)
    batcher.add(2, prompter.prepare(plain), plain)
    seen = run(batcher)
    scored = reported(seen[1])

    assert [each.chosen.id for each in scored[: len(ids)]] == list(ids)
    assert scored[0].chosen.logprob is None
    for one, other in zip(scored[len(prepared.ids) :], generated, strict=False):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-3)
        assert [each.id for each in one.top] == [each.id for each in other.top]
    assert text(seen[1]).endswith(text(seen[2]))


def test_echo_alone(batcher: Batcher, prompter: Prompter) -> None:
    """No token is generated where none is wanted, and a prompt of one token has nothing to score."""
    for ids in ((300, 301), (300,)):
        echo = Job(Tokens(ids), max_tokens=0, top_logprobs=0, echo=True)
        batcher.add(1, prompter.prepare(echo), echo)
        (delta,) = run(batcher)[1]

        assert (delta.finish_reason, delta.n_completion_tokens) == ("length", 0)
        assert len(delta.logprobs) == len(ids)


def test_bias_and_penalties_move_one_row_alone(batcher: Batcher, prompter: Prompter) -> None:
    """A ban, a must, and a price for repeating; the neighbour answers as ever."""
    plain = job(max_tokens=12)
    prepared = prompter.prepare(plain)
    batcher.add(1, prepared, job(max_tokens=12, top_logprobs=0))
    before = run(batcher)[1]
    first = reported(before)[0].chosen.id
    wishes = [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, logit_bias=((first, -100.0),)),
        Sampling(temperature=0.0, logit_bias=((300, 100.0),)),
        Sampling(temperature=0.0, logit_bias=((300, 100.0),), frequency_penalty=2.0),
    ]
    for ticket, sampling in enumerate(wishes):
        batcher.add(ticket, prepared, job(max_tokens=100, top_logprobs=0, sampling=sampling))
    seen = {
        ticket: [each.chosen.id for each in reported(deltas)]
        for ticket, deltas in run(batcher).items()
    }

    assert seen[0][:12] == [each.chosen.id for each in reported(before)]
    assert first not in seen[1][:1]
    assert set(seen[2]) == {300}
    assert 1 < len(set(seen[3]))
    assert seen[3].count(300) > 40


def test_repetition_penalty_counts_the_prompt(batcher: Batcher, prompter: Prompter) -> None:
    """A token of the prompt is dear from the first step on; presence is paid once."""
    ids = tuple(prompter.ids(Chat((Turn("user", "Hello"),))))
    free = Job(Tokens(ids), Sampling(temperature=0), max_tokens=6, top_logprobs=0)
    dear = Job(
        Tokens(ids), Sampling(temperature=0, repetition_penalty=50), max_tokens=6, top_logprobs=0
    )
    batcher.add(1, prompter.prepare(free), free)
    batcher.add(2, prompter.prepare(dear), dear)
    seen = {
        ticket: [each.chosen.id for each in reported(deltas)]
        for ticket, deltas in run(batcher).items()
    }

    assert seen[1] != seen[2]
    assert len(set(seen[2])) == 6


def test_rows_wait_until_memory_is_free(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Each counts with the longest it may become; first come, first served, and all are served."""
    caches = Caches(loaded.model, None, None)
    n_bytes = caches.n_bytes(100)
    batcher = Batcher(loaded, vocabulary, 4, caches=caches, max_kv_bytes=2.5 * n_bytes)
    wanted = Job(Tokens(tuple(range(20, 80))), max_tokens=40, ignore_eos=True)
    for ticket in range(4):
        batcher.add(ticket, Prepared(list(range(20, 80))), wanted)
    most, ends = 0, []
    while batcher.tickets:
        ends += [delta.ticket for delta in batcher.step() if delta.finish_reason]
        most = max(most, len(batcher._rows))

    assert most == 2
    assert ends == [0, 1, 2, 3]


def test_long_prompt_does_not_stall_its_neighbours(
    batcher: Batcher, prompter: Prompter, vocabulary: Vocabulary
) -> None:
    """While it is read, piece by piece, the others go on with a token in each step."""
    decoding = job(ignore_eos=True, max_tokens=400, top_logprobs=0)
    batcher.add(1, prompter.prepare(decoding), decoding)
    for _ in range(20):
        batcher.step()
    long = Job(Tokens(tuple(i % 1000 + 20 for i in range(3000))), max_tokens=1)
    batcher.add(2, prompter.prepare(long), long)
    n_steps = n_tokens = 0
    while 2 in batcher.tickets and 1 in batcher.tickets:
        n_tokens += any(delta.ticket == 1 for delta in batcher.step())
        n_steps += 1

    assert n_steps > 10
    assert n_tokens == n_steps


def test_long_row_goes_beside_short_ones(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Short ones aren't padded to it, and all answer as alone."""
    batcher = Batcher(loaded, vocabulary, 8, prefixes=PrefixCache(0))
    long = [i % 1000 + 20 for i in range(4000)]
    short = [[50 + i, 60, 70] for i in range(4)]
    wanted = Job(Tokens((1,)), Sampling(temperature=0.0), max_tokens=60, ignore_eos=True)
    brief = msgspec.structs.replace(wanted, max_tokens=4)

    def answers(prompts: list[list[int]], jobs: list[Job]) -> list[str]:
        for ticket, (prompt, each) in enumerate(zip(prompts, jobs, strict=True)):
            batcher.add(ticket, Prepared(prompt), each)
        seen: dict[int, str] = {}
        lanes, most_bytes = set(), 0
        while batcher.tickets:
            for delta in batcher.step():
                seen[delta.ticket] = seen.get(delta.ticket, "") + delta.text
            lanes |= {row.lane for row in batcher._rows.values()}
            most_bytes = max(most_bytes, batcher.kv_bytes)
        assert len(lanes) == (1 if len(prompts) == 1 else 2)
        assert most_bytes < 1.6 * 4000 * 2 * 1024  # not five times as much
        return [seen[ticket] for ticket in range(len(prompts))]

    alone = [
        answers([prompt], [job])[0]
        for prompt, job in [(long, brief), *((each, wanted) for each in short)]
    ]
    together = answers([long, *short], [brief, *[wanted] * 4])

    assert alone == together
    assert batcher.kv_bytes == 0


@pytest.mark.parametrize("n_long", [0, 700])
def test_padding_that_all_rows_have_is_taken_out(
    n_long: int, batcher: Batcher, prompter: Prompter
) -> None:
    """
    Rows come and go, and each layer has as many places as the longest of them has tokens.

    Also after a row has left that was longer than the model's windows, which go round by then.
    """
    questions = ["Hello", "What does /health mean?", "Which port?", "Who are you?", "Why MLX?"]
    if n_long:
        long = Job(Tokens(tuple(i % 1000 + 20 for i in range(n_long))), max_tokens=5)
        batcher.add(100, prompter.prepare(long), long)
    coming = [job(questions[i % 5], max_tokens=20 + i % 7, ignore_eos=True) for i in range(40)]
    seen: dict[int, list[Delta]] = {}
    begun = 0
    while batcher.tickets or begun < len(coming):
        while begun < len(coming) and len(batcher.tickets) < 4:
            batcher.add(begun, prompter.prepare(coming[begun]), coming[begun])
            begun += 1
        for delta in batcher.step():
            seen.setdefault(delta.ticket, []).append(delta)
        for lane in batcher._lanes._lanes:
            batch = lane._generation_batch
            if len(batch.tokens) > 1 and (100 not in batcher.tickets):
                longest = max(map(len, batch.tokens))
                assert [part._idx for part in batch.prompt_cache] == [longest] * 4
            assert all(part._idx <= max(n_long, 60) for part in lane._prompt_batch.prompt_cache)

    alone = []
    for each in coming[:10]:
        batcher.add(1, prompter.prepare(each), each)
        alone.append(text(run(batcher)[1]))
    assert [text(seen[ticket]) for ticket in range(10)] == alone
