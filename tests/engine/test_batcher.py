"""`service.engine.batcher` and `service.engine.warmup`, with the embedded model."""

from __future__ import annotations

import msgspec
import pytest

from service.engine.batcher import Batcher
from service.engine.load import LoadedModel
from service.engine.text import Prompter
from service.engine.warmup import warm_up
from service.protocol import Delta, Job, Sampling
from tests.engine.conftest import job, run


def text(deltas: list[Delta]) -> str:
    """Return the whole answer."""
    return "".join(delta.text for delta in deltas)


def test_batch_answers_as_each_alone(batcher: Batcher, prompter: Prompter) -> None:
    """Prompts of different lengths side by side give the greedy answers that they give alone."""
    questions = ["Hello", "What does /health mean?", "Who are you? " * 60, "Which port?"]
    alone = []
    for question in questions:
        batcher.add(1, prompter.prompt(job(question)), job(question, max_tokens=24))
        alone.append(text(run(batcher)[1]))
    for ticket, question in enumerate(questions):
        batcher.add(ticket, prompter.prompt(job(question)), job(question, max_tokens=24))
    together = run(batcher)

    assert alone == [text(together[ticket]) for ticket in range(4)]


def test_rows_that_join_later_do_not_disturb(batcher: Batcher, prompter: Prompter) -> None:
    """A row that comes while another decodes changes nothing for it."""
    prompt = prompter.prompt(job())
    batcher.add(1, prompt, job(max_tokens=20))
    alone = text(run(batcher)[1])
    batcher.add(1, prompt, job(max_tokens=20))
    first = [delta for _ in range(6) for delta in batcher.step()]
    batcher.add(2, prompter.prompt(job("Which port?")), job(max_tokens=20))
    rest = run(batcher)

    assert alone == text(first + rest[1])


def test_finish_reason_and_count(batcher: Batcher, prompter: Prompter) -> None:
    """`length` after exactly so many tokens; `stop` at the end of the turn, which is not counted."""
    prompt = prompter.prompt(job())
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
    prompt = prompter.prompt(job())
    batcher.add(1, prompt, job())
    whole = text(run(batcher)[1])
    stop = whole[5:9]
    batcher.add(1, prompt, job(stop=(stop,)))
    deltas = run(batcher)[1]

    assert text(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert batcher.tickets == []
    assert batcher._generator.prompt_cache_nbytes == 0


@pytest.mark.parametrize("n_steps", [0, 1, 2, 8])
def test_removed_row_is_gone_at_every_stage(
    n_steps: int, batcher: Batcher, prompter: Prompter
) -> None:
    """Waiting, prefilling or decoding: it brings nothing more, and its neighbour is as if alone."""
    long = job("tell me " * 500, ignore_eos=True)
    batcher.add(1, prompter.prompt(long), long)
    batcher.add(2, prompter.prompt(job()), job(max_tokens=20))
    before = [delta for _ in range(n_steps) for delta in batcher.step()]
    batcher.remove(1)
    after = run(batcher)
    batcher.add(3, prompter.prompt(job()), job(max_tokens=20))
    alone = run(batcher)[3]

    assert 1 not in after
    assert text([d for d in before if d.ticket == 2] + after[2]) == text(alone)
    assert batcher._generator.prompt_cache_nbytes == 0


def test_context_ends_an_answer(loaded: LoadedModel, n_logits: int, prompter: Prompter) -> None:
    """More tokens than the context has room for are never generated."""
    card = msgspec.structs.replace(loaded.card, context_length=48)
    short = LoadedModel(loaded.model, loaded.tokenizer, card, loaded.sampling)
    batcher = Batcher(short, n_logits, max_rows=1)
    prompt = prompter.prompt(job())
    batcher.add(1, prompt, job(ignore_eos=True, max_tokens=1000))
    last = run(batcher)[1][-1]

    assert last.finish_reason == "length"
    assert len(prompt) + last.n_completion_tokens == 48


def test_seeded_rows_repeat_in_any_company(batcher: Batcher, prompter: Prompter) -> None:
    """The same seed draws the same answer alone and beside three others, which draw their own."""

    def drawn(seed: int) -> Job:
        return job(sampling=Sampling(temperature=2.0, seed=seed), max_tokens=32, ignore_eos=True)

    prompt = prompter.prompt(job("zxqv 17 ][ blorp"))
    batcher.add(1, prompt, drawn(9))
    alone = text(run(batcher)[1])
    for ticket, seed in enumerate([1, 9, 2, 3]):
        batcher.add(ticket, prompt, drawn(seed))
    together = [text(deltas) for _, deltas in sorted(run(batcher).items())]

    assert alone == together[1]
    assert len(set(together)) > 1


def test_warm_up_leaves_nothing_behind(batcher: Batcher, prompter: Prompter) -> None:
    """It runs real rows through the batcher, and the batch is empty again after it."""
    warm_up(batcher, prompter.prompt(job()), 4)

    assert batcher.tickets == []


def test_warm_up_fails_if_the_model_does(
    batcher: Batcher, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks a step breaks warm-up; it never passes for done."""

    def broken(self: Batcher) -> tuple[Delta, ...]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Batcher, "step", broken)

    with pytest.raises(RuntimeError, match="out of memory"):
        warm_up(batcher, prompter.prompt(job()), 4)
