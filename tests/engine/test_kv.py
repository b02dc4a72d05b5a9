"""`service.engine.cache.kv`, in mlx-lm's own batch, with random weights and with the embedded model."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.generate import BatchGenerator, _extend_cache, _merge_caches
from mlx_lm.models import deepseek_v3, llama, mamba
from mlx_lm.models.cache import (
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    load_prompt_cache,
    save_prompt_cache,
)

from service.catalog.card import UnfitModel
from service.engine.cache.kv import Caches, QuantizedCache, RowCache
from service.engine.model.load import LoadedModel
from service.engine.text.prompt import Prompter
from tests.engine.conftest import job

LENGTHS = (3, 90, 1, 40)
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


def steps(generator: BatchGenerator, answers: dict[int, list[int]]) -> Iterator[int]:
    """Step to the end, adding to *answers*; yield the bytes that all caches have after each step."""
    while True:
        progress, responses = generator.next()
        if not progress and not responses:
            return
        for response in responses:
            answers.setdefault(response.uid, []).append(response.token)
        yield generator.prompt_cache_nbytes


def together(
    model: nn.Module, prompts: list[list[int]], caches: Caches, lengths: list[int]
) -> list[list[int]]:
    """Return greedy answers of these *lengths*; the second half of the rows comes as the first decodes."""
    generator = BatchGenerator(model, prefill_step_size=32)
    answers: dict[int, list[int]] = {}
    half = len(prompts) // 2
    generator.insert(prompts[:half], lengths[:half], [caches.make() for _ in prompts[:half]])
    stepping = steps(generator, answers)
    for _ in range(6):
        next(stepping)
    generator.insert(prompts[half:], lengths[half:], [caches.make() for _ in prompts[half:]])
    for _ in stepping:
        pass
    return [answers[uid] for uid in sorted(answers)]


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
    n_rows, size = 3, 48
    generator = BatchGenerator(model)
    caches = Caches(model, None, size)
    prompt = list(range(7))
    generator.insert([prompt] * n_rows, [400] * n_rows, [caches.make() for _ in range(n_rows)])
    answers: dict[int, list[int]] = {}
    sizes_bytes = list(steps(generator, answers))

    assert max(sizes_bytes) == n_rows * size * Caches(model, None, None).bytes_per_token
    assert caches.n_bytes(400) == min(400, size) * caches.bytes_per_token
    assert [400] * n_rows == [len(answer) for answer in answers.values()]


@pytest.mark.parametrize(("bits", "size"), [(8, None), (None, 24), (4, 24)])
def test_row_taken_out_goes_on(
    bits: int | None, size: int | None, model: nn.Module, prompts: list[list[int]]
) -> None:
    """Out of one batch and into another, beside a row that is new there: the answer stays the same."""
    caches = Caches(model, bits, size)
    expected = alone(model, prompts[3], caches.make(), 30)
    generator = BatchGenerator(model)
    _, uid = generator.insert(prompts[2:], [30, 30], [caches.make() for _ in range(2)])
    answers: dict[int, list[int]] = {}
    stepping = steps(generator, answers)
    while len(answers.get(uid, [])) < 10:
        next(stepping)
    row, held = generator.remove([uid], return_prompt_caches=True)[uid]
    begun = answers[uid]
    other = BatchGenerator(model)
    other.insert([prompts[0]], [20], [caches.make()])
    (uid,) = other.insert([expected[10:11]], [20 - 1], [row])
    answers = {}
    for _ in steps(other, answers):
        pass

    assert prompts[3] + expected[:10] == held
    assert expected == begun + expected[10:11] + answers[uid]


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
    loaded: LoadedModel, prompter: Prompter
) -> None:
    """The same words, for questions that it knows and for one that it doesn't."""
    prompts = [prompter.prepare(job(question)).ids for question in QUESTIONS]
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
        (lambda: attentive(head_size=48), "multiples of 32; its are 48 wide"),
        (stateful, "nothing to quantize"),
        (compressing, "does not run with KV_BITS"),
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

    one, two = (_merge_caches([caches.make()]) for _ in range(2))
    read(1, 9, one)
    read(1, 4, two)
    both = _extend_cache(two, one)
    assert both[0].make_mask(1, window_size=None).shape[0] == 2
    for layer in both:
        layer.filter([0])

    assert both[0].left_padding.tolist() == [0]
    assert both[0].make_mask(1, window_size=None) is None
    assert both[0].make_mask(3, window_size=None) == "causal"
