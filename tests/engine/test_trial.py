"""`engine.trial`: what is wrong with a prefix cache is found, and rounding is no fault."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache

from service.engine.cache.kv import Cache, Caches, RowCache, arrays
from service.engine.cache.prefix_cache import Ids, PrefixCache, PrefixHit
from service.engine.cache.prefix_store import DiskStore
from service.engine.model.load import LoadedModel, load
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Batching, Scheduler
from service.engine.trial import (
    MIN_TOLERANCE,
    N_COMPARED,
    TOLERANCE_EPS,
    NoAnswer,
    compare,
    difference,
    open_batches,
    open_prefixes,
    tolerance_for,
    trial_prompt,
)
from service.protocol import Candidate, Load, TokenLogprob
from tests.engine import random_models
from tests.engine.random_models import dressed

KINDS = ("full", "window", "state")
DTYPES = (mx.float32, mx.bfloat16)
PLENTY = 1 << 30
PROMPT = [50, 60, 70]

Fault = Callable[[nn.Module, list[int]], Cache]


def read(model: nn.Module, ids: list[int], cache: Cache | None = None) -> Cache:
    """Return what reading *ids* leaves behind."""
    cache = Caches(model, None, None).make() if cache is None else cache
    model(mx.array([ids]), cache=cache)
    mx.eval(arrays(cache))
    return cache


def layers_swapped(model: nn.Module, ids: list[int]) -> Cache:
    """Return the cache with two layers in each other's place."""
    cache = read(model, ids)
    cache[1], cache[3] = cache[3], cache[1]
    return cache


def position_off_by_one(model: nn.Module, ids: list[int]) -> Cache:
    """Return a cache after which every token stands one place too far."""
    cache = read(model, ids)
    for part in cache:
        if isinstance(part, RotatingKVCache):
            part.offset += 1
        elif isinstance(part, KVCache):
            keys, values, n = part.state
            first = (mx.concatenate([x[:, :, :1], x[:, :, :n]], axis=2) for x in (keys, values))
            part.state = (*first, n + 1)
    return cache


def one_token_too_few(model: nn.Module, ids: list[int]) -> Cache:
    """Return a cache out of which one token too many was taken."""
    return read(model, ids[:-1])


def of_another_prompt(model: nn.Module, ids: list[int]) -> Cache:
    """Return the cache of the same tokens in another order."""
    return read(model, random.Random(9).sample(ids, len(ids)))


class Unbounded(KVCache):  # type: ignore[misc]  # mlx-lm ships no types
    """Keys and values of a window whose mask forgets that it is one."""

    def make_mask(self, *args: Any, **options: Any) -> Any:
        """Return what may be attended to: all that came before."""
        return super().make_mask(*args, **options | {"window_size": None})


def window_forgotten(model: nn.Module, ids: list[int]) -> Cache:
    """Return a cache that was read with a mask which lets windows look back at everything."""
    own = Caches(model, None, None).make()
    seen: Cache = [Unbounded() if isinstance(each, RotatingKVCache) else RowCache() for each in own]
    read(model, ids, seen)
    for part, wide in zip(own, seen, strict=True):
        keys, values, n = wide.state
        if isinstance(part, RotatingKVCache):
            size = part.max_size
            kept = (x[:, :, max(n - size, 0) : n] for x in (keys, values))
            part.state = (*kept, n, 0, size, min(n, size))
        else:
            part.state = (keys, values, n)
    return own


FAULTS: dict[str, Fault] = {
    "layers": layers_swapped,
    "position": position_off_by_one,
    "trimmed": one_token_too_few,
    "another": of_another_prompt,
}


class Broken(PrefixCache):
    """A prefix cache that gives back something else than what was read."""

    def __init__(self, model: nn.Module, fault: Fault) -> None:
        super().__init__(PLENTY)
        self._model = model
        self._fault = fault

    def find(self, ids: Ids) -> PrefixHit:
        """Return what the fault makes of what is found."""
        hit = super().find(ids)
        if hit.cache is None:
            return hit
        return hit._replace(cache=self._fault(self._model, ids[: hit.n_tokens].tolist()))


@functools.cache
def computed_as(dtype: mx.Dtype, kind: str, bits: int | None = None) -> LoadedModel:
    """Return the embedded model, or one of random weights, that computes with numbers of *dtype*."""
    found = load(Load(None, None, max_concurrency=4, warmup=False, log_level="INFO"))
    if kind != "embedded":
        model = random_models.made(kind)
        if bits:
            model.set_dtype(dtype)
            nn.quantize(model, group_size=32, bits=bits)
        found = replace(dressed(kind, found), model=model)
    found.model.set_dtype(dtype)
    mx.eval(found.model.parameters())  # type: ignore[no-untyped-call]  # mlx's stubs
    return found


def seen_by(loaded: LoadedModel, prefixes: PrefixCache) -> tuple[bool, float]:
    """Return whether the trial passes, and the largest difference that it saw, in tolerances."""
    vocabulary = Vocabulary(loaded.tokenizer, loaded.model(mx.array([[0]])).shape[-1])
    scheduler = Scheduler(loaded, vocabulary, 4, prefixes=prefixes)
    ids = trial_prompt(scheduler, PROMPT, vocabulary.n_tokens)
    seen = compare(scheduler, ids)
    tolerance = tolerance_for(loaded.model(mx.array([[0]])).dtype)
    return seen.is_alike(tolerance), seen.largest / tolerance


@pytest.mark.parametrize(
    ("fault", "kind", "dtype"),
    [
        *((fault, "full", mx.float32) for fault in FAULTS),
        *((fault, "window", mx.bfloat16) for fault in FAULTS),
        ("trimmed", "embedded", mx.bfloat16),
    ],
    ids=str,
)
def test_broken_cache_is_found(fault: str, kind: str, dtype: mx.Dtype) -> None:
    """Each fault moves the numbers beyond what rounding may do, in few bits as in many."""
    loaded = computed_as(dtype, kind)
    is_alike, largest = seen_by(loaded, Broken(loaded.model, FAULTS[fault]))

    assert not is_alike
    assert largest > 2


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("window", mx.float32), ("window", mx.bfloat16), ("embedded", mx.float32)],
    ids=str,
)
def test_forgotten_window_is_found(kind: str, dtype: mx.Dtype) -> None:
    """The prompt is long enough to show it. The embedded model hardly minds, and hides it in bfloat16."""
    loaded = computed_as(dtype, kind)
    is_alike, _ = seen_by(loaded, Broken(loaded.model, window_forgotten))

    assert not is_alike


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*itertools.product(KINDS, DTYPES), ("window", mx.float16), ("embedded", mx.bfloat16)],
    ids=str,
)
def test_right_cache_passes(kind: str, dtype: mx.Dtype) -> None:
    """With every kind of model, whatever it computes with."""
    is_alike, _ = seen_by(computed_as(dtype, kind), PrefixCache(PLENTY))

    assert is_alike


@pytest.mark.parametrize("kind", ["full", "window"])
def test_right_cache_passes_with_quantized_weights(kind: str) -> None:
    """Four bits of weights, computed in bfloat16."""
    is_alike, _ = seen_by(computed_as(mx.bfloat16, kind, 4), PrefixCache(PLENTY))

    assert is_alike


class Rounding(nn.Module):
    """A model with kernels of its own for a token alone, which round its logits otherwise."""

    def __init__(self, model: nn.Module, n_eps: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.n_eps = n_eps
        self.n_calls = 0
        self.make_cache = model.make_cache

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits, each off by up to so many steps of its type, in each call otherwise."""
        logits: mx.array = self.model(inputs, cache=cache)
        self.n_calls += 1
        off = mx.random.uniform(-1, 1, logits.shape, key=mx.random.key(self.n_calls))
        off = off * self.n_eps * mx.finfo(logits.dtype).eps
        return (logits.astype(mx.float32) + off).astype(logits.dtype)


@pytest.mark.parametrize(("n_eps", "passes"), [(20, True), (200, False)])
def test_kernels_that_round_otherwise_are_no_fault(n_eps: float, passes: bool) -> None:
    """Near ties may fall either way then; what is far beyond rounding is a fault all the same."""
    loaded = computed_as(mx.bfloat16, "embedded")
    rounding = replace(loaded, model=Rounding(loaded.model, n_eps))
    is_alike, largest = seen_by(rounding, PrefixCache(PLENTY))

    assert is_alike is passes
    assert largest > 0


def place(**logprobs: float) -> TokenLogprob:
    """Return a report in which the first token was chosen; a name's letter is its id."""
    found = [Candidate(ord(name), name.encode(), value) for name, value in logprobs.items()]
    return TokenLogprob(found[0], tuple(found))


def test_difference_of_two_reports() -> None:
    """The largest of all tokens; one that is named once is no likelier than the other's last."""
    base = place(a=-1.0, b=-2.0, c=-3.0)

    assert difference(base, base) == 0
    assert difference(base, place(a=-1.0, b=-2.25, c=-3.0)) == 0.25
    assert difference(place(b=-1.5, a=-1.75), place(a=-1.5, b=-1.75)) == 0.25
    assert difference(base, place(a=-1.0, b=-2.0, d=-2.5)) == 0.5
    assert difference(base, place(a=-1.0, b=-2.0, d=-3.0)) == 0
    assert difference(base, place(a=math.nan, b=-2.0, c=-3.0)) == math.inf


def test_tolerance_is_that_of_the_type() -> None:
    """Fewer bits round more; float32 has the least that is allowed."""
    assert tolerance_for(mx.float32) == MIN_TOLERANCE
    assert tolerance_for(mx.float16) == TOLERANCE_EPS * 2**-10
    assert tolerance_for(mx.bfloat16) == TOLERANCE_EPS * 2**-7


def test_prompt_of_the_trial(loaded: LoadedModel, vocabulary: Vocabulary) -> None:
    """It begins as a chat does, is the same each time, reaches past the window and leaves room to answer."""
    scheduler = Scheduler(loaded, vocabulary, 4)
    ids = trial_prompt(scheduler, PROMPT, vocabulary.n_tokens)
    card = msgspec.structs.replace(loaded.card, context_length=100)
    short = Scheduler(replace(loaded, card=card), vocabulary, 4)

    assert ids == trial_prompt(scheduler, PROMPT, vocabulary.n_tokens)
    assert ids[:3] == PROMPT
    assert len(ids) > scheduler.window == 512
    assert max(ids) < vocabulary.n_tokens
    assert len(trial_prompt(short, PROMPT, vocabulary.n_tokens)) == 100 - N_COMPARED


def test_trial_tells_what_it_saw(
    loaded: LoadedModel, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """How much of the prompt was there, how far numbers were apart, and what is allowed; then files count."""
    caplog.set_level(logging.INFO)
    prefixes = PrefixCache(PLENTY)
    store = DiskStore(tmp_path, PLENTY)
    scheduler = Scheduler(loaded, vocabulary, 4, prefixes=prefixes)
    ids = trial_prompt(scheduler, PROMPT, vocabulary.n_tokens)
    open_prefixes(scheduler, prefixes, store, ids, mx.float32)
    assert "575 of 576 prompt tokens were there, and in 8 places" in caplog.text
    assert "0.001 would be rounding of float32" in caplog.text
    assert (prefixes.is_on, len(prefixes)) == (True, 0)

    compare(scheduler, ids)
    store.close()
    assert list(tmp_path.iterdir())


def test_trial_that_breaks_is_no_proof(
    loaded: LoadedModel, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache is off then, the log says so, and the scheduler goes on."""

    def broken(*_: object) -> Cache:
        raise RuntimeError("out of memory")

    prefixes = Broken(loaded.model, broken)
    scheduler = Scheduler(loaded, vocabulary, 4, prefixes=prefixes)
    open_prefixes(scheduler, prefixes, None, list(range(20, 90)), mx.float32)

    assert not prefixes.is_on
    assert scheduler.tickets == []
    assert "the prefix cache is off" in caplog.text
    assert compare(scheduler, list(range(20, 90))).n_cached_tokens == 0


def test_nothing_is_tried_where_nothing_is_kept(
    loaded: LoadedModel, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    """A server without a prefix cache doesn't wait for it."""
    caplog.set_level(logging.INFO)
    prefixes = PrefixCache(0)
    open_prefixes(Scheduler(loaded, vocabulary, 4), prefixes, None, [1] * 64, mx.float32)

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        *itertools.product(KINDS, DTYPES, [Batching.PADDED]),
        ("swallowing", mx.float32, Batching.EVEN),
        ("swallowing", mx.bfloat16, Batching.EVEN),
        ("chunks", mx.float32, Batching.ALONE),
    ],
    ids=str,
)
def test_batches_are_such_that_answers_stay_what_they_are_alone(
    kind: str, dtype: mx.Dtype, expected: Batching
) -> None:
    """A state that padding moves gets none, a cache that no batch has is of one row; others lose nothing."""
    loaded = computed_as(dtype, kind)
    scheduler = Scheduler(loaded, Vocabulary(loaded.tokenizer, random_models.N_TOKENS), 4)
    open_batches(scheduler, 1000, dtype)

    assert scheduler.batching is expected
    assert scheduler.max_rows == (1 if expected is Batching.ALONE else 4)
    assert scheduler.tickets == []


class Failing(nn.Module):
    """A model that fails on more rows than it can take."""

    def __init__(self, model: nn.Module, n_rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.n_rows = n_rows

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits, shape (rows, n, vocabulary)."""
        if inputs.shape[0] > self.n_rows:
            raise ValueError("too many rows")
        logits: mx.array = self.model(inputs, cache=cache)
        return logits


@pytest.mark.parametrize("n_rows", [1, 2])
def test_model_that_fails_beside_others_answers_alone(n_rows: int, vocabulary: Vocabulary) -> None:
    """What fails only in a batch is no reason to fail every request."""
    loaded = computed_as(mx.float32, "full")
    failing = replace(loaded, model=Failing(loaded.model, n_rows))
    scheduler = Scheduler(failing, vocabulary, 4)
    open_batches(scheduler, 1000, mx.float32)

    assert scheduler.batching is Batching.ALONE


def test_model_that_fails_alone_gives_no_answer(vocabulary: Vocabulary) -> None:
    """That is told, and not served."""
    loaded = computed_as(mx.float32, "full")
    failing = Failing(loaded.model, 1)
    scheduler = Scheduler(replace(loaded, model=failing), vocabulary, 4)
    failing.n_rows = 0

    with pytest.raises(NoAnswer):
        open_batches(scheduler, 1000, mx.float32)
