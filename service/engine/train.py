"""
Trains the embedded model from its committed text: `python -m service.engine.train`.

Five steps, each a section below: read the corpus, build tokenizer and configuration, hold
conversations out of the corpus, train on them, save quantized and examine what was saved.
The same seed on the same machine gives the same weights.

MLX does the model, its derivatives and the optimizer. Four operations go through NumPy while
training on a CPU (`numpy_kernels`): the matrix products of MLX's Linux build run at 3 GFLOP/s a
core and its exponentials at 50 million a second, NumPy's 20 times as fast, which is the difference
between half an hour and half a day.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import click
import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.nn.layers.linear import Linear
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator
from mlx_lm.models import gemma3_text
from mlx_lm.models.base import create_causal_mask
from mlx_lm.utils import get_total_parameters, load, quantize_model, save_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

EMBEDDED = Path(__file__).parents[1] / "catalog" / "embedded"
MADE = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

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

Turn = tuple[str, str]


# --- The corpus ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Topic:
    """
    One subject: a single answer and the ways of asking for it.

    Attributes:
        ask: questions to train on; never empty.
        held_out: questions never trained on.
        called: names of the subject, each fitting the frames of `Corpus.called`.
        named: frames of a follow-up that name their subject instead of following a topic.
        then: answers to follow-ups about this topic, by the follow-up's name.
    """

    name: str
    answer: str
    ask: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    then: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """
    The whole text the model is taught, as `corpus.toml` has it.

    Attributes:
        follow_ups: topics by name whose answer is what they say when the topic before is silent.
        frames: off-topic questions with a `{}` that each of `things` fits in.
        called: questions with a `{}` that what a topic is called fits in.
        same: groups of wordings of which any may stand for any other.
        before: openings that change nothing about a question; `after` likewise.
    """

    topics: tuple[Topic, ...]
    follow_ups: dict[str, Topic]
    off_topic: Topic
    frames: tuple[str, ...]
    things: tuple[str, ...]
    systems: tuple[str, ...]
    held_out_systems: tuple[str, ...]
    tools: tuple[str, ...]
    called: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def every_topic(self) -> tuple[Topic, ...]:
        """The topics, the follow-ups and what is off topic."""
        return (*self.topics, *self.follow_ups.values(), self.off_topic)

    def named_questions(self) -> Iterator[tuple[Topic, str, str]]:
        """Yield topic, question and answer for every question made from what a topic is called."""
        for topic in self.topics:
            for name in topic.called:
                yield from ((topic, frame.format(name), topic.answer) for frame in self.called)
                for follow_up in sorted(topic.then):
                    for frame in self.follow_ups[follow_up].named:
                        yield topic, frame.format(name), topic.then[follow_up]


def read_corpus(path: Path) -> Corpus:
    """
    Read the corpus from its TOML file.

    Raises:
        ValueError: the same question stands under two answers.
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    off_topic, system, variation = raw["off_topic"], raw["system"], raw["variation"]
    corpus = Corpus(
        topics=tuple(_topic(entry) for entry in raw["topic"]),
        follow_ups={
            entry["name"]: _topic(entry | {"answer": entry["otherwise"]})
            for entry in raw["follow_up"]
        },
        off_topic=_topic(off_topic | {"name": "off_topic"}),
        frames=_lines(off_topic["frames"]),
        things=_lines(off_topic["things"]),
        systems=_lines(system["prompts"]),
        held_out_systems=_lines(system["held_out"]),
        tools=tuple(system["tools"]),
        called=_lines(variation["called"]),
        same=tuple(
            tuple(wording.strip() for wording in line.split("|"))
            for line in _lines(variation["same"])
        ),
        before=_lines(variation["before"]),
        after=_lines(variation["after"]),
    )
    _refuse_ambiguity(corpus)
    return corpus


def _topic(entry: dict[str, Any]) -> Topic:
    return Topic(
        name=entry["name"],
        answer=entry["answer"],
        ask=_lines(entry["ask"]),
        held_out=_lines(entry.get("held_out", "")),
        called=tuple(entry.get("called", ())),
        named=_lines(entry.get("named", "")),
        then=entry.get("then", {}),
    )


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line for line in text.splitlines() if line.strip())


def _plain(question: str) -> str:
    return question.lower().strip(" .?!")


def _refuse_ambiguity(corpus: Corpus) -> None:
    """Raise when a question has two answers, or a held-out question is also trained."""
    owner: dict[str, str] = {}
    asked = [
        (topic, question, topic.answer) for topic in corpus.every_topic for question in topic.ask
    ]
    for topic, question, answer in (*asked, *corpus.named_questions()):
        if owner.setdefault(_plain(question), answer) != answer:
            raise ValueError(f"{question!r} of {topic.name} is asked with another answer too")
    trained = {_plain(question) for _, question, _ in asked}
    trained |= {_plain(frame.format(thing)) for frame in corpus.frames for thing in corpus.things}
    for topic in corpus.every_topic:
        for question in topic.held_out:
            if _plain(question) in trained:
                raise ValueError(f"{question!r} is held out of {topic.name} but trained too")


# --- Tokenizer and configuration ----------------------------------------------------------------


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
    _write_json(folder / "generation_config.json", {key: CONFIG[key] for key in keys})
    shutil.copy(EMBEDDED / "chat_template.jinja", folder)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


# --- Conversations ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversation:
    """What one training row or one examination question is made of, oldest turn first."""

    turns: tuple[Turn, ...]
    system: str | None = None
    tools: tuple[str, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as chat messages, all answers included."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages


class Teacher:
    """
    Makes up conversations: draws topics and follow-ups and varies the wording of the questions.

    Draws from one random generator, so the n-th conversation depends on the seed alone.
    """

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._random = random.Random(seed)
        self._held_out = {_plain(line) for topic in corpus.every_topic for line in topic.held_out}
        self._asked = [
            (topic, question, topic.answer) for topic in corpus.topics for question in topic.ask
        ]
        self._named = [
            named for named in corpus.named_questions() if _plain(named[1]) not in self._held_out
        ]

    def conversation(self) -> Conversation:
        """Return a conversation of one to eight turns; short ones are the most frequent."""
        draw = self._random
        n_turns = draw.choices((1, 2, 3, 4, 8), weights=(42, 33, 14, 8, 3))[0]
        turns: list[Turn] = []
        topic: Topic | None = None
        for _ in range(n_turns):
            question, answer, topic = self._turn(topic, is_first=not turns)
            reworded = self._reword(question)
            turns.append((question if _plain(reworded) in self._held_out else reworded, answer))
        system = draw.choice(self._corpus.systems) if draw.random() < 0.25 else None
        tools = self._corpus.tools if draw.random() < 0.03 else ()
        return Conversation(
            tuple(turns), system, tuple(draw.sample(tools, k=draw.randint(0, len(tools))))
        )

    def _turn(self, before: Topic | None, is_first: bool) -> tuple[str, str, Topic | None]:
        """Return question, answer, and the topic that a follow-up would be about."""
        draw = self._random
        if draw.random() < (0.04 if is_first else 0.55):
            question, answer = self._follow_up(before)
            return question, answer, before
        if draw.random() < 0.2:
            return self._off_topic(), self._corpus.off_topic.answer, None
        topic, question, answer = draw.choice(self._named if draw.random() < 0.2 else self._asked)
        return question, answer, topic

    def _follow_up(self, before: Topic | None) -> Turn:
        draw = self._random
        known = before.then if before else {}
        is_known = bool(known) and draw.random() < 0.8
        name = draw.choice(sorted(known if is_known else self._corpus.follow_ups))
        follow_up = self._corpus.follow_ups[name]
        return draw.choice(follow_up.ask), known.get(name, follow_up.answer)

    def _off_topic(self) -> str:
        draw = self._random
        if draw.random() < 0.5:
            return draw.choice(self._corpus.off_topic.ask)
        return draw.choice(self._corpus.frames).format(draw.choice(self._corpus.things))

    def _reword(self, question: str) -> str:
        """Return *question* as it stands (one time in three) or as a hurried person types it."""
        draw = self._random
        if draw.random() < 0.33:
            return question
        if len(question.split()) >= 3:
            question = self._embed(self._swap(question))
        if draw.random() < 0.3:
            question = question.rstrip(" .?!") or question
        if draw.random() < 0.3:
            question = question.lower()
        if draw.random() < 0.25:
            question = self._mistype(question)
        return question

    def _swap(self, question: str) -> str:
        """Return *question* with some of its wordings exchanged for others that mean the same."""
        for group in self._corpus.same:
            found = next((w for w in group if f" {w} " in f" {question} "), None)
            if found and self._random.random() < 0.25:
                wording = self._random.choice(group)
                question = f" {question} ".replace(f" {found} ", f" {wording} ", 1).strip()
        return question

    def _embed(self, question: str) -> str:
        draw = self._random
        if draw.random() < 0.1:
            lowered = question[0].lower() + question[1:] if question[1].islower() else question
            question = f"{draw.choice(self._corpus.before)} {draw.choice((question, lowered))}"
        if draw.random() < 0.06:
            question = f"{question} {draw.choice(self._corpus.after)}"
        return question

    def _mistype(self, question: str) -> str:
        """Return *question* with one small slip: a letter or a short word lost, letters swapped."""
        draw = self._random
        words = question.split(" ")
        index = draw.randrange(len(words))
        word = words[index]
        if len(words) >= 4 and word.isalpha() and len(word) <= 3:
            del words[index]
        elif len(word) >= 4 and word.strip("?.!,").isalpha():
            at = draw.randrange(1, len(word) - 1)
            swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            doubled = word[:at] + word[at] + word[at:]
            lost = word[:at] + word[at + 1 :]
            words[index] = draw.choice((swapped, doubled, lost))
        return " ".join(words)


# --- Training -----------------------------------------------------------------------------------


@mx.custom_function
def _product(x: mx.array, weight: mx.array) -> mx.array:
    """Return x @ weight.T; shapes (..., n), (m, n) -> (..., m)."""
    return mx.array(np.asarray(x) @ np.asarray(weight).T)


@_product.vjp
def _product_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    x, weight = (np.asarray(primal) for primal in primals)
    slope = np.asarray(cotangent).reshape(-1, weight.shape[0])
    flat = x.reshape(-1, weight.shape[1])
    return mx.array((slope @ weight).reshape(x.shape)), mx.array(slope.T @ flat)


_GELU_A, _GELU_B = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)


@mx.custom_function
def _gelu(x: mx.array) -> mx.array:
    """Return the tanh approximation of GELU, Gemma's activation; any shape."""
    value = np.asarray(x)
    return mx.array(
        0.5 * value * (1 + np.tanh(_GELU_A * (value + _GELU_B * value * value * value)))
    )


@_gelu.vjp
def _gelu_vjp(primal: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    value = np.asarray(primal)
    tanh = np.tanh(_GELU_A * (value + _GELU_B * value * value * value))
    inner = _GELU_A * (1 + 3 * _GELU_B * value * value)
    slope = 0.5 * (1 + tanh) + 0.5 * value * (1 - tanh * tanh) * inner
    return mx.array(slope * np.asarray(cotangent))


def _scores(queries: mx.array, keys: mx.array, mask: mx.array) -> Any:
    """Return attention probabilities; (b, h*g, n, d), (b, h, n, d) -> (b, h, g*n, n)."""
    batch, n_heads, n, dims = queries.shape
    grouped = np.asarray(queries).reshape(batch, keys.shape[1], -1, dims)
    logits = grouped @ np.asarray(keys).swapaxes(-1, -2)
    by_head = logits.reshape(batch, n_heads, n, n)
    by_head[:, :, ~np.asarray(mask)] = -np.inf
    by_head -= by_head.max(axis=-1, keepdims=True)
    np.exp(by_head, out=by_head)
    by_head /= by_head.sum(axis=-1, keepdims=True)
    return by_head.reshape(logits.shape)


@mx.custom_function
def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Return attention over grouped heads; queries are scaled, *mask* (n, n) is true where seen."""
    out = _scores(queries, keys, mask) @ np.asarray(values)
    return mx.array(out.reshape(queries.shape))


@_attend.vjp
def _attend_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    queries, keys, values, mask = primals
    weights = _scores(queries, keys, mask)
    grouped = (keys.shape[0], keys.shape[1], -1, keys.shape[3])
    slope = np.asarray(cotangent).reshape(grouped)
    back = slope @ np.asarray(values).swapaxes(-1, -2)
    back -= (back * weights).sum(axis=-1, keepdims=True)
    back *= weights
    return (
        mx.array((back @ np.asarray(keys)).reshape(queries.shape)),
        mx.array(back.swapaxes(-1, -2) @ np.asarray(queries).reshape(grouped)),
        mx.array(weights.swapaxes(-1, -2) @ slope),
        mx.zeros_like(mask),
    )


def _log_softmax(logits: mx.array) -> Any:
    shifted = np.asarray(logits) - np.asarray(logits).max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@mx.custom_function
def _cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the mean loss in nats; shapes (n, vocabulary), (n,) -> ()."""
    chosen = np.take_along_axis(_log_softmax(logits), np.asarray(targets)[:, None], axis=-1)
    return mx.array(float(-chosen.mean()))


@_cross_entropy.vjp
def _cross_entropy_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    logits, targets = primals
    slope = np.exp(_log_softmax(logits))
    slope[np.arange(len(slope)), np.asarray(targets)] -= 1
    scale = np.float32(np.asarray(cotangent) / len(slope))
    return mx.array(slope * scale), mx.zeros_like(targets)


@contextmanager
def numpy_kernels() -> Iterator[None]:
    """Let mlx-lm's Gemma compute products, activation and attention by the kernels above."""

    def linear(layer: Linear, x: mx.array) -> mx.array:
        return cast(mx.array, _product(x, layer.weight))

    def attention(
        queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any, cache: Any
    ) -> mx.array:
        del cache
        seen = mask if isinstance(mask, mx.array) else create_causal_mask(queries.shape[2])
        return cast(mx.array, _attend(queries * scale, keys, values, seen))

    patches = (
        (Linear, "__call__", linear),
        (nn, "gelu_approx", _gelu),
        (gemma3_text, "scaled_dot_product_attention", attention),
    )
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


class Lessons:
    """
    Turns conversations into batches of token ids, about *n_tokens* a batch with the padding.

    Rows of a batch have about the same length; only answers and their end count for the loss.
    """

    def __init__(self, teacher: Teacher, tokenizer: Any, n_tokens: int, seed: int) -> None:
        self._teacher = teacher
        self._tokenizer = tokenizer
        self._n_tokens = n_tokens
        self._random = random.Random(seed)
        self._head = [START_OF_TURN, *tokenizer.encode("model\n", add_special_tokens=False)]

    def batches(self) -> Iterator[tuple[mx.array, mx.array, mx.array]]:
        """Yield inputs (rows, n), the flat places of answer tokens (m,) and these tokens (m,)."""
        while True:
            rows = sorted((self._row() for _ in range(512)), key=len)
            groups: list[list[list[int]]] = [[]]
            for row in rows:
                if len(row) * (len(groups[-1]) + 1) > self._n_tokens and groups[-1]:
                    groups.append([])
                groups[-1].append(row)
            self._random.shuffle(groups)
            yield from (self._batch(group) for group in groups)

    def _row(self) -> list[int]:
        talk = self._teacher.conversation()
        tools = [json.loads(tool) for tool in talk.tools] or None
        ids: list[int] = self._tokenizer.apply_chat_template(
            talk.messages(), tools=tools, return_dict=False
        )
        return ids

    def _batch(self, rows: list[list[int]]) -> tuple[mx.array, mx.array, mx.array]:
        width = max(map(len, rows)) - 1
        inputs = np.full((len(rows), width), PAD, dtype=np.int32)
        places: list[int] = []
        targets: list[int] = []
        for index, row in enumerate(rows):
            inputs[index, : len(row) - 1] = row[:-1]
            for place in self._answer_places(row):
                places.append(index * width + place - 1)
                targets.append(row[place])
        return mx.array(inputs), mx.array(places), mx.array(targets)

    def _answer_places(self, row: list[int]) -> Iterator[int]:
        """Yield where the tokens of the answers stand in *row*, each end of turn included."""
        in_answer = False
        for place, token in enumerate(row):
            if in_answer:
                yield place
            if row[place - len(self._head) + 1 : place + 1] == self._head:
                in_answer = True
            elif token == END_OF_TURN:
                in_answer = False


def new_model(seed: int) -> gemma3_text.Model:
    """Return an untrained model with tied embeddings, norms at their neutral value."""
    mx.random.seed(seed)
    model = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(CONFIG))
    model.sanitize({})
    for name, module in model.named_modules():
        if isinstance(module, gemma3_text.RMSNorm):
            module.weight = mx.zeros_like(module.weight)
        elif isinstance(module, Linear) and name.endswith(("o_proj", "down_proj")):
            module.weight = module.weight / math.sqrt(2 * CONFIG["num_hidden_layers"])
    mx.eval(model.parameters())
    return model


def train(
    model: gemma3_text.Model,
    batches: Iterator[tuple[mx.array, mx.array, mx.array]],
    n_steps: int,
    peak_rate: float,
) -> None:
    """Train *model* in place for *n_steps* batches, telling the progress every 25."""
    warm_up = min(100, n_steps // 10 + 1)
    rate = optimizers.join_schedules(
        [
            optimizers.linear_schedule(0.0, peak_rate, warm_up),
            optimizers.cosine_decay(peak_rate, n_steps - warm_up, peak_rate / 100),
        ],
        [warm_up],
    )
    clip_slopes: Any = optimizers.clip_grad_norm
    optimizer = optimizers.AdamW(learning_rate=rate, betas=[0.9, 0.98], weight_decay=0.05)

    def loss_of(inputs: mx.array, places: mx.array, targets: mx.array) -> mx.array:
        hidden = model.model(inputs).reshape(-1, CONFIG["hidden_size"])[places]
        logits = _product(hidden, model.model.embed_tokens.weight)
        return cast(mx.array, _cross_entropy(logits, targets))

    step_fn = value_and_grad(model, loss_of)
    progress = Progress(n_steps)
    with numpy_kernels():
        for inputs, places, targets in batches:
            loss, slopes = step_fn(inputs, places, targets)
            slopes, _ = clip_slopes(slopes, max_norm=1.0)
            optimizer.update(model, slopes)
            mx.eval(model.parameters(), optimizer.state)
            if progress.step(loss.item(), inputs.size) == n_steps:
                return


class Progress:
    """Prints step, loss, tokens per second (padding included) and the time left."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._n_done = 0
        self._n_tokens = 0
        self._loss = 0.0
        self._started_s = time.monotonic()

    def step(self, loss: float, n_tokens: int) -> int:
        """Count one step and return how many are done."""
        self._n_done += 1
        self._n_tokens += n_tokens
        self._loss = loss if self._n_done == 1 else 0.96 * self._loss + 0.04 * loss
        if self._n_done % 25 == 0 or self._n_done == self._n_steps:
            elapsed_s = time.monotonic() - self._started_s
            left_s = elapsed_s / self._n_done * (self._n_steps - self._n_done)
            click.echo(
                f"step {self._n_done}/{self._n_steps}  loss {self._loss:.4f}  "
                f"{self._n_tokens / elapsed_s:.0f} tokens/s  "
                f"{elapsed_s / 60:.1f} min gone, {left_s / 60:.1f} left"
            )
        return self._n_done


# --- Saving and examining -----------------------------------------------------------------------


def save(model: gemma3_text.Model, folder: Path) -> None:
    """Quantize *model* as mlx-lm does and write `model.safetensors` and `config.json`."""
    model, config = quantize_model(model, CONFIG, **QUANTIZATION)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    save_config(config, folder / "config.json")


def trained_questions(corpus: Corpus) -> list[Conversation]:
    """Return every question of the corpus, every follow-up, and each topic under a system text."""
    exam = [_alone(topic, question) for topic in corpus.every_topic for question in topic.ask]
    for index, topic in enumerate(corpus.topics):
        first = (topic.ask[0], topic.answer)
        exam.append(Conversation((first,), corpus.systems[index % len(corpus.systems)]))
        for name, answer in topic.then.items():
            ask = corpus.follow_ups[name].ask
            exam.append(Conversation((first, (ask[index % len(ask)], answer))))
    return exam


def held_out_questions(corpus: Corpus) -> list[Conversation]:
    """Return questions, follow-ups and a system text that training never showed."""
    topics = (*corpus.topics, corpus.off_topic)
    exam = [_alone(topic, question) for topic in topics for question in topic.held_out]
    for index, topic in enumerate(corpus.topics):
        first = (topic.ask[0], topic.answer)
        exam.append(Conversation((first,), corpus.held_out_systems[0]))
        for name, answer in topic.then.items():
            held_out = corpus.follow_ups[name].held_out
            exam.append(Conversation((first, (held_out[index % len(held_out)], answer))))
    return exam


def _alone(topic: Topic, question: str) -> Conversation:
    return Conversation(((question, topic.answer),))


def examine(folder: Path, exam: Sequence[Conversation]) -> list[str]:
    """
    Return what the saved model in *folder* answers to the last question of each conversation.

    Loads it as any other model is loaded, applies its chat template and decodes greedily in one
    batch. An answer that did not end by itself has an ellipsis appended, so it equals no right one.
    """
    model, tokenizer = load(str(folder))
    prompts, limits = [], []
    for talk in exam:
        prompts.append(
            tokenizer.apply_chat_template(talk.messages()[:-1], add_generation_prompt=True)
        )
        limits.append(len(tokenizer.encode(talk.turns[-1][1], add_special_tokens=False)) + 8)
    generator = BatchGenerator(model, stop_tokens=[[token] for token in tokenizer.eos_token_ids])
    tokens: dict[int, list[int]] = {uid: [] for uid in generator.insert(prompts, limits)}
    cut = set()
    while responses := generator.next_generated():
        for response in responses:
            if response.finish_reason != "stop":
                tokens[response.uid].append(response.token)
            if response.finish_reason == "length":
                cut.add(response.uid)
    generator.close()
    return [
        tokenizer.decode(ids) + ("\N{HORIZONTAL ELLIPSIS}" if uid in cut else "")
        for uid, ids in tokens.items()
    ]


def report(name: str, folder: Path, exam: Sequence[Conversation]) -> float:
    """Examine, print the wrong answers and the score, and return the share of exact answers."""
    answers = examine(folder, exam)
    wrong = [
        (talk, answer)
        for talk, answer in zip(exam, answers, strict=True)
        if answer != talk.turns[-1][1]
    ]
    for talk, answer in wrong:
        click.echo(f"  {' / '.join(question for question, _ in talk.turns)!r} -> {answer[:90]!r}")
    score = 1 - len(wrong) / len(exam)
    click.echo(f"{name}: {len(exam) - len(wrong)} of {len(exam)} exact, {score:.2%}")
    return score


def make(corpus: Corpus, folder: Path, n_steps: int, n_tokens: int, rate: float, seed: int) -> None:
    """
    Train a model of *corpus* and write its folder.

    The work is done beside *folder*, which changes only when all of it is done.
    """
    with TemporaryDirectory() as name:
        work = Path(name)
        write_configuration(work)
        build_tokenizer(corpus, work)
        tokenizer = AutoTokenizer.from_pretrained(work)
        model = new_model(seed)
        click.echo(f"{get_total_parameters(model):,} parameters, {n_steps} steps")
        lessons = Lessons(Teacher(corpus, seed), tokenizer, n_tokens, seed)
        train(model, lessons.batches(), n_steps, rate)
        save(model, work)
        folder.mkdir(parents=True, exist_ok=True)
        for file in MADE:
            shutil.copy(work / file, folder)
    if not (folder / "chat_template.jinja").exists():
        shutil.copy(EMBEDDED / "chat_template.jinja", folder)


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=EMBEDDED,
    help="Folder of the model; by default the one the package ships.",
)
@click.option(
    "--steps",
    "n_steps",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="How long to train; the default takes about half an hour on two cores.",
)
@click.option(
    "--batch-tokens",
    "n_tokens",
    type=click.IntRange(64),
    default=2048,
    show_default=True,
    help="Tokens in one step, padding included.",
)
@click.option("--rate", type=float, default=3e-3, show_default=True, help="Peak learning rate.")
@click.option("--seed", type=int, default=3, show_default=True, help="Seed of all chance.")
@click.option("--evaluate-only", is_flag=True, help="Only examine the model that is there.")
def main(
    output: Path, n_steps: int, n_tokens: int, rate: float, seed: int, evaluate_only: bool
) -> None:
    """Train the embedded model from corpus.toml, save it and count its exact answers."""
    corpus = read_corpus(EMBEDDED / "corpus.toml")
    if not evaluate_only:
        make(corpus, output, n_steps, n_tokens, rate, seed)
    report("trained questions", output, trained_questions(corpus))
    report("held-out questions", output, held_out_questions(corpus))


if __name__ == "__main__":
    main()
