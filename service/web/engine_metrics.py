"""
Metrics of models and their engines, put together when somebody asks.

What an engine tells of itself comes with its heartbeats, a few times a second, and nothing is counted twice
for it. Its counts begin anew with each engine process, as Prometheus expects of what was started again; while
there is no engine, there are none. A model of which no name is known yet has an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from operator import attrgetter
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.fleet.fleet import Fleet
from service.fleet.lifecycle import State
from service.fleet.served_model import ServedModel
from service.protocol import STEP_BUCKETS_S, Figures, Generation

Source = TypeVar("Source")
# A metric's name, what it tells, and its value; those that are only counted up end in `_total`.
_Rows = tuple[tuple[str, str, Callable[[Source], float]], ...]

_OF_MODELS: _Rows[ServedModel] = (
    ("tier3a_permits_in_use", "Requests that may generate now.", lambda m: m.admission.n_in_use),
    ("tier3a_queue_length", "Requests that wait for a permit.", lambda m: m.admission.n_waiting),
    (
        "tier3a_engine_starts_total",
        "Engine processes that were started.",
        lambda m: m.supervisor.n_starts,
    ),
    (
        "tier3a_engine_deaths_total",
        "Engine processes that ended unasked.",
        lambda m: m.supervisor.n_deaths,
    ),
    (
        "tier3a_prefix_cache_faults_total",
        "Times that the prefix cache on disk was given up.",
        lambda m: m.supervisor.n_cache_faults,
    ),
    (
        "tier3a_engine_memory_bytes",
        "Most memory that the engine process has held; 0: there is none.",
        lambda m: m.supervisor.memory_bytes if m.has_engine else 0,
    ),
)
_OF_ENGINES: _Rows[Figures] = (
    (
        "tier3a_engine_active_memory_bytes",
        "Of the engine's arrays, weights included.",
        attrgetter("active_bytes"),
    ),
    (
        "tier3a_engine_peak_memory_bytes",
        "Of the engine's arrays, at most.",
        attrgetter("peak_bytes"),
    ),
    (
        "tier3a_engine_buffer_memory_bytes",
        "Kept by the engine for reuse.",
        attrgetter("buffer_bytes"),
    ),
)
_OF_GENERATION: _Rows[Generation] = (
    (
        "tier3a_kv_cache_bytes",
        "Of the KV caches of all requests, as they count against the budget.",
        attrgetter("kv_bytes"),
    ),
    (
        "tier3a_kv_cache_budget_bytes",
        "What the KV caches of all requests may take.",
        attrgetter("kv_budget_bytes"),
    ),
    (
        "tier3a_prefix_cache_bytes",
        "Of the prefix cache in memory.",
        attrgetter("prefix_bytes"),
    ),
    (
        "tier3a_prefix_cache_budget_bytes",
        "What the prefix cache in memory may take.",
        attrgetter("prefix_budget_bytes"),
    ),
    (
        "tier3a_prefix_cache_entries",
        "Prompts that the prefix cache knows.",
        attrgetter("n_prefix_entries"),
    ),
    (
        "tier3a_prefix_cache_queried_tokens_total",
        "Tokens of prompts that the prefix cache was asked for.",
        attrgetter("n_queried_tokens"),
    ),
    (
        "tier3a_prefix_cache_hit_tokens_total",
        "Tokens of prompts that the prefix cache had.",
        attrgetter("n_hit_tokens"),
    ),
    (
        "tier3a_draft_tokens_proposed_total",
        "Tokens that were guessed ahead and checked.",
        attrgetter("n_proposed_tokens"),
    ),
    (
        "tier3a_draft_tokens_accepted_total",
        "Tokens that were guessed ahead and that the model says as well.",
        attrgetter("n_accepted_tokens"),
    ),
    (
        "tier3a_preemptions_total",
        "Times that a request had to wait again, since the KV cache was full.",
        attrgetter("n_preemptions"),
    ),
)


class EngineMetrics(Collector):
    """
    What Prometheus is told of models and engines, by model.

    Args:
        fleet: all of them.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its values now; one that nobody has a value for has none."""
        models = {model.id or "": model for model in self._fleet.models}
        figures = {
            name: found
            for name, model in models.items()
            if (found := model.supervisor.figures) is not None
        }
        generations = {
            name: found.generation
            for name, found in figures.items()
            if found.generation is not None
        }
        yield _states(models)
        yield from _families(_OF_MODELS, models.items())
        yield from _families(_OF_ENGINES, figures.items())
        yield _steps(figures)
        yield from _families(_OF_GENERATION, generations.items())


def _families(rows: _Rows[Source], sources: Iterable[tuple[str, Source]]) -> Iterator[Metric]:
    """Yield a metric for each row, with the value of each source by its model's name."""
    for name, what, value in rows:
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        made = family(name, what, labels=["model"])
        for model, source in sources:
            made.add_metric([model], value(source))
        yield made


def _states(models: dict[str, ServedModel]) -> Metric:
    """Return 1 for the state that each model is in, and 0 for all others."""
    made = GaugeMetricFamily(
        "tier3a_engine_state", "The state that a model is in: 1.", labels=["model", "state"]
    )
    for name, model in models.items():
        for state in State:
            made.add_metric([name, state.value], model.lifecycle.state is state)
    return made


def _steps(figures: dict[str, Figures]) -> Metric:
    """Return what steps took."""
    made = HistogramMetricFamily(
        "tier3a_engine_step_seconds", "What one step for all requests took.", labels=["model"]
    )
    bounds = [*map(str, STEP_BUCKETS_S), "+Inf"]
    for name, engine in figures.items():
        buckets = [*zip(bounds, accumulate(engine.n_steps), strict=True)]
        made.add_metric([name], buckets, engine.steps_s)
    return made
