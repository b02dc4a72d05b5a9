"""
A model that says what a script has, however it is asked: its weights know each token's only successor.

Its chat template reads the script's place off the conversation, and begins the answer with a token that
stands for that place; the weights do the rest. So a place is reached only if all that the script waits for,
such as the output of a command, has come into the prompt. Where a call was made and its result isn't there,
the answer is LOST.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.live import ROOT

LOST = "Something was lost on the way."
ASIDE = "An errand"
CONTEXT_LENGTH = 262_144
_VOCAB_SIZE = 6000
_WIDTH = 256
_SURENESS = 10.0  # of a successor; far beyond what is alike by chance
_EAGERNESS = 3.0  # to end what a grammar leaves open; less than any successor has
_START, _END, _ASIDE, _LOST = "<|im_start|>", "<|im_end|>", "<|aside|>", "<|lost|>"
_TEMPLATE = """\
{%- if tools %}{{- '<|im_start|>tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- set place = namespace(n=0, n_calling=0, seen='') %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- if message.role != 'assistant' %}{%- set place.seen = place.seen + (message.content or '') %}
{%- elif message.tool_calls %}{%- set place.n_calling = place.n_calling + 1 %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{%- for awaited in AWAITED %}
{%- set missing = namespace(any=False) %}
{%- for word in awaited if word not in place.seen %}{%- set missing.any = True %}{%- endfor %}
{%- if place.n == loop.index0 and not missing.any %}{%- set place.n = place.n + 1 %}{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if ERRAND not in place.seen or (NEEDS_TOOLS and not tools) %}{{- '<|aside|>' }}
{%- elif place.n_calling > place.n %}{{- '<|lost|>' }}
{%- else %}{{- '<|turn-' ~ place.n ~ '|>' }}{%- endif %}
{%- endif %}
"""


@dataclass(frozen=True)
class Turn:
    """
    What the model says at one place of the script.

    Attributes:
        says: the text, calls in Hermes's notation included.
        awaits: words that must have come into the conversation before the next place is reached.
    """

    says: str
    awaits: tuple[str, ...] = ()


def call(name: str, **arguments: Any) -> str:
    """Return a call of the tool *name* as the model writes it."""
    written = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{written}\n</tool_call>"


def make(folder: Path, errand: str, turns: Sequence[Turn]) -> Path:
    """
    Write the model into *folder*, which must not exist yet, and return it.

    Args:
        folder: where it is written.
        errand: a word of the user's request; what is asked without it is no part of the script.
        turns: what is said at each place; the last one is said from then on.
    """
    folder.mkdir(parents=True)
    starts = [f"<|turn-{i}|>" for i in range(len(turns))]
    says = dict(zip(starts, (turn.says for turn in turns), strict=True))
    says |= {_ASIDE: ASIDE, _LOST: LOST}
    tokenizer = _trained([_START, _END, *says])
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    pieces = {start: _pieces(text, vocabulary) for start, text in says.items()}
    successors = [
        (vocabulary[one], vocabulary[next_])
        for start, cut in pieces.items()
        for one, next_ in pairwise([start, *cut, _END])
    ]
    _write_tokenizer(folder, tokenizer, vocabulary)
    _write_weights(folder, vocabulary, successors)
    named = {
        "AWAITED": [turn.awaits for turn in turns[:-1]],
        "ERRAND": errand,
        "NEEDS_TOOLS": any("<tool_call>" in turn.says for turn in turns),
    }
    head = "".join(f"{{%- set {name} = {_literal(value)} %}}\n" for name, value in named.items())
    (folder / "chat_template.jinja").write_text(head + _TEMPLATE, "utf-8")
    return folder


def _literal(value: Any) -> str:
    return json.dumps(value)  # what Jinja reads, too


def _trained(signs: list[str]) -> Tokenizer:
    """Return a byte-level BPE made from this project's own texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=[AddedToken(sign, special=True) for sign in signs],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = sorted([*ROOT.glob("*.md"), *(ROOT / "service").rglob("*.py")])
    tokenizer.train_from_iterator((path.read_text("utf-8") for path in texts), trainer)
    return tokenizer


def _pieces(text: str, vocabulary: dict[str, int]) -> list[str]:
    """Cut *text* into tokens that are nowhere else in the script or in *vocabulary*, and add them there."""
    written = "".join(_written(text))
    cut: list[str] = []
    start = 0
    while start < len(written):
        end = min(start + 4, len(written))
        while end < len(written) and written[start:end] in vocabulary:
            end += 1
        piece = written[start:end]
        if piece in vocabulary:  # the rest of the text is no token of its own
            assert cut, f"{text!r} is too short to be told from others"
            vocabulary.pop(cut[-1])
            piece = cut.pop() + piece
        vocabulary[piece] = max(vocabulary.values()) + 1
        cut.append(piece)
        start = end
    return cut


def _written(text: str) -> Iterator[str]:
    """Yield *text* in the letters that a byte-level vocabulary writes bytes with."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    yield from (piece for piece, _ in level.pre_tokenize_str(text))


def _write_tokenizer(folder: Path, trained: Tokenizer, vocabulary: dict[str, int]) -> None:
    written = json.loads(trained.to_str())
    written["model"]["vocab"] = vocabulary
    written["decoder"] = json.loads(decoders.ByteLevel().__getstate__())
    (folder / "tokenizer.json").write_text(json.dumps(written), "utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_LENGTH,
        "clean_up_tokenization_spaces": False,
        "bos_token": _START,
        "eos_token": _END,
        "pad_token": _END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _write_weights(
    folder: Path, vocabulary: dict[str, int], successors: Sequence[tuple[int, int]]
) -> None:
    """
    Write a Llama of one layer that adds nothing: logits are a table from token to token.

    The first number of each embedding is 1, and so is a bias for what the head holds there.
    """
    n_tokens, head_dim = max(vocabulary.values()) + 1, 16
    mx.random.seed(7)
    directions = mx.random.normal((n_tokens, _WIDTH))
    directions[:, 0] = 0
    directions = directions / mx.linalg.norm(directions, axis=1, keepdims=True)
    head = mx.zeros((n_tokens, _WIDTH))
    for one, follower in successors:
        head[follower] = head[follower] + _SURENESS * directions[one]
    for ending in ('"', "}", "]"):
        head[vocabulary[ending], 0] = _EAGERNESS
    embeddings = directions + (mx.arange(_WIDTH) == 0)
    layer = "model.layers.0."
    weights = {
        "model.embed_tokens.weight": embeddings,
        "lm_head.weight": head,
        "model.norm.weight": mx.ones(_WIDTH),
        f"{layer}input_layernorm.weight": mx.ones(_WIDTH),
        f"{layer}post_attention_layernorm.weight": mx.ones(_WIDTH),
        **{
            f"{layer}self_attn.{name}_proj.weight": mx.random.normal((head_dim, _WIDTH)) * 0.1
            for name in "qkv"
        },
        f"{layer}self_attn.o_proj.weight": mx.zeros((_WIDTH, head_dim)),
        f"{layer}mlp.gate_proj.weight": mx.zeros((head_dim, _WIDTH)),
        f"{layer}mlp.up_proj.weight": mx.zeros((head_dim, _WIDTH)),
        f"{layer}mlp.down_proj.weight": mx.zeros((_WIDTH, head_dim)),
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = {
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "intermediate_size": head_dim,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-6,
        "vocab_size": n_tokens,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": False,
        "bos_token_id": vocabulary[_START],
        "eos_token_id": vocabulary[_END],
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
