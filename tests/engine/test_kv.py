"""`service.engine.cache.kv`: rows in batches are as if alone, with random weights and the embedded model."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.models import deepseek_v3, llama, mamba
from mlx_lm.models.cache import (
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    load_prompt_cache,
    save_prompt_cache,
)

from service.catalog.card import UnfitModel
from service.engine.cache.kv import (
    Cache,
    Caches,
    FullCaches,
    QuantizedCache,
    RowCache,
    arrays,
    drop_common_padding,
    extend,
    extract,
    keep_rows,
    merge,
    n_bytes,
    pad_right,
    to_temporal_order,
    trim_each,
    trimmable_below,
    unpad,
)
from service.engine.model.load import LoadedModel
from service.engine.prepare import Preparer
from tests.engine import random_models
from tests.engine.conftest import job

LENGTHS = (3, 90, 1, 40)
PIECE = 32
KINDS = ("full", "window", "state")
QUESTIONS = ("Hello", "What does /health mean?", "Who are you? " * 60, "Which port?", "zxqv 17 ][")


def attentive(head_size: int = 64) -> Any:
    """Return a Llama of random weights, all of its layers attending to everything."""
    mx.random.seed(3)
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=128,
            num_hidden_layers=2,
            intermediate_size=128,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=head_size,
            rms_norm_eps=1e-5,
            vocab_size=256,
            tie_word_embeddings=False,
        )
    )
    louder = tree_map(lambda array: array * 2, model.parameters())  # or every answer is one token
    model.update(louder)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    """That model, with heads of 64."""
    return attentive()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Prompts of unlike lengths."""
    draw = random.Random(1)
    return [[draw.randrange(256) for _ in range(n)] for n in LENGTHS]


def alone(model: nn.Module, prompt: list[int], cache: list[Any], n_tokens: int) -> list[int]:
    """Return a greedy answer, made without any batch."""
    answer: list[int] = []
    inputs = prompt
    while len(answer) < n_tokens:
        logits = model(mx.array([inputs]), cache=cache)
        inputs = [int(logits[0, -1].argmax().item())]
        answer += inputs
    return answer


class Batch:
    """A batch without a scheduler: greedy rows that come together, write, and leave one by one."""

    def __init__(self, model: nn.Module, caches: Caches) -> None:
        self.cache: Cache = []
        self.answers: dict[int, list[int]] = {}
        self._model = model
        self._caches = caches
        self._left: dict[
            int, int
        ] = {}  # how many tokens each row has still to write, in the batch's order
        self._last: dict[int, int] = {}
        self._n_read: dict[int, int] = {}

    @property
    def rows(self) -> list[int]:
        """The rows that write, in the cache's order."""
        return list(self._left)

    def add(
        self,
        prompts: list[list[int]],
        lengths: list[int],
        begun: Sequence[Cache] = (),
        n_begun: int = 0,
    ) -> list[int]:
        """Read *prompts*, after the *n_begun* tokens that *begun* have read; return the rows' numbers."""
        first = len(self.answers)
        numbers = list(range(first, first + len(prompts)))
        joining = merge(begun or [self._caches.make() for _ in prompts])
        n_read = [len(prompt) - 1 for prompt in prompts]
        wide = mx.array([prompt[:-1] + [0] * (max(n_read) - len(prompt) + 1) for prompt in prompts])
        pad_right(joining, n_read)
        for begin in range(0, max(n_read), PIECE):
            self._model(wide[:, begin : begin + PIECE], cache=joining)
            mx.eval(arrays(joining))
        unpad(joining)
        extend(self.cache, joining)
        for number, prompt, n in zip(numbers, prompts, lengths, strict=True):
            self.answers[number] = []
            self._left[number], self._last[number] = n, prompt[-1]
            self._n_read[number] = n_begun + len(prompt) - 1
        drop_common_padding(self.cache, [self._n_read[row] for row in self.rows])
        return numbers

    def step(self) -> None:
        """Let each row write a token."""
        fed = mx.array([[self._last[row]] for row in self.rows])
        drawn = self._model(fed, cache=self.cache)[:, -1].argmax(axis=-1).tolist()
        for row, token in zip(self.rows, drawn, strict=True):
            self._n_read[row] += 1
            self._left[row] -= 1
            self._last[row] = token
            self.answers[row].append(token)
        staying = [i for i, row in enumerate(self.rows) if self._left[row]]
        if len(staying) < len(self.rows):
            keep_rows(self.cache, staying)
            self._left = {row: n for row, n in self._left.items() if n}
            drop_common_padding(self.cache, [self._n_read[row] for row in self.rows])


def together(
    model: nn.Module, prompts: list[list[int]], caches: Caches, lengths: list[int]
) -> list[list[int]]:
    """Return greedy answers of these *lengths*; the second half of the rows comes as the first decodes."""
    batch = Batch(model, caches)
    half = len(prompts) // 2
    batch.add(prompts[:half], lengths[:half])
    for _ in range(6):
        batch.step()
    batch.add(prompts[half:], lengths[half:])
    while batch.rows:
        batch.step()
    return list(batch.answers.values())


@pytest.mark.parametrize("bits", [8, 4])
def test_batch_when_quantized(bits: int, model: nn.Module, prompts: list[list[int]]) -> None:
    """Rows that come and go give what mlx-lm's own quantized cache gives each of them alone."""
    lengths = [30, 12, 20, 24]
    expected = [
        alone(model, prompt, [QuantizedKVCache(64, bits) for _ in model.layers], n)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]

    assert expected == together(model, prompts, Caches(model, bits, None), lengths)


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("size", [16, 64])
def test_batch_when_bounded(
    bits: int | None, size: int, model: nn.Module, prompts: list[list[int]]
) -> None:
    """Far beyond the bound, for prompts under and over it, each row is as if alone, quantized or not."""
    caches = Caches(model, bits, size)
    lengths = [100, 70, 90, 80]
    expected = [
        alone(model, prompt, caches.make(), n) for prompt, n in zip(prompts, lengths, strict=True)
    ]

    assert expected == together(model, prompts, caches, lengths)


def test_bounded_row_remembers_the_newest(model: nn.Module, prompts: list[list[int]]) -> None:
    """Without a bound the answer is another one, and up to the bound it is the same."""
    unbounded = alone(model, prompts[0], [KVCache() for _ in model.layers], 60)
    bounded = alone(model, prompts[0], Caches(model, None, 32).make(), 60)

    assert unbounded[: 32 - len(prompts[0])] == bounded[: 32 - len(prompts[0])]
    assert unbounded != bounded


def test_bounded_batch_stops_growing(model: nn.Module) -> None:
    """Once the bound is reached a row takes the same memory for ever, and goes on."""
    n_rows, size, n_tokens = 3, 48, 200
    caches = Caches(model, None, size)
    batch = Batch(model, caches)
    batch.add([list(range(7))] * n_rows, [n_tokens] * n_rows)
    sizes_bytes = []
    while batch.rows:
        sizes_bytes.append(n_bytes(batch.cache))
        batch.step()

    assert max(sizes_bytes) == n_rows * size * Caches(model, None, None).bytes_per_token
    assert caches.n_bytes(n_tokens) == size * caches.bytes_per_token
    assert [n_tokens] * n_rows == [len(answer) for answer in batch.answers.values()]


@pytest.mark.parametrize(("bits", "size"), [(8, None), (None, 24), (4, 24)])
def test_row_taken_out_goes_on(
    bits: int | None, size: int | None, model: nn.Module, prompts: list[list[int]]
) -> None:
    """Out of one batch and into another, beside a row that is new there: the answer stays the same."""
    caches = Caches(model, bits, size)
    expected = alone(model, prompts[3], caches.make(), 30)
    batch = Batch(model, caches)
    _, row = batch.add(prompts[2:], [30, 30])
    while len(batch.answers[row]) < 10:
        batch.step()
    taken = extract(batch.cache, batch.rows.index(row))
    batch.step()
    other = Batch(model, caches)
    other.add([prompts[0]], [20])
    (new,) = other.add([[batch.answers[row][9]]], [20], [taken], len(prompts[3]) + 9)
    while other.rows:
        other.step()

    assert expected == batch.answers[row][:10] + other.answers[new]
    assert expected[10] == batch.answers[row][10]


def test_row_is_copied_and_trimmed(model: nn.Module, prompts: list[list[int]]) -> None:
    """A prompt cache can do with it what it does with mlx-lm's own; a copy leaves the first as it was."""
    row = Caches(model, 8, None).make()
    expected = alone(model, prompts[1], row, 10)
    n_held = len(prompts[1]) + 9
    shorter = copy.deepcopy(row)
    trimmed = [layer.trim(n_held - 50) for layer in shorter if layer.is_trimmable()]

    assert [n_held - 50] * 2 == trimmed
    assert expected == alone(model, prompts[1][50:], shorter, 10)
    assert [n_held] * 2 == [layer.size() for layer in row]


@pytest.mark.parametrize("size", [None, 24])
def test_row_is_saved_and_loaded(
    size: int | None,
    model: nn.Module,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    """mlx-lm's files hold all of it."""
    row = Caches(model, 4, size).make()
    alone(model, prompts[1], row, 10)
    save_prompt_cache(str(tmp_path / "row.safetensors"), row)
    loaded = load_prompt_cache(str(tmp_path / "row.safetensors"))

    assert alone(model, prompts[0], row, 10) == alone(model, prompts[0], loaded, 10)
    assert [(4, 64)] * 2 == [(layer.bits, layer.group_size) for layer in loaded]


@pytest.mark.parametrize(
    ("dtype", "bits", "share"),
    [
        (mx.float32, 8, (64 + 8) / 256),
        (mx.float32, 4, (32 + 8) / 256),
        (mx.bfloat16, 8, (64 + 4) / 128),
        (mx.bfloat16, 4, (32 + 4) / 128),
    ],
)
def test_quantized_takes_less(dtype: mx.Dtype, bits: int, share: float) -> None:
    """A head of 64 takes its packed numbers, a scale and a bias; what a token costs is what it takes."""
    model = attentive()
    model.set_dtype(dtype)
    plain, few = Caches(model, None, None), Caches(model, bits, None)
    row = few.make()
    alone(model, list(range(256)), row, 1)

    assert share == few.bytes_per_token / plain.bytes_per_token
    assert 256 * few.bytes_per_token == sum(layer.nbytes for layer in row)


def test_embedded_model_answers_the_same_in_eight_bits(
    loaded: LoadedModel, preparer: Preparer
) -> None:
    """The same words, for questions that it knows and for one that it doesn't."""
    prompts = [preparer.prepare(job(question)).ids for question in QUESTIONS]
    lengths = [40] * len(prompts)
    expected = together(loaded.model, prompts, Caches(loaded.model, None, None), lengths)

    assert expected == together(loaded.model, prompts, Caches(loaded.model, 8, None), lengths)


def test_windows_stay_as_they_are(loaded: LoadedModel) -> None:
    """Of the embedded model's layers only those that grow are quantized or bounded."""
    windows = [512, 512]
    for bits, size, growing in [
        (None, None, [RowCache] * 2),
        (8, None, [QuantizedCache] * 2),
        (None, 1024, [RotatingKVCache] * 2),
        (4, 1024, [QuantizedCache] * 2),
    ]:
        made = Caches(loaded.model, bits, size).make()

        assert windows == [layer.max_size for layer in made[::2]]
        assert growing == [type(layer) for layer in made[1::2]]


def test_group_fits_the_head() -> None:
    """Heads that 64 doesn't divide are quantized in groups of 32, and their answers are mlx-lm's."""
    model = attentive(head_size=96)
    expected = alone(model, [1, 2, 3], [QuantizedKVCache(32, 8) for _ in model.layers], 8)

    assert expected == together(model, [[1, 2, 3]] * 2, Caches(model, 8, None), [8, 8])[1]


def stateful() -> Any:
    """Return a model that has a state and no keys."""
    return mamba.Model(
        mamba.ModelArgs(
            model_type="mamba",
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            state_size=8,
            num_hidden_layers=1,
            conv_kernel=4,
            use_bias=False,
            use_conv_bias=True,
            time_step_rank=4,
        )
    )


def compressing() -> Any:
    """Return a model that computes with its keys by itself."""
    return deepseek_v3.Model(
        deepseek_v3.ModelArgs(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            q_lora_rank=None,
            kv_lora_rank=32,
            qk_rope_head_dim=32,
            qk_nope_head_dim=32,
            v_head_dim=32,
        )
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: attentive(head_size=48), "multiples of 32; those of layer 0 are 48 wide"),
        (stateful, "nothing to quantize"),
        (compressing, "KV_BITS can't be had: layer 0 does not run"),
    ],
    ids=["head-size", "no-keys", "own-attention"],
)
def test_model_that_cannot_is_refused(make: Callable[[], Any], reason: str) -> None:
    """At the start, in words for the operator, and not on the first request."""
    with pytest.raises(UnfitModel, match=reason):
        Caches(make(), 8, None)


def test_model_without_growing_layers_costs_nothing_more() -> None:
    """A state has one size, and a bound has nothing to do there."""
    assert Caches(stateful(), None, 64).bytes_per_token == 0


def test_row_alone_needs_no_mask() -> None:
    """It has no padding, however its batch came to be; beside others there is a mask."""
    model = attentive()
    caches = Caches(model, None, None)

    def read(n_rows: int, n: int, cache: list[Any]) -> None:
        model(mx.ones((n_rows, n), dtype=mx.int32), cache=cache)

    one, both = (merge([caches.make()]) for _ in range(2))
    read(1, 9, one)
    read(1, 4, both)
    extend(both, one)
    assert both[0].make_mask(1, window_size=None).shape[0] == 2
    keep_rows(both, [0])

    assert both[0].left_padding.tolist() == [0]
    assert both[0].make_mask(1, window_size=None) is None
    assert both[0].make_mask(3, window_size=None) == "causal"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_as_if_alone(kind: str, prompts: list[list[int]]) -> None:
    """Whatever a layer remembers: rows of unlike lengths come, go and write what each would by itself."""
    model = random_models.model(kind)
    caches = Caches(model, None, None)
    lengths = [100, 12, 20, 90]
    expected = [
        alone(model, prompt, caches.make(), n) for prompt, n in zip(prompts, lengths, strict=True)
    ]

    assert expected == together(model, prompts, caches, lengths)


@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize("kind", ["full", "window"])
def test_tokens_are_taken_back(kind: str, n_rows: int, prompts: list[list[int]]) -> None:
    """Beyond a window's end too, of each row another number: it goes on as if they had never been read."""
    model = random_models.model(kind)
    caches = Caches(model, None, None)
    rows = [caches.make() for _ in range(n_rows)]
    for row, prompt in zip(rows, prompts[1::2], strict=False):
        model(mx.array([prompt]), cache=row)
    cache = rows[0] if n_rows == 1 else merge(rows)
    model(mx.array([[6]] * n_rows), cache=cache)
    to_temporal_order(cache)
    model(mx.array([[7, 8, 9]] * n_rows), cache=cache)
    trim_each(cache, [1, 2][:n_rows])
    found = model(mx.array([[5]] * n_rows), cache=cache)[:, -1].argmax(axis=-1).tolist()
    stood = [[*prompts[1], 6, 7, 8, 5], [*prompts[3], 6, 7, 5]][:n_rows]

    assert [alone(model, ids, caches.make(), 1)[0] for ids in stood] == found


def test_batch_may_be_empty() -> None:
    """Rows join one that has none, and it is empty once all have left it."""
    caches = Caches(random_models.model("full"), None, None)
    batch: Cache = []
    extend(batch, merge([caches.make(), caches.make()]))
    extend(batch, [])
    assert len(batch) == 4

    keep_rows(batch, [])
    assert batch == []


def test_cache_can_be_shortened_up_to_its_smallest_window() -> None:
    """A state can't be at all; a draft's windows are kept in full, and so have no end."""
    models = {kind: random_models.model(kind) for kind in KINDS}
    found = {
        kind: trimmable_below(Caches(model, None, None).make()) for kind, model in models.items()
    }

    assert found == {"full": math.inf, "window": random_models.WINDOW, "state": 0}
    assert trimmable_below(FullCaches(models["window"]).make()) == math.inf


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 255, 257, 700])
@pytest.mark.parametrize("kind", KINDS)
def test_row_takes_no_more_than_is_said(kind: str, n_tokens: int) -> None:
    """Windows, states and the places that arrays have ahead are counted; nobody is told far too much."""
    model = random_models.model(kind)
    caches = Caches(model, None, None)
    row = caches.make()
    for n in filter(None, (n_tokens // 2, (n_tokens - 1) // 2, 1)):
        model(mx.ones((1, n), dtype=mx.int32), cache=row)
    said = caches.n_bytes(n_tokens)

    assert 0 <= said - n_bytes(row) <= caches.bytes_per_token * KVCache.step
    assert n_bytes(row) == sum(each.nbytes for each in arrays(row))
