"""The embedded model, loaded once by the code that loads any other."""

from __future__ import annotations

import mlx.core as mx
import pytest

from service.engine.model.load import LoadedModel, load
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Scheduler
from service.protocol import Chat, Delta, Job, Load, Sampling, Turn


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """The embedded model."""
    return load(Load(None, None, max_concurrency=4, warmup=False, log_level="INFO"))


@pytest.fixture(scope="session")
def vocabulary(loaded: LoadedModel) -> Vocabulary:
    """The embedded model's tokens."""
    return Vocabulary(loaded.tokenizer, loaded.model(mx.array([[0]])).shape[-1])


@pytest.fixture(scope="session")
def preparer(loaded: LoadedModel, vocabulary: Vocabulary) -> Preparer:
    """The embedded model's preparer."""
    return Preparer(loaded.tokenizer, loaded.card.context_length, vocabulary, allow_grammars=True)


@pytest.fixture
def scheduler(loaded: LoadedModel, vocabulary: Vocabulary) -> Scheduler:
    """A scheduler of four rows at most, with nothing to do."""
    return Scheduler(loaded, vocabulary, max_rows=4)


def job(text: str = "Hello", **fields: object) -> Job:
    """Return a one-turn job, greedy unless *fields* say otherwise."""
    chat = Chat((Turn("user", text),))
    return Job(**{"prompt": chat, "sampling": Sampling(temperature=0.0)} | fields)  # type: ignore[arg-type]


def run(scheduler: Scheduler) -> dict[int, list[Delta]]:
    """Step until nothing is left; return each ticket's deltas."""
    seen: dict[int, list[Delta]] = {}
    while scheduler.tickets:
        for delta in scheduler.step().deltas:
            seen.setdefault(delta.ticket, []).append(delta)
    return seen
