"""Metrics of models and engines are put together from what heartbeats tell."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest

from service.catalog.resolve import Names
from service.fleet.admission import Admission
from service.fleet.fleet import Fleet
from service.fleet.lifecycle import Lifecycle
from service.fleet.served_model import ServedModel, Stay
from service.fleet.supervisor import Supervisor
from service.protocol import STEP_BUCKETS_S, Budget, Figures, Generation, ModelCard
from service.web.engine_metrics import EngineMetrics

MAX_PAGE_S = 0.005
STEPS = (3, 2, *[0] * (len(STEP_BUCKETS_S) - 2), 1)
GENERATION = Generation(
    kv_bytes=100,
    kv_budget_bytes=1000,
    prefix_bytes=30,
    prefix_budget_bytes=40,
    n_prefix_entries=2,
    n_queried_tokens=50,
    n_hit_tokens=20,
    n_proposed_tokens=8,
    n_accepted_tokens=6,
    n_preemptions=1,
)
WRITES = Figures(5, 7, 1, STEPS, 9.5, GENERATION)
READS = Figures(50, 70, 10, STEPS, 9.5)


def served(name: str | None, figures: Figures | None) -> ServedModel:
    """Return a model whose engine told these *figures*; None: it is not loaded, and on demand."""
    lifecycle = Lifecycle(warmup_enabled=False, is_on_demand=figures is None)
    if figures is not None:
        lifecycle.loading()
        card = ModelCard(str(name), "gemma", "A model.", 4096, 1)
        lifecycle.warming(card, Budget(1, 1, 1, 1, 1))
        lifecycle.warmed(None)
    keeper = SimpleNamespace(
        lifecycle=lifecycle,
        figures=figures,
        memory_bytes=11,
        n_starts=2,
        n_deaths=1,
        n_cache_faults=0,
    )
    door = Admission(1, 1, 1.0)
    return ServedModel(cast(Supervisor, keeper), door, door, Stay(is_on_demand=figures is None))


def registry(*models: ServedModel) -> CollectorRegistry:
    """Return what the metrics of these *models* are registered with."""
    made = CollectorRegistry()
    made.register(EngineMetrics(Fleet(models, Names({}))))
    return made


def test_figures_are_told_by_model() -> None:
    """Each model has what its engine told; one that writes no texts has no KV cache."""
    sample = registry(served("a", WRITES), served("b", READS)).get_sample_value
    told = {
        "kv_cache_bytes": 100, "kv_cache_budget_bytes": 1000, "prefix_cache_bytes": 30,
        "prefix_cache_budget_bytes": 40, "prefix_cache_entries": 2,
        "prefix_cache_queried_tokens_total": 50, "prefix_cache_hit_tokens_total": 20,
        "draft_tokens_proposed_total": 8, "draft_tokens_accepted_total": 6, "preemptions_total": 1,
        "engine_active_memory_bytes": 5, "engine_peak_memory_bytes": 7,
        "engine_buffer_memory_bytes": 1, "engine_memory_bytes": 11, "engine_starts_total": 2,
        "engine_deaths_total": 1, "prefix_cache_faults_total": 0, "permits_in_use": 0, "queue_length": 0,
    }  # fmt: skip

    assert told == {name: sample(f"tier3a_{name}", {"model": "a"}) for name in told}
    assert 50 == sample("tier3a_engine_active_memory_bytes", {"model": "b"})
    assert sample("tier3a_kv_cache_bytes", {"model": "b"}) is None


def test_steps_are_a_histogram() -> None:
    """Its buckets hold all that took no longer than their bounds."""
    sample = registry(served("a", WRITES)).get_sample_value
    name = "tier3a_engine_step_seconds"

    found = [
        sample(f"{name}_bucket", {"model": "a", "le": bound})
        for bound in ("0.001", "0.002", "5.0", "+Inf")
    ]
    assert [3, 5, 5, 6] == found
    assert (6, 9.5) == tuple(sample(f"{name}_{part}", {"model": "a"}) for part in ("count", "sum"))


def test_model_that_is_not_loaded() -> None:
    """It has a state and holds nothing; of a model without a name yet the name is empty."""
    sample = registry(served(None, None)).get_sample_value

    assert 1 == sample("tier3a_engine_state", {"model": "", "state": "unloaded"})
    assert 0 == sample("tier3a_engine_state", {"model": "", "state": "ready"})
    assert 0 == sample("tier3a_engine_memory_bytes", {"model": ""})
    assert sample("tier3a_kv_cache_bytes", {"model": ""}) is None


def test_metrics_are_named_even_without_values() -> None:
    """Dashboards can be checked against a server that has just begun."""
    named = [
        set(re.findall(r"^# TYPE (\S+)", generate_latest(made).decode(), re.MULTILINE))
        for made in (registry(served(None, None)), registry(served("a", WRITES)))
    ]

    assert named[0] == named[1]


def test_page_takes_no_time() -> None:
    """Eight models are told within 5 ms of processor time."""
    made = registry(*(served(f"model-{i}", WRITES) for i in range(8)))
    generate_latest(made)
    began_s = time.process_time()
    for _ in range(10):
        generate_latest(made)

    assert (time.process_time() - began_s) / 10 < MAX_PAGE_S
