"""The model's configuration and its own tokenizer, a byte-level BPE made from the corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_lm.utils import save_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from service.catalog.card import EMBEDDED_FOLDER
from service.training.corpus import Corpus

SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<tool_call>",
    "</tool_call>",
)
PAD, EOS, BOS, START_OF_TURN, END_OF_TURN = range(5)

VOCAB_SIZE = 1280
CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 512,
    "sliding_window_pattern": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": 8192,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "torch_dtype": "float32",
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": [EOS, END_OF_TURN],
}
QUANTIZATION = {"group_size": 64, "bits": 8}


def build_tokenizer(corpus: Corpus, folder: Path) -> None:
    """
    Write `tokenizer.json` and `tokenizer_config.json`: a byte-level BPE of VOCAB_SIZE tokens.

    All 256 bytes are in the vocabulary, so any text is encoded without loss and nothing is unknown.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_text(corpus), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONFIG["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            "bos_token": SPECIAL_TOKENS[BOS],
            "eos_token": SPECIAL_TOKENS[EOS],
            "pad_token": SPECIAL_TOKENS[PAD],
        },
    )


def _tokenizer_text(corpus: Corpus) -> Iterator[str]:
    for topic in corpus.every_topic:
        yield from (topic.answer, *topic.then.values(), *topic.called, *topic.named)
        for question in topic.ask:
            yield from (question, question.lower())
    yield from (*corpus.frames, *corpus.things, *corpus.systems, *corpus.before, *corpus.tools)
    yield from (*corpus.called, *corpus.after)
    yield from (wording for group in corpus.same for wording in group)
    yield from ("user\nmodel\nsystem\ntool\n",) * 20


def write_configuration(folder: Path) -> None:
    """Write `config.json` and `generation_config.json`, and the committed chat template."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    save_config(dict(CONFIG), folder / "config.json")
    # A model this small is sure of what it was taught and of nothing else: the likeliest token, please.
    generation = {key: CONFIG[key] for key in keys} | {"do_sample": False}
    _write_json(folder / "generation_config.json", generation)
    shutil.copy(EMBEDDED_FOLDER / "chat_template.jinja", folder)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
