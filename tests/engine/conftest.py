"""The embedded model, loaded once by the code that loads any other."""

from __future__ import annotations

import mlx.core as mx
import pytest

from service.engine.batcher import Batcher
from service.engine.load import LoadedModel, load
from service.engine.text import Prompter
from service.protocol import Delta, Job, Load, Sampling, Turn


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """The embedded model."""
    return load(Load(None, None, max_concurrency=4, warmup=False, log_level="INFO"))


@pytest.fixture(scope="session")
def n_logits(loaded: LoadedModel) -> int:
    """The embedded model's logit width."""
    return int(loaded.model(mx.array([[0]])).shape[-1])


@pytest.fixture(scope="session")
def prompter(loaded: LoadedModel, n_logits: int) -> Prompter:
    """The embedded model's prompter."""
    return Prompter(loaded.tokenizer, loaded.card.context_length, n_logits)


@pytest.fixture
def batcher(loaded: LoadedModel, n_logits: int) -> Batcher:
    """An empty batch of four rows at most."""
    return Batcher(loaded, n_logits, max_rows=4)


def job(text: str = "Hello", **fields: object) -> Job:
    """Return a one-turn job, greedy unless *fields* say otherwise."""
    return Job(**{"turns": (Turn("user", text),), "sampling": Sampling(temperature=0.0)} | fields)  # type: ignore[arg-type]


def run(batcher: Batcher) -> dict[int, list[Delta]]:
    """Step until the batch is empty; return each ticket's deltas."""
    seen: dict[int, list[Delta]] = {}
    while batcher.tickets:
        for delta in batcher.step():
            seen.setdefault(delta.ticket, []).append(delta)
    return seen
