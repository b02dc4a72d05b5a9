"""`cache.memory_plan`: what was asked for is what there is, or the model isn't served; and never more."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from service.catalog.card import UnfitModel
from service.engine.cache import inside, memory_plan
from service.engine.cache.kv import Cache, Caches, arrays
from service.engine.cache.memory_plan import (
    MAX_STEP_TOKENS,
    MB,
    MIN_STEP_TOKENS,
    RESERVE,
    plan,
    set_limits,
)
from service.engine.cache.step_memory import measured
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.prompt import Prompter, RefusedPrompt
from service.protocol import Job, Load, Tokens
from tests.engine import random_models
from tests.engine.random_models import dressed


def order(**fields: object) -> Load:
    """Return an order for the embedded model."""
    return Load(None, None, 4, False, "INFO", **fields)  # type: ignore[arg-type]


def machine_with(usable_mb: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have so much memory left."""
    monkeypatch.setattr(memory_plan, "usable_bytes", lambda: int(usable_mb * MB))


def test_context_is_no_longer_than_its_memory(loaded: LoadedModel) -> None:
    """The card tells what can really be had; a bound on the cache makes room again."""
    whole, _ = plan(loaded, order())
    cut, made = plan(loaded, order(kv_memory_mb=2))
    bounded, _ = plan(loaded, order(kv_memory_mb=2, max_kv_size=512))

    assert whole.card.context_length == loaded.card.context_length
    assert 512 < cut.card.context_length < whole.card.context_length
    assert made.sequence_bytes(cut.card.context_length) <= made.kv_budget_bytes == 2 * MB
    assert made.sequence_bytes(cut.card.context_length + 1) > 2 * MB
    assert bounded.card.context_length == loaded.card.context_length


@pytest.mark.parametrize("usable_mb", [7, 12, 30, 60, 100, 300, 20_000])
@pytest.mark.parametrize("prefix_cache_mb", [0, 20, 1024])
def test_parts_are_never_more_than_the_machine_has(
    usable_mb: int, prefix_cache_mb: int, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With much or little: rows, prefixes, the largest step and the reserve fit, and so does one full row."""
    machine_with(usable_mb, monkeypatch)
    _, made = plan(loaded, order(prefix_cache_mb=prefix_cache_mb))
    whole = made.kv_budget_bytes + made.prefixes.max_bytes + made.step_bytes

    assert whole == int(usable_mb * MB * (1 - RESERVE))
    assert made.sequence_bytes(made.context_length) <= made.kv_budget_bytes
    assert made.context_length <= made.model_context_length == loaded.card.context_length
    assert MIN_STEP_TOKENS <= made.max_step_tokens <= MAX_STEP_TOKENS


def test_prefixes_give_way_before_contexts(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what a whole row leaves is theirs; where there is plenty they have what was asked for."""
    machine_with(60, monkeypatch)
    _, little = plan(loaded, order(prefix_cache_mb=1024))
    machine_with(20_000, monkeypatch)
    _, much = plan(loaded, order(prefix_cache_mb=1024))

    assert little.context_length == little.model_context_length
    assert 0 < little.prefixes.max_bytes < 60 * MB
    assert little.kv_budget_bytes == little.sequence_bytes(little.context_length)
    assert much.prefixes.max_bytes == 1024 * MB


def test_memory_that_is_set_is_had_exactly(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the machine has; where that is less, the log says so."""
    machine_with(30, monkeypatch)
    _, made = plan(loaded, order(kv_memory_mb=700))

    assert made.kv_budget_bytes == 700 * MB
    assert "KV_MEMORY_MB and PREFIX_CACHE_MB are more than the" in caplog.text


def test_steps_become_smaller_before_contexts(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes no more than its share, where it can do with less."""
    machine_with(300, monkeypatch)
    _, made = plan(loaded, order())

    assert made.context_length == made.model_context_length
    assert MIN_STEP_TOKENS < made.max_step_tokens < MAX_STEP_TOKENS
    assert made.step_bytes < 300 * MB / 4


def test_memory_too_small_for_anything_is_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what there is, and the setting where it is to blame."""
    machine_with(1, monkeypatch)
    with pytest.raises(
        UnfitModel, match=r"the 1 MB that the machine has left .* room for 0 tokens"
    ):
        plan(loaded, order())

    monkeypatch.setattr(memory_plan, "MB", 5_000)
    with pytest.raises(UnfitModel, match="KV_MEMORY_MB has room for 0 tokens"):
        plan(loaded, order(kv_memory_mb=1))


def test_draft_takes_part_of_the_memory(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a draft model remembers of a row counts with the row."""
    machine_with(12, monkeypatch)
    alone, _ = plan(loaded, order())
    both, made = plan(loaded, order(), lambda n_tokens: n_tokens * 4096)

    assert both.card.context_length < alone.card.context_length
    assert made.sequence_bytes(100) == made.caches.n_bytes(100) + 409_600


def test_draft_for_a_model_that_cannot_go_back_is_refused(loaded: LoadedModel) -> None:
    """Guesses that don't stand could not be taken back; whoever named a draft is told so."""
    with pytest.raises(UnfitModel, match="DRAFT_MODEL is of no use"):
        plan(dressed("state", loaded), order(), lambda n_tokens: n_tokens)


def test_folder_that_cannot_be_made_costs_nothing_but_itself(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    """Prefixes are kept in memory alone, and the fault names the setting."""
    (tmp_path / "file").touch()
    faults: list[str] = []
    wanted = order(prefix_cache_mb=1, prefix_cache_path=str(tmp_path / "file"))
    _, made = plan(loaded, wanted, on_fault=faults.append)

    assert (True, None) == (made.prefixes.is_on, made.store)
    assert ["PREFIX_CACHE_PATH can't be made: Not a directory"] == faults


def test_budget_tells_the_plan(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, memory, context, and how many such contexts it holds."""
    machine_with(1000, monkeypatch)
    _, made = plan(loaded, order())
    budget = made.budget

    assert (budget.kv_cache_bytes, budget.context_length) == (made.kv_budget_bytes, 8192)
    assert budget.n_full_contexts == made.kv_budget_bytes // made.sequence_bytes(8192) > 20
    assert 1_000_000 < budget.weights_bytes < 3_000_000


def test_prompt_beyond_the_memory_is_told_the_numbers(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many tokens it has, how many fit, and that it is memory that binds and not the model."""
    machine_with(12, monkeypatch)
    cut, made = plan(loaded, order())
    prompter = Prompter(
        cut.tokenizer,
        made.context_length,
        vocabulary,
        model_context_length=made.model_context_length,
    )
    with pytest.raises(RefusedPrompt) as refused:
        prompter.prepare(Job(Tokens(tuple([9] * 8000))))

    assert refused.value.code == "context_length_exceeded"
    assert refused.value.message == (
        f"The prompt has 8000 tokens; the server's memory holds {made.context_length}, "
        "prompt and answer together, of the 8192 of the model's context."
    )


def peak_bytes(model: nn.Module, cache: Cache, n_tokens: int, n_held: int) -> int:
    """Return what a step takes."""
    for n in (1, n_held, 1, n_tokens):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        if n == n_held:
            for part in inside.leaves(cache):
                inside.fill(part, n_held - 2)
        else:
            model(mx.zeros((1, n), dtype=mx.int32), cache=cache)
        mx.eval(arrays(cache))
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("kind", ["full", "window", "state"])
def test_steps_are_foretold(kind: str, kv_bits: int | None) -> None:
    """From three small steps: what a large one over a long context takes, within a half."""
    model = random_models.model(kind)
    caches = Caches(model, kv_bits, None)
    step = measured(model, caches, 8192)
    took = max(peak_bytes(model, caches.make(), 256, 3000) for _ in range(3))

    assert took / 1.5 < step.n_bytes(256, 3256) < took * 1.5


def test_steps_of_a_short_context_are_foretold() -> None:
    """Nothing is read beyond it by much, and there is a number."""
    model = random_models.model("full")

    assert 10_000 < measured(model, Caches(model, None, None), 16).n_bytes(64, 16) < 10 * MB


def test_limits_are_set_once_from_the_plan(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX may take what is planned and keep what a step gives back; nothing is wired without Metal."""
    limits: dict[str, int] = {}
    for name in ("set_memory_limit", "set_cache_limit", "set_wired_limit"):
        monkeypatch.setattr(mx, name, lambda n, name=name: limits.update({name: n}))
    machine_with(1000, monkeypatch)
    _, made = plan(loaded, order())
    set_limits(made)
    assert limits.keys() == {"set_memory_limit", "set_cache_limit"}
    assert limits["set_memory_limit"] >= 1000 * MB
    assert limits["set_cache_limit"] == 32 << 20

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(memory_plan, "working_set_bytes", lambda: 7)
    set_limits(made)
    assert limits["set_wired_limit"] == 7
    assert limits["set_cache_limit"] == made.step_bytes > 32 << 20
