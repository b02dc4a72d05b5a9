"""`decoding.draft_model`: its guesses change no answer, and save steps where they are right."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
import pytest
from mlx_lm.models.cache import make_prompt_cache

from service.catalog.card import EMBEDDED_FOLDER, UnfitModel
from service.engine.cache.kv import Caches
from service.engine.cache.memory_plan import MB, MIN_CONTEXT, plan
from service.engine.decoding import draft_model
from service.engine.decoding.draft_model import DraftModel, load_draft
from service.engine.decoding.drafter import Drafter
from service.engine.decoding.prompt_lookup import PromptLookup
from service.engine.decoding.step_costs import (
    ADVANCE_STEPS,
    MAX_BUDGET_STEPS,
    SAVED_STEPS,
    DraftBudget,
    StepCosts,
)
from service.engine.model.load import LoadedModel, load
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler import lanes
from service.engine.text.prompt import Prepared
from service.engine.warmup import warm_up
from service.protocol import Constraint, Load, Sampling
from tests.benchmarks import deep_model
from tests.engine import random_models
from tests.engine.conftest import job
from tests.engine.random_models import N_TOKENS, dressed
from tests.engine.test_prefix_cache import some
from tests.engine.test_speculation import AHEAD, Heard, wish


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the draft model guess in every step, and nobody else: what it costs is not what is tested here."""
    monkeypatch.setattr(PromptLookup, "guess", lambda *_: [])
    monkeypatch.setattr(StepCosts, "step_s", lambda *_: 1.0)
    monkeypatch.setattr(StepCosts, "charge", lambda *_: None)
    monkeypatch.setattr(StepCosts, "reward", lambda *_: None)


class Resized(nn.Module):
    """A model with another number of logits; it reads only ids below that."""

    def __init__(self, model: nn.Module, n_logits: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.make_cache = functools.partial(make_prompt_cache, model)
        self._n_logits = n_logits

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits, shape (rows, n, their number)."""
        assert inputs.max().item() < self._n_logits  # type: ignore[operator]  # mlx's stubs
        logits: mx.array = self.model(inputs, cache=cache)
        n_more = max(self._n_logits - logits.shape[-1], 0)
        padded = mx.pad(logits, [(0, 0), (0, 0), (0, n_more)], constant_values=99.0)
        return padded[..., : self._n_logits]


def drafting(model: LoadedModel, vocabulary: Vocabulary, draft: nn.Module, **options: Any) -> Heard:
    """Return a batch for which *draft* guesses."""
    guessing = DraftModel(draft, 4096, vocabulary.n_logits)
    return Heard(model, vocabulary, AHEAD, draft=guessing, **options)


def mixed_jobs(n: int) -> list[tuple[list[int], Any]]:
    """Return *n* prompts and answers of unlike lengths, every second one greedy, the others drawn."""
    chance = random.Random(5)
    lengths = [(chance.choice((1, 2, 5, 20, 90)), chance.choice((7, 20, 50))) for _ in range(n)]
    return [
        (some(n_prompt, i), wish(i if i % 2 else None, max_tokens=n_answer))
        for i, (n_prompt, n_answer) in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("kind", "drafts"),
    [("full", "same"), ("full", "window"), ("window", "same"), ("window", "full")],
)
def test_answers_are_the_same(
    kind: str, drafts: str, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Greedy or drawn, alone or among rows that come and go, whether the draft is right or never is."""
    model = dressed(kind, loaded, is_repeating=True)
    draft = model.model if drafts == "same" else random_models.model(drafts)
    jobs = mixed_jobs(8)
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, draft)
    expected = [plain.answers([each])[0] for each in jobs]

    assert ahead.answers(jobs[:2]) == expected[:2]
    assert ahead.answers(jobs, pause=3) == expected


@pytest.mark.parametrize("kind", ["full", "window"])
def test_good_guesses_take_fewer_steps(
    kind: str, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """The model itself as its draft is nearly always right, also where tokens are drawn by chance."""
    model = dressed(kind, loaded)
    jobs = [(some(20, i), wish(seed, max_tokens=60)) for i, seed in enumerate((None, 4, 5))]
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)
    plain.answers(jobs)
    ahead.answers(jobs)

    assert ahead.said == plain.said
    assert ahead.n_steps < 0.3 * plain.n_steps


@pytest.mark.parametrize("options", [(8, None), (4, None), (None, 64), (8, 64)])
def test_answers_are_the_same_from_smaller_caches(
    options: tuple[int | None, int | None], loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """KV_BITS and MAX_KV_SIZE are the model's own; tokens are taken back out of such caches, too."""
    model = dressed("full", loaded, is_repeating=True)
    caches = Caches(model.model, *options)
    plain = Heard(model, vocabulary, 0, caches=caches)
    ahead = drafting(model, vocabulary, model.model, caches=caches)
    jobs = mixed_jobs(4)

    assert plain.answers(jobs, pause=3) == ahead.answers(jobs, pause=3)
    assert ahead.n_steps < 0.9 * plain.n_steps


def test_rows_of_several_lanes_are_drafted(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long row beside short ones has a lane of its own, and guesses of its own."""
    monkeypatch.setattr(lanes, "MIN_LANE_BYTES", 1 << 19)
    model = dressed("full", loaded, is_repeating=True)
    jobs = [(some(n, n), wish(max_tokens=100)) for n in (1000, 9, 30)]
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)
    for heard in (plain, ahead):
        for ticket, (prompt, each) in enumerate(jobs):
            heard.add(ticket, Prepared(prompt), each)
            while not heard.scheduler.n_lanes:  # the others come once the long one is decoded
                heard.step()
        while heard.scheduler.tickets:
            heard.step()

    assert plain.said == ahead.said
    assert ahead.most_lanes == 2
    assert ahead.n_steps < 0.9 * plain.n_steps


def test_cancelled_rows_leave_the_others_as_they_are(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Whether the draft model was still reading it or had read it."""
    model = dressed("full", loaded, is_repeating=True)
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)
    jobs = [(some(n, n), wish(max_tokens=60)) for n in (30, 20, 700, 40)]
    expected = plain.answers(jobs)
    for ticket, (prompt, each) in enumerate(jobs):
        ahead.add(ticket, Prepared(prompt), each)
    for cancelled in (1, 2):
        for _ in range(3):
            ahead.step()
        ahead.scheduler.cancel({cancelled})
    while ahead.scheduler.tickets:
        ahead.step()

    assert [ahead.said[0], ahead.said[3]] == [expected[0], expected[3]]


def test_rows_that_cannot_be_drafted_are_served_beside(
    loaded: LoadedModel, vocabulary: Vocabulary, preparer: Preparer
) -> None:
    """A form, a penalty or log-probabilities hold for each token; the neighbour is drafted all the same."""
    constraint = Constraint("regex", "[a-z]{40,}", "structured_outputs")
    held = job(constraint=constraint, max_tokens=30)
    jobs = [
        (some(20, 1), wish(max_tokens=90)),
        (some(30, 2), wish(sampling=Sampling(temperature=0.0, frequency_penalty=0.5))),
        (some(9, 3), wish(top_logprobs=1)),
    ]
    model = dressed("full", loaded)
    said = []
    for heard in (Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)):
        heard.add(9, preparer.prepare(held), held)
        said.append([*heard.answers(jobs), heard.said[9]])

    assert said[0] == said[1]
    assert heard.n_steps < 80


def test_row_longer_than_the_draft_can_read_goes_on_without(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """It leaves the draft model's batch, and nothing of it stays there."""
    model = dressed("full", loaded)
    guessing = DraftModel(model.model, 64, vocabulary.n_logits)
    plain, ahead = Heard(model, vocabulary, 0), Heard(model, vocabulary, AHEAD, draft=guessing)
    jobs = [(some(20, i), wish(max_tokens=100)) for i in range(2)]

    assert plain.answers(jobs) == ahead.answers(jobs)
    assert 60 < ahead.n_steps < 80


@pytest.mark.parametrize("n_logits", [1000, 1500])
def test_draft_of_another_width_guesses_only_what_there_is(
    n_logits: int, loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Vocabularies are padded differently: no id reaches a model that doesn't have it."""
    model = dressed("full", loaded, is_repeating=True)
    draft = Resized(model.model, n_logits)
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, draft)
    jobs = mixed_jobs(4)

    assert plain.answers(jobs) == ahead.answers(jobs)
    assert ahead.n_steps < 0.9 * plain.n_steps


def test_rows_far_behind_catch_up(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rest the draft model reads what was said meanwhile, each row by itself, and guesses on."""
    model = dressed("full", loaded)
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)
    jobs = [(some(n, n), wish(max_tokens=200)) for n in (30, 20)]
    expected = plain.answers(jobs)
    for ticket, (prompt, each) in enumerate(jobs):
        ahead.add(ticket, Prepared(prompt), each)
    for steps, n_rounds in ((0.0, 5), (1.0, 5), (0.0, 60), (1.0, 99)):
        monkeypatch.setattr(DraftBudget, "steps", steps)
        for _ in range(n_rounds):
            ahead.step()

    assert [ahead.said[0], ahead.said[1]] == expected
    assert not ahead.scheduler.tickets


def test_draft_that_breaks_breaks_the_step_and_no_more(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with any error of a step, all rows are dropped; those that come then are served."""
    model = dressed("full", loaded)
    jobs = [(some(20, 1), wish(max_tokens=30))]
    plain, ahead = Heard(model, vocabulary, 0), drafting(model, vocabulary, model.model)
    expected = plain.answers(jobs)
    guess = Drafter.guess

    def broken(*_: object) -> None:
        raise RuntimeError("shapes")

    monkeypatch.setattr(Drafter, "guess", broken)
    ahead.add(7, Prepared(jobs[0][0]), jobs[0][1])
    failures: list[int] = []
    while ahead.scheduler.tickets:
        failures += ahead.scheduler.step().failures
    monkeypatch.setattr(Drafter, "guess", guess)

    assert failures == [7]
    assert ahead.answers(jobs) == expected


def test_warm_up_runs_the_draft(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to be compiled for it is compiled before the first request."""
    monkeypatch.undo()
    guess, seen = Drafter.guess, []

    def watched(self: Drafter, *args: Any) -> list[list[int]]:
        found = guess(self, *args)
        seen.append(found)
        return found

    monkeypatch.setattr(Drafter, "guess", watched)
    ahead = drafting(loaded, vocabulary, loaded.model)
    warm_up(ahead.scheduler, some(20, 1), 4)

    assert any(any(found) for found in seen)


def test_budget_is_used_up_and_put_by() -> None:
    """An advance; what is saved, up to so much; then a rest until the advance is there again."""
    budget = DraftBudget()
    budget.book(-ADVANCE_STEPS + 1)
    assert budget.steps == 1
    budget.book(1000)
    assert budget.steps == MAX_BUDGET_STEPS
    budget.book(-MAX_BUDGET_STEPS)
    n_rests = 0
    while not budget.steps:
        budget.put_by()
        n_rests += 1

    assert n_rests == ADVANCE_STEPS / SAVED_STEPS + 1


def test_costs_of_a_draft_that_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with it takes twice as long and brings nothing: over many steps, hardly any time is lost."""
    monkeypatch.undo()
    costs, spent_s = StepCosts(), 0.0
    for _ in range(5000):
        if costs.step_s(2) and costs.draft_budget.steps:
            costs.learn(0.015, 2, 6)
            costs.reward(2, 0.020, 2)
            spent_s += 0.020
        else:
            costs.draft_budget.put_by()
            costs.learn(0.010, 2, 0)
            spent_s += 0.010

    assert spent_s < 50 / 0.97


def test_costs_of_a_draft_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked in all steps but those that are timed without it; free guesses must be better than it."""
    monkeypatch.undo()
    costs, n_drafted = StepCosts(), 0
    for _ in range(1000):
        if costs.step_s(2) and costs.draft_budget.steps:
            costs.learn(0.015, 2, 6)
            costs.reward(2, 0.020, 8)
            n_drafted += 1
        else:
            costs.draft_budget.put_by()
            costs.learn(0.010, 2, 0)

    assert n_drafted > 950
    assert not costs.is_worth_it(2, 6, 3.0)
    assert costs.is_worth_it(2, 6, 6.0)


def ordered(folder: Path | str, **fields: object) -> Load:
    """Return an order for the embedded model, with the draft model in *folder*."""
    order = Load(None, None, 4, False, "INFO", num_draft_tokens=4, draft_model=str(folder))
    return msgspec.structs.replace(order, **fields)


def copied(folder: Path) -> Path:
    """Return a copy of the embedded model in *folder*."""
    return shutil.copytree(EMBEDDED_FOLDER, folder)


def test_deep_model_says_what_its_draft_says(loaded: LoadedModel, tmp_path: Path) -> None:
    """The benchmark's best case is what it is said to be."""
    deep = load(ordered("", model_path=str(deep_model.make(tmp_path / "deep")))).model
    ids = mx.array([some(90, 1)])

    assert len(deep.layers) == deep_model.TIMES * len(loaded.model.layers)
    assert mx.array_equal(deep(ids), loaded.model(ids)).item()


def test_draft_is_loaded_where_it_is_of_use(loaded: LoadedModel) -> None:
    """By a folder's name; not where nothing is to be guessed."""
    assert load_draft(ordered(EMBEDDED_FOLDER), loaded, 1280) is not None
    assert load_draft(ordered(EMBEDDED_FOLDER, num_draft_tokens=0), loaded, 1280) is None
    assert load_draft(ordered("", draft_model=None), loaded, 1280) is None


def test_draft_with_other_tokens_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    """One token that is another is enough: what it guesses would be wrong, and nobody would know why."""
    folder = copied(tmp_path / "other")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[500:502]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokenizer), "utf-8")

    with pytest.raises(UnfitModel, match=r"DRAFT_MODEL can't be used: its tokens are not"):
        load_draft(ordered(folder), loaded, 1280)


def test_draft_with_damaged_weights_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    """As the model itself would be."""
    folder = copied(tmp_path / "nan")
    file = str(folder / "model.safetensors")
    weights = dict(mx.load(file).items())  # type: ignore[union-attr]
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    mx.save_safetensors(file, weights, metadata={"format": "mlx"})

    with pytest.raises(UnfitModel, match=r"DRAFT_MODEL can't be used: its weights are damaged"):
        load_draft(ordered(folder), loaded, 1280)


def test_draft_that_is_not_there_is_refused(loaded: LoadedModel) -> None:
    """The message names this setting and no other."""
    with pytest.raises(UnfitModel, match="DRAFT_MODEL names no folder") as caught:
        load_draft(ordered("/no/such/folder"), loaded, 1280)

    assert "MODEL_PATH" not in str(caught.value)


def test_draft_that_cannot_forget_a_token_is_refused() -> None:
    """A state goes forwards only."""
    with pytest.raises(UnfitModel, match="state"):
        DraftModel(random_models.model("state"), 4096, N_TOKENS)


def test_draft_that_does_not_run_in_a_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows at the start, and not with the second request."""

    def broken(*_: object) -> None:
        raise ValueError("shapes")

    monkeypatch.setattr(draft_model, "merge", broken)
    with pytest.raises(UnfitModel, match="does not run in a batch"):
        DraftModel(random_models.model("full"), 4096, N_TOKENS)


def draft_bytes(order: Load, loaded: LoadedModel) -> Callable[[int], int]:
    """Return what the draft model that *order* names remembers of rows."""
    draft = load_draft(order, loaded, 1280)
    assert draft is not None
    return draft.n_bytes


def test_draft_has_its_part_of_the_memory(loaded: LoadedModel) -> None:
    """Each token is remembered twice, so fewer fit."""
    order = ordered(EMBEDDED_FOLDER, kv_memory_mb=4)
    alone, _ = plan(loaded, order)
    both, kept = plan(loaded, order, draft_bytes(order, loaded))

    assert MIN_CONTEXT < both.card.context_length < alone.card.context_length / 2
    assert kept.sequence_bytes(both.card.context_length) <= kept.kv_budget_bytes == 4 * MB


def test_bounded_model_has_a_draft_that_is_not(loaded: LoadedModel) -> None:
    """What a draft remembers grows where the model's memory doesn't, up to what the draft can read."""
    order = ordered(EMBEDDED_FOLDER, kv_memory_mb=2, max_kv_size=64)
    both, kept = plan(loaded, order, draft_bytes(order, loaded))
    n = both.card.context_length
    short = DraftModel(loaded.model, 100, 1280)

    assert kept.caches.n_bytes(n) == kept.caches.n_bytes(
        512
    )  # its windows, which no setting bounds
    assert kept.sequence_bytes(n) <= 2 * MB < kept.sequence_bytes(n + 1)
    assert short.n_bytes(99) < short.n_bytes(100) == short.n_bytes(101)
