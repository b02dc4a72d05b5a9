"""A model that computes no numbers says nothing: its request fails, its neighbours are as if alone."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import pytest

from service.engine.cache.prefix_cache import PrefixCache
from service.engine.decoding.sampling import are_finite
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Scheduler
from service.protocol import Delta, Text
from tests.engine.conftest import job, run

POISONS = [math.nan, math.inf]


def poisoned(
    loaded: LoadedModel, poison: float, row: int, at_call: int, n_rows: int
) -> LoadedModel:
    """Return the model with *poison* in one logit of a *row*, from its so many-th call with *n_rows* on."""
    n_calls = 0

    def call(inputs: mx.array, cache: Any = None) -> mx.array:
        nonlocal n_calls
        logits: mx.array = loaded.model(inputs, cache=cache)
        if inputs.shape[0] == n_rows:
            n_calls += 1
            if n_calls >= at_call:
                logits[row, :, 7] = poison
        return logits

    model: Any = type("Poisoned", (), {"__call__": lambda _, *a, **k: call(*a, **k)})()
    model.layers, model.make_cache = loaded.model.layers, loaded.model.make_cache
    model.parameters = loaded.model.parameters
    return LoadedModel(model, loaded.tokenizer, loaded.card, loaded.sampling)


def text(deltas: list[Delta]) -> str:
    """Return the whole answer."""
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("poison", [*POISONS, -math.inf])
def test_rows_that_cannot_be_drawn_from(poison: float) -> None:
    """One logit that is no number spoils its row; that a token can't be is no fault, that none can is."""
    logits = mx.zeros((3, 2, 100))
    logits[1, 1, 70] = poison
    logits[2] = -math.inf

    assert [True, poison == -math.inf, False] == are_finite(logits).tolist()


@pytest.mark.parametrize("poison", POISONS)
def test_row_in_a_batch(
    poison: float, loaded: LoadedModel, vocabulary: Vocabulary, preparer: Preparer
) -> None:
    """It ends with what was said before, and nothing that was kept meanwhile is used again."""
    wanted = job(max_tokens=20, ignore_eos=True)
    scheduler = Scheduler(loaded, vocabulary, 4)
    scheduler.add(1, preparer.prepare(wanted), wanted)
    alone = text(run(scheduler)[1])
    prefixes = PrefixCache(1 << 30)
    sick = poisoned(loaded, poison, row=1, at_call=6, n_rows=2)
    scheduler = Scheduler(sick, vocabulary, 4, prefixes=prefixes)
    for ticket in (1, 2):
        scheduler.add(ticket, preparer.prepare(wanted), wanted)
    said: dict[int, str] = {1: "", 2: ""}
    failed: list[int] = []
    while scheduler.tickets:
        output = scheduler.step()
        for delta in output.deltas:
            said[delta.ticket] += delta.text
        if output.not_finite:
            failed += output.not_finite
            assert 0 == len(prefixes)

    assert [2] == failed
    assert alone == said[1]
    assert alone.startswith(said[2])
    assert len(said[2]) < len(alone)


@pytest.mark.parametrize("n_ahead", [0, 8])
def test_row_alone(
    n_ahead: int, loaded: LoadedModel, vocabulary: Vocabulary, preparer: Preparer
) -> None:
    """With guesses and without: no token is drawn from what is no number."""
    sick = poisoned(loaded, math.nan, row=0, at_call=8, n_rows=1)
    scheduler = Scheduler(sick, vocabulary, 4, max_tokens_ahead=n_ahead)
    wanted = job("one two three one two three one two three", max_tokens=60, ignore_eos=True)
    scheduler.add(1, preparer.prepare(wanted), wanted)
    deltas: list[Delta] = []
    failed: list[int] = []
    while scheduler.tickets:
        output = scheduler.step()
        deltas += output.deltas
        failed += output.not_finite

    assert [1] == failed
    assert all(delta.finish_reason is None for delta in deltas)


def test_prompt_that_is_scored(
    loaded: LoadedModel, vocabulary: Vocabulary, preparer: Preparer
) -> None:
    """Log-probabilities that are no numbers are none."""
    sick = poisoned(loaded, math.nan, row=0, at_call=1, n_rows=1)
    scheduler = Scheduler(sick, vocabulary, 4)
    wanted = job(prompt=Text("a few words"), max_tokens=0, echo=True, top_logprobs=2)
    scheduler.add(1, preparer.prepare(wanted), wanted)
    failed: list[int] = []
    while scheduler.tickets:
        failed += scheduler.step().not_finite

    assert [1] == failed
