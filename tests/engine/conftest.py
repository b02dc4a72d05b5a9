"""The embedded model, loaded once by the code that loads any other."""

from __future__ import annotations

import mlx.core as mx
import pytest

from service.engine.model.load import LoadedModel, load
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Batcher
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


@pytest.fixture(scope="session")
def prompter(preparer: Preparer) -> Preparer:
    """The same, in tests of what follows a prompt."""
    return preparer


@pytest.fixture
def batcher(loaded: LoadedModel, vocabulary: Vocabulary) -> Batcher:
    """An empty batch of four rows at most."""
    return Batcher(loaded, vocabulary, max_rows=4)


def job(text: str = "Hello", **fields: object) -> Job:
    """Return a one-turn job, greedy unless *fields* say otherwise."""
    chat = Chat((Turn("user", text),))
    return Job(**{"prompt": chat, "sampling": Sampling(temperature=0.0)} | fields)  # type: ignore[arg-type]


def run(batcher: Batcher) -> dict[int, list[Delta]]:
    """Step until the batch is empty; return each ticket's deltas."""
    seen: dict[int, list[Delta]] = {}
    while batcher.tickets:
        for delta in batcher.step():
            seen.setdefault(delta.ticket, []).append(delta)
    return seen
