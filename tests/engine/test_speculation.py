"""`decoding.prompt_lookup` and `decoding.batch`: fewer steps, the same answers."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from service.engine.cache.kv import Caches, extend, merge, to_temporal_order, trim_each
from service.engine.cache.prefix_cache import PrefixCache
from service.engine.decoding.prompt_lookup import Acceptance, PromptLookup, accepted
from service.engine.decoding.step_costs import StepCosts
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.prompt import Prepared
from service.protocol import Job, Sampling, Tokens
from tests.engine import random_models
from tests.engine.conftest import run
from tests.engine.random_models import dressed
from tests.engine.test_prefix_cache import some

AHEAD = 6


def wish(seed: int | None = None, **fields: object) -> Job:
    """Return a job that goes on for 60 tokens; its prompt is handed over apart from it."""
    sampling = Sampling(temperature=0.0 if seed is None else 0.5, top_p=0.9, seed=seed)
    given = {"sampling": sampling, "max_tokens": 60, "ignore_eos": True} | fields
    return Job(Tokens((1,)), **given)  # type: ignore[arg-type]


class Heard:
    """A batch whose tokens are written down as its rows draw them."""

    def __init__(
        self, model: LoadedModel, vocabulary: Vocabulary, max_tokens_ahead: int, **options: Any
    ) -> None:
        self.scheduler = Scheduler(
            model,
            vocabulary,
            max_rows=8,
            prefixes=PrefixCache(1 << 30),
            max_tokens_ahead=max_tokens_ahead,
            **options,
        )
        self.said: dict[int, list[int]] = {}
        self.n_steps = self.most_lanes = 0

    def answers(self, jobs: list[tuple[list[int], Job]], pause: int = 0) -> list[list[int]]:
        """Run *jobs*, which come *pause* steps after each other; return their tokens."""
        self.said.clear()
        for ticket, (prompt, job) in enumerate(jobs):
            self.add(ticket, Prepared(prompt), job)
            for _ in range(pause):
                self.step()
        while self.scheduler.tickets:
            self.step()
        return [self.said[ticket] for ticket in range(len(jobs))]

    def add(self, ticket: int, prepared: Prepared, job: Job) -> None:
        """Take *job* in."""
        self.scheduler.add(ticket, prepared, job)

    def step(self) -> None:
        """Make one step, and write down which tokens each sequence has."""
        running = list(self.scheduler.sequences.values())
        self.scheduler.step()
        for each in running:
            self.said[each.ticket] = each.tokens[len(each.prompt) :]
        self.n_steps += 1
        self.most_lanes = max(self.most_lanes, self.scheduler.n_lanes)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess wherever there is something to guess: what it costs is not what is tested here."""
    monkeypatch.setattr(StepCosts, "is_worth_it", lambda *_: True)
    monkeypatch.setattr(
        Acceptance, "learn", lambda self, *_: setattr(self, "n_tokens", self._max_tokens)
    )


@pytest.mark.parametrize("kind", ["full", "window", "state"])
def test_answers_are_the_same(kind: str, loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Greedy or drawn, alone or in company, short of a window or far beyond it."""
    model = dressed(kind, loaded, is_repeating=True)
    chance = random.Random(5)
    jobs = []
    for i in range(8):
        piece = some(chance.choice((5, 20, 60)), i)
        prompt = piece * chance.choice((2, 3, 4)) + some(chance.choice((0, 3)), 100 + i)
        jobs.append((prompt, wish(i if i % 2 else None, max_tokens=chance.choice((7, 40, 90)))))
    plain, ahead = Heard(model, vocabulary, 0), Heard(model, vocabulary, AHEAD)
    expected = [plain.answers([job])[0] for job in jobs]
    alone = [ahead.answers([job])[0] for job in jobs]
    together = ahead.answers(jobs, pause=3)

    assert alone == expected
    assert together == expected


@pytest.mark.parametrize(
    ("options", "seeded"),
    [((8, None), False), ((4, None), True), ((None, 64), False), ((8, 64), True)],
)
def test_answers_are_the_same_from_smaller_caches(
    options: tuple[int | None, int | None],
    seeded: bool,
    loaded: LoadedModel,
    vocabulary: Vocabulary,
) -> None:
    """Tokens are taken back out of caches of few bits, and of bounded ones short of the bound and beyond."""
    model = dressed("full", loaded, is_repeating=True)
    caches = Caches(model.model, *options)
    jobs = [
        (some(n, n) * 3, wish(n if seeded else None, max_tokens=n_answer))
        for n, n_answer in ((5, 90), (20, 7), (60, 40), (20, 60))
    ]
    plain = Heard(model, vocabulary, 0, caches=caches)
    ahead = Heard(model, vocabulary, AHEAD, caches=caches)

    assert plain.answers(jobs, pause=3) == ahead.answers(jobs, pause=3)
    if not seeded:  # of what is drawn by chance little can be guessed
        assert ahead.n_steps < plain.n_steps


@pytest.mark.parametrize("kind", ["full", "window"])
def test_what_repeats_takes_fewer_steps(
    kind: str, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Most guesses stand where a model says the same over and over."""
    model = dressed(kind, loaded, is_repeating=True)
    plain, ahead = Heard(model, vocabulary, 0), Heard(model, vocabulary, AHEAD)
    job = [(some(20, 1) * 3, wish(max_tokens=200))]

    assert plain.answers(job) == ahead.answers(job)
    assert ahead.n_steps < 0.6 * plain.n_steps


def test_rows_that_cannot_be_guessed_are_served_beside(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Penalties, bias and log-probabilities hold for each token, whatever the neighbours do."""
    model = dressed("full", loaded, is_repeating=True)
    wishes = [
        wish(),
        wish(top_logprobs=2),
        wish(sampling=Sampling(temperature=0.0, frequency_penalty=0.5)),
        wish(sampling=Sampling(temperature=0.0, logit_bias=((50, 3.0),))),
        wish(seed=4),
    ]
    jobs = [(some(20, 1) * 3, each) for each in wishes]
    plain, ahead = Heard(model, vocabulary, 0), Heard(model, vocabulary, AHEAD)

    assert plain.answers(jobs) == ahead.answers(jobs)
    repeated = [
        (some(20, 1) * 3, wish(sampling=Sampling(temperature=0.0, repetition_penalty=1.3)))
    ] * 2
    assert plain.answers(repeated) == ahead.answers(repeated)


def test_what_is_kept_of_an_answer_is_true(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """After an answer that ended amid a guess, the chat goes on from the cache as from nothing."""
    model = dressed("window", loaded, is_repeating=True)
    plain, ahead = Heard(model, vocabulary, 0), Heard(model, vocabulary, AHEAD)
    for n in (37, 38, 39, 40):
        prompt = some(20, n) * 4
        (said,) = ahead.answers([(prompt, wish(max_tokens=n))])
        longer = [(prompt + said + some(9, n), wish(max_tokens=30))]
        assert ahead.answers(longer) == plain.answers(longer)
        assert len(said) == n


@pytest.mark.parametrize("seed", range(4))
def test_rewound_cache_is_as_if_never_read(seed: int) -> None:
    """Logits after tokens that were read and taken back are those of a sequence that never had them."""
    chance = random.Random(seed)
    model = random_models.model("window")

    def begun(prompt: list[int]) -> list[Any]:
        cache = merge([make_prompt_cache(model)])
        model(mx.array([prompt]), cache=cache)
        return list(cache)

    def tokens(n: int) -> list[int]:
        return chance.choices(range(8, 1200), k=n)

    rows = [tokens(chance.choice((5, 50, 61, 150)))]
    cache = begun(rows[0])
    for step in range(24):
        if step in (8, 16):
            rows.append(tokens(chance.choice((5, 50, 61, 150))))
            extend(cache, begun(rows[-1]))
        n_read = chance.choice((1, 1, 3, 7))
        read = [tokens(n_read) for _ in rows]
        n_kept = [chance.randint(1, n_read) for _ in rows]
        to_temporal_order(cache if n_read > 1 else [])
        logits = model(mx.array(read), cache=cache)
        trim_each(cache if n_read > 1 else [], [n_read - n for n in n_kept])
        for i, row in enumerate(rows):
            row += read[i][: n_kept[i]]
            cold = model(mx.array([row]))[0, -1]

            assert mx.allclose(logits[i, n_kept[i] - 1], cold, atol=1e-2).item()


def test_guess_follows_the_latest_place() -> None:
    """
    What came after the last three tokens when they stood there before, the token in flight first.

    What repeats itself goes on repeating.
    """
    lookup = PromptLookup(4)

    assert lookup.guess([1, 2, 3]) == []
    assert lookup.guess([1, 2, 3, 9, 8, 7, 6, 1, 2, 3]) == [9, 8, 7, 6]
    assert lookup.guess([1, 2, 3, 9, 8, 7, 6, 1, 2, 3, 5, 4, 1, 2, 3]) == [5, 4, 1, 2]
    assert lookup.guess([1, 2, 3, 9, 8, 7, 6, 1, 2, 3, 5, 4, 1, 2, 3, 11]) == []
    assert PromptLookup(4).guess([5, 5, 5, 5]) == [5, 5, 5, 5]


def test_what_stands_of_a_guess() -> None:
    """All before the first that was drawn otherwise."""
    assert accepted([5, 6, 7], [5, 6, 8, 9]) == [5, 6]
    assert accepted([5, 6], [5, 6, 8]) == [5, 6]
    assert accepted([], [5]) == []


def test_guesses_that_fail_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time; one that stands ends that, and the next is longer."""
    monkeypatch.undo()
    lookup, tokens = PromptLookup(8), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert len(lookup.guess(tokens)) == 4
    pauses = []
    for _ in range(3):
        lookup.acceptance.learn(3, 0)
        pauses.append(0)
        while not lookup.guess(tokens):
            pauses[-1] += 1

    assert pauses == [1, 2, 4]
    lookup.acceptance.learn(3, 3)
    assert len(lookup.guess(tokens)) == 8


def test_costs_refuses_what_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """More positions have to bring more tokens than they cost."""
    monkeypatch.undo()
    costs = StepCosts()
    assert not costs.is_worth_it(1, 4, 4.0)
    for _ in range(40):
        for n_rows in (1, 8):
            costs.learn(0.010, n_rows, 0)
        costs.learn(0.014, 1, 4)  # 1 ms each

    assert costs.is_worth_it(1, 4, 2.0)
    assert not costs.is_worth_it(8, 32, 4.0)  # one row guesses, and eight pay for it
    assert costs.is_worth_it(8, 32, 28.0) is False
    assert costs.is_worth_it(8, 8, 8.0)


def test_text_is_whole(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """Several tokens of a row in one step make the text that they make one by one."""
    model = dressed("full", loaded, is_repeating=True)
    texts = []
    for max_tokens_ahead in (0, AHEAD):
        scheduler = Scheduler(model, vocabulary, 2, max_tokens_ahead=max_tokens_ahead)
        scheduler.add(1, Prepared(some(20, 1) * 3), wish())
        deltas = run(scheduler)[1]
        assert deltas[-1].n_completion_tokens == 60
        texts.append("".join(delta.text for delta in deltas))

    assert texts[0] == texts[1]


def test_answer_may_be_over_before_its_row(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """A stop text amid a guess whose last token is the last allowed; the row beside goes on."""
    model = dressed("full", loaded, is_repeating=True)
    prompt = some(20, 1) * 3

    def said(max_tokens_ahead: int, **fields: Any) -> list[tuple[str, int, str | None]]:
        prefixes = PrefixCache(1 << 30)
        scheduler = Scheduler(
            model, vocabulary, 2, prefixes=prefixes, max_tokens_ahead=max_tokens_ahead
        )
        scheduler.add(1, Prepared(prompt), wish(**fields))
        scheduler.add(2, Prepared(some(30, 2)), wish(max_tokens=40))
        deltas = run(scheduler)
        n_kept = prefixes.match_length(np.array(prompt + some(1, 3), dtype=np.uint32))
        assert n_kept == len(prompt)
        return [
            ("".join(d.text for d in row), row[-1].n_completion_tokens, row[-1].finish_reason)
            for row in (deltas[1], deltas[2])
        ]

    reasons = []
    for max_tokens in range(26, 34):
        (text, *_), _ = said(0, max_tokens=max_tokens)
        for n_after in (1, 2):
            stop = (text[-40 - n_after : -n_after],)
            stopped = said(AHEAD, max_tokens=max_tokens, stop=stop)
            assert stopped == said(0, max_tokens=max_tokens, stop=stop)
            reasons.append(stopped[0][2])
    assert reasons.count("stop") > 6
