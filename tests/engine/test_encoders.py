"""Small encoders of random weights by mlx-embeddings, where the extra that brings it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from service.engine.embed.encoder import encode, normalized
from service.engine.embed.load import LoadedEncoder, load_encoder, ranking_classes
from service.engine.embed.texts import Reading, TextReader
from service.protocol import Embed, Load, Score, Text

if importlib.util.find_spec("mlx_embeddings") is None:
    pytest.skip("the extra embeddings is not installed", allow_module_level=True)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "clock", "counts", "its", "ticks", "night", "."]
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
TYPES = ["bert", "xlm-roberta", "modernbert"]
LENGTHS = [3, 20, 11, 64]


def made(folder: Path, kind: str, *, is_ranker: bool = False) -> LoadedEncoder:
    """Make a small model of *kind* in *folder* and load it as the engine does."""
    module = importlib.import_module(f"mlx_embeddings.models.{kind.replace('-', '_')}")
    name = {"bert": "Bert", "xlm-roberta": "XLMRoberta", "modernbert": "ModernBert"}[kind]
    config: dict[str, Any] = SHAPE | {
        "model_type": kind,
        "architectures": [name + ("ForSequenceClassification" if is_ranker else "Model")],
        "id2label": {"0": "LABEL_0"},
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-6,
    }
    classes: tuple[Any, Any] = (
        ranking_classes(module, kind, config) if is_ranker else (module.Model, module.ModelArgs)
    )
    mx.random.seed(7)
    model = classes[0](classes[1].from_dict(config))
    weights: Any = tree_flatten(model.parameters(), destination={})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: value * 3 if value.ndim > 1 else value for name, value in weights.items()},
        metadata={"format": "mlx"},
    )
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]").save_pretrained(folder)
    return load_encoder(Load(str(folder), None, 1, warmup=False, log_level="INFO"))


@pytest.mark.parametrize("kind", TYPES)
def test_encoder_reads_a_text_as_if_it_were_alone(tmp_path: Path, kind: str) -> None:
    """Found by its own files, and no text in a batch changes another's vector."""
    loaded = made(tmp_path / "m", kind)
    readings = [Reading([4 + i % 7 for i in range(n)]) for n in LENGTHS]
    together = encode(loaded.encoder, readings, loaded.padding)
    alone = np.concatenate([encode(loaded.encoder, [one], loaded.padding) for one in readings])

    assert loaded.card.kind == "embeddings"
    assert loaded.card.context_length == (64 if kind == "xlm-roberta" else 66)
    assert (normalized(together) * normalized(alone)).sum(-1).min() >= 0.9999


@pytest.mark.parametrize("kind", TYPES)
def test_ranker_scores_pairs(tmp_path: Path, kind: str) -> None:
    """Each document with its query, from 0 to 1; another document has another score."""
    loaded = made(tmp_path / "m", kind, is_ranker=True)
    reader = TextReader(loaded.tokenizer, 64, loaded.n_tokens, loaded.recipe)
    job = Score(1, ("a clock",), ("a clock counts its ticks", "night"), ("query", "documents"))
    pairs = reader.pairs(job)
    scores = encode(loaded.encoder, pairs, loaded.padding)

    assert loaded.card.kind == "reranker"
    assert [0, 0, 0, 0, 1, 1] == pairs[1].segments
    assert scores.shape == (2, 1)
    assert 0 <= scores.min() < scores.max() <= 1


def test_special_tokens_are_put_around_a_text(tmp_path: Path) -> None:
    """As the model's own tokenizer does, and as usage counts them."""
    loaded = made(tmp_path / "m", "bert")
    (reading,) = TextReader(loaded.tokenizer, 64, loaded.n_tokens, loaded.recipe).inputs(
        Embed(1, (Text("a clock"),))
    )

    assert [2, 4, 5, 3] == reading.ids
