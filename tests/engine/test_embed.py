"""`service.engine.embed` and the engine over it, with the built-in model read for its vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from service.catalog.card import EMBEDDED_FOLDER, UnfitModel
from service.catalog.kind import Recipe, kind_of, read_recipe
from service.engine.embed.encoder import Batch, Pooled, encode, normalized
from service.engine.embed.load import LoadedEncoder, load_encoder
from service.engine.embed.packing import Packer
from service.engine.embed.plan import MAX_TOKENS, MIN_TOKENS, StepPlan
from service.engine.embed.texts import Reading, TextReader
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Embed, Load, Score, Text, Tokens

ORDER = Load(None, None, max_concurrency=1, warmup=False, log_level="INFO", model_type="embeddings")
LENGTHS = [3, 40, 17, 5, 64, 3, 33]


@pytest.fixture(scope="module")
def embedder() -> LoadedEncoder:
    """The built-in model as an encoder."""
    return load_encoder(ORDER)


def folder_with(tmp_path: Path, **files: Any) -> Path:
    """Return a folder with these JSON files, a slash in a name as `__` and the dot as nothing."""
    for name, content in files.items():
        file = tmp_path / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config": {"model_type": "llama"}}, "lm"),
        ({"config": {"model_type": "bert", "architectures": ["BertModel"]}}, "embeddings"),
        ({"config": {"model_type": "qwen3"}, "modules": []}, "embeddings"),
        (
            {"config": {"model_type": "gemma3_text", "use_bidirectional_attention": True}},
            "embeddings",
        ),
        ({"config": {"architectures": ["XLMRobertaForSequenceClassification"]}}, "reranker"),
    ],
)
def test_kind_is_what_the_files_tell(tmp_path: Path, files: dict[str, Any], kind: str) -> None:
    """A model's own files say what it is for; the setting overrules them for a language model."""
    folder = folder_with(tmp_path, **files)

    assert kind_of(folder, "auto") == kind
    assert kind_of(folder, "lm") == "lm"
    assert kind_of(folder, "embeddings") in {"embeddings", "reranker"}


def test_recipe_is_what_the_files_tell(tmp_path: Path) -> None:
    """Pooling, length, prompts and the longest text come from sentence-transformers' files."""
    steps = ["models.Transformer", "models.Pooling", "models.Normalize"]
    modules = [
        {"path": f"{i}_x" if i else "", "type": f"s_t.{step}"} for i, step in enumerate(steps)
    ]
    folder = folder_with(
        tmp_path,
        config={"model_type": "bert", "matryoshka_dimensions": [64, 32]},
        modules=modules,
        **{"1_x__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
        sentence_bert_config={"max_seq_length": 256},
        config_sentence_transformers={"prompts": {"query": "q: "}, "default_prompt_name": "query"},
    )

    expected = Recipe("cls", True, False, 256, {"query": "q: "}, "query", (64, 32))
    assert expected == read_recipe(folder)


@pytest.mark.parametrize(
    "modules", [{}, [7], [{"type": "x.WeightedLayerPooling"}], [{"type": "x.Pooling", "path": "1"}]]
)
def test_recipe_that_is_not_understood_is_refused(tmp_path: Path, modules: Any) -> None:
    """Vectors that would be other than the model's own are not given."""
    with pytest.raises(UnfitModel):
        read_recipe(folder_with(tmp_path, config={}, modules=modules))


def test_model_that_needs_the_extra_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without mlx-embeddings a BERT names what to install."""
    monkeypatch.setitem(__import__("sys").modules, "mlx_embeddings", None)
    config = {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 64}
    folder = folder_with(tmp_path, config=config)
    order = Load(str(folder), None, max_concurrency=1, warmup=False, log_level="INFO")

    with pytest.raises(UnfitModel, match=r"mlx-tier3a\[embeddings\]"):
        load_encoder(order)


def test_vectors_are_the_same_alone_and_in_a_batch(embedder: LoadedEncoder) -> None:
    """Neither padding nor neighbours change what is made of a text."""
    readings = [Reading([(i * n + 7) % embedder.n_tokens for i in range(n)]) for n in LENGTHS]
    together = encode(embedder.encoder, readings, embedder.padding)
    alone = [encode(embedder.encoder, [each], embedder.padding)[0] for each in readings]
    cosines = (normalized(together) * normalized(np.stack(alone))).sum(axis=-1)

    assert cosines.min() >= 0.9999


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("cls", [1.0, 2.0]), ("last", [3.0, 0.0]), ("max", [3.0, 2.0]), ("mean", [2.0, 1.0])],
)
def test_pooling_leaves_out_padding(pooling: Any, expected: list[float]) -> None:
    """What the model computes of padding, NaN even, is in no vector."""
    hidden = mx.array([[[1.0, 2.0], [3.0, 0.0], [float("nan"), 9.0]]])
    batch = Batch(mx.array([[5, 6, 0]]), mx.array([[1, 1, 0]]))

    assert expected == Pooled(lambda _: hidden, pooling)(batch)[0].tolist()


def all_packed(packer: Packer) -> list[list[tuple[int, int]]]:
    """Return the lengths and tickets of all steps."""
    steps = []
    while packer:
        steps.append([(row.n_tokens, row.ticket) for row in packer.next()])
    return steps


def test_texts_of_like_lengths_are_read_together() -> None:
    """Each text is read once, in steps that fit and hold little padding."""
    packer = Packer(lambda n_rows, n_tokens: n_rows * n_tokens <= 100)
    packer.add(1, [10, 12, 90, 50, 48])
    steps = all_packed(packer)

    assert steps == [[(90, 1)], [(48, 1), (50, 1)], [(10, 1), (12, 1)]]


def test_small_request_does_not_wait_for_a_large_one() -> None:
    """The tickets have their turns; one that is dropped has none, and takes nobody's along."""
    packer = Packer(lambda n_rows, _: n_rows <= 2)
    packer.add(1, [40] * 6)
    packer.add(2, [9])
    packer.add(3, [40])
    packer.drop(3)
    first, second = packer.next(), packer.next()

    assert [row.ticket for row in first] == [1, 1]
    assert [row.ticket for row in second] == [2]
    assert [2, 2] == [len(step) for step in all_packed(packer)]


def test_model_that_padding_disturbs_reads_one_length_at_once() -> None:
    """Where texts don't pad, only equal ones go together."""
    packer = Packer(lambda *_: True, pads=False)
    packer.add(1, [3, 4, 4, 3])

    assert all_packed(packer) == [[(4, 1), (4, 1)], [(3, 1), (3, 1)]]


def test_steps_fit_into_memory_and_time() -> None:
    """A step has room, and becomes smaller where it took long; one text is always read."""
    plan = StepPlan({"hidden_size": 64, "num_attention_heads": 2}, 10**12)
    for _ in range(20):
        plan.note(0.01)
    large = plan.fits(MAX_TOKENS // 8, 8)
    for _ in range(20):
        plan.note(5.0)

    assert large
    assert not plan.fits(MIN_TOKENS // 8 + 1, 8)
    assert plan.fits(1, 10**6)
    assert StepPlan({}, 10**7).longest(8192) < 8192
    with pytest.raises(UnfitModel):
        StepPlan({}, 1000).longest(8192)


@pytest.fixture
def reader(embedder: LoadedEncoder) -> Callable[..., TextReader]:
    """Make a reader of texts of 16 tokens at most."""
    return lambda **recipe: TextReader(embedder.tokenizer, 16, embedder.n_tokens, Recipe(**recipe))


def test_prompts_come_before_texts(reader: Callable[..., TextReader]) -> None:
    """The one that is named, else the model's default one; never before token ids."""
    prompts = {"query": "Find: ", "document": ""}
    plain, texts = reader(), reader(prompts=prompts, default_prompt="query")
    (expected,) = plain.inputs(Embed(1, (Text("Find: a"),)))
    (bare,) = plain.inputs(Embed(1, (Text("a"),)))
    score = Score(1, ("a",), ("a",), ("query", "documents"))

    assert [expected] == texts.inputs(Embed(1, (Text("a"),)))
    assert [bare] == texts.inputs(Embed(1, (Text("a"),), "document"))
    assert [Reading([5])] == texts.inputs(Embed(1, (Tokens((5,)),)))
    assert [expected, bare] == texts.apart(score)


@pytest.mark.parametrize(
    ("inputs", "fields", "param", "code"),
    [
        ((Text("a"), Text("word " * 40)), {}, "input.1", "context_length_exceeded"),
        ((Text("word " * 40),), {}, "input", "context_length_exceeded"),
        ((Tokens((2, 10**6)),), {}, "input", "invalid_token"),
        ((Text("a"),), {"prompt_name": "x"}, "prompt_name", "invalid_value"),
    ],
)
def test_input_that_cannot_be_read_is_named(
    reader: Callable[..., TextReader], inputs: Any, fields: Any, param: str, code: str
) -> None:
    """The refusal says which of the inputs is at fault."""
    with pytest.raises(RefusedPrompt) as refused:
        reader().inputs(Embed(1, inputs, **fields))

    assert (refused.value.param, refused.value.code) == (param, code)


def test_context_is_no_longer_than_the_models_own(tmp_path: Path) -> None:
    """CONTEXT_LENGTH beyond the model's own stops the load, as with any model."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "m")
    order = Load(str(folder), 10**6, 1, warmup=False, log_level="INFO", model_type="embeddings")

    with pytest.raises(UnfitModel, match="CONTEXT_LENGTH"):
        load_encoder(order)
