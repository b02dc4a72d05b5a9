"""`service.engine.cache.memory_plan`: what was asked for is what there is, or the model isn't served."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.catalog.card import UnfitModel
from service.engine.cache import memory_plan
from service.engine.cache.memory_plan import MB, plan
from service.engine.decoding.draft_model import DraftModel
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Scheduler
from service.protocol import Load
from tests.engine.random_models import dressed

PROMPT = [50, 60, 70]


def order(**fields: object) -> Load:
    """Return an order for the embedded model."""
    return Load(None, None, 4, False, "INFO", **fields)  # type: ignore[arg-type]


def test_context_is_no_longer_than_its_memory(loaded: LoadedModel) -> None:
    """The card tells what can really be had; a bound on the cache makes room again."""
    whole, _ = plan(loaded, order())
    cut, kept = plan(loaded, order(kv_memory_mb=2))
    bounded, _ = plan(loaded, order(kv_memory_mb=2, max_kv_size=512))

    assert whole.card.context_length == loaded.card.context_length
    assert 512 < cut.card.context_length < whole.card.context_length
    assert kept.row_bytes(cut.card.context_length) <= 2 * MB
    assert kept.row_bytes(cut.card.context_length + 1) > 2 * MB
    assert bounded.card.context_length == loaded.card.context_length


def test_memory_too_small_for_anything_is_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the setting and what it has room for."""
    monkeypatch.setattr(memory_plan, "MB", 5_000)

    with pytest.raises(UnfitModel, match="KV_MEMORY_MB has room for 0 tokens"):
        plan(loaded, order(kv_memory_mb=1))


def test_draft_for_a_model_that_cannot_go_back_is_refused(loaded: LoadedModel) -> None:
    """Guesses that don't stand could not be taken back; whoever named a draft is told so."""
    draft = DraftModel(loaded.model, 512, 1280)

    with pytest.raises(UnfitModel, match="DRAFT_MODEL is of no use"):
        plan(dressed("state", loaded), order(), draft)


def test_folder_that_cannot_be_made_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    """The message names the setting."""
    (tmp_path / "file").touch()

    with pytest.raises(UnfitModel, match="PREFIX_CACHE_PATH"):
        plan(loaded, order(prefix_cache_mb=1, prefix_cache_path=str(tmp_path / "file")))


@pytest.mark.parametrize("is_true", [True, False])
def test_prefixes_are_kept_only_where_they_are_true(
    is_true: bool,
    loaded: LoadedModel,
    vocabulary: Vocabulary,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where an answer comes out otherwise, the cache is off, the log says so, and the server goes on."""
    _, found = plan(loaded, order(prefix_cache_mb=100))
    scheduler = Scheduler(loaded, vocabulary, 4, prefixes=found.prefixes)
    monkeypatch.setattr(memory_plan, "answers_alike", lambda *_: is_true)
    found.open(scheduler, PROMPT)

    assert found.prefixes.is_on is is_true
    assert ("the prefix cache is off" in caplog.text) is not is_true


def test_trial_that_breaks_is_no_proof(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is off then, too."""

    def broken(*_: object) -> bool:
        raise RuntimeError("out of memory")

    _, found = plan(loaded, order(prefix_cache_mb=100))
    monkeypatch.setattr(memory_plan, "answers_alike", broken)
    found.open(Scheduler(loaded, vocabulary, 4, prefixes=found.prefixes), PROMPT)

    assert not found.prefixes.is_on
