"""The built-in model as it ships: loaded, asked and measured with the real mlx-lm."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.quantized import QuantizedEmbedding
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer
from mlx_lm.utils import get_total_parameters, load
from transformers import AutoTokenizer

from service.catalog.card import EMBEDDED_FOLDER as FOLDER
from service.training.__main__ import make
from service.training.conversations import Conversation, Teacher
from service.training.corpus import Corpus, read_corpus
from service.training.exam import examine, trained_questions
from service.training.kernels import numpy_kernels
from service.training.lessons import Lessons
from service.training.optimize import new_model

MAX_SIZE_BYTES = 4_000_000
N_SAMPLED = 40
HARD_TEXTS = [
    "",
    " two leading  spaces and one behind ",
    "tab\tnewline\nreturn\r\n\n\n",
    "NUL \x00, bell \x07, delete \x7f",
    "naïve café, e\u0301, Grüße, ﷽",
    "emoji 🙂 and a family 👩\u200d👩\u200d👧",
    "你好 世界",
    "{{7*7}} {% raw %} {# comment #}",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<tool_call>{}</tool_call><eos><pad>",
    "<|im_end|> </s> [INST] <s>",
    "don 't , . ! n't",
    "\ufffd\ufeff\u2028\U0010ffff",
]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any, dict[str, Any]]:
    model, tokenizer, config = load(str(FOLDER), return_config=True)
    return model, tokenizer, config


@pytest.fixture(scope="module")
def tokenizer(loaded: tuple[Any, Any, dict[str, Any]]) -> Any:
    return loaded[1]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(FOLDER / "corpus.toml")


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """Return what the chat template makes of *messages*, as text."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


def generate(model: Any, prompts: list[list[int]], n_tokens: int) -> list[list[int]]:
    """Return the first *n_tokens* greedy tokens for each prompt, decoded in one batch."""
    generator = BatchGenerator(model, max_tokens=n_tokens)
    tokens: dict[int, list[int]] = {uid: [] for uid in generator.insert(prompts)}
    while responses := generator.next_generated():
        for response in responses:
            tokens[response.uid].append(response.token)
    generator.close()
    return list(tokens.values())


# --- Files and claims ---------------------------------------------------------------------------


def test_folder_is_small_and_complete() -> None:
    """Everything a model folder needs is there, within the size the package allows itself."""
    names = {file.name for file in FOLDER.iterdir()}

    assert names >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "corpus.toml",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= MAX_SIZE_BYTES


def test_config_tells_architecture_context_and_quantization(
    loaded: tuple[Any, Any, dict[str, Any]],
) -> None:
    """What the metadata of the model is read from says what the model is."""
    config = loaded[2]

    assert config["model_type"] == "gemma3_text"
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["max_position_embeddings"] == 8192
    assert config["quantization"]["bits"] == 8
    assert {"sliding_attention", "full_attention"} == set(config["layer_types"])


def test_weights_are_quantized_and_tied(loaded: tuple[Any, Any, dict[str, Any]]) -> None:
    """The file holds packed weights for every matrix and no second copy of the embeddings."""
    stored: Any = mx.load(str(FOLDER / "model.safetensors"))
    matrices = [name for name, value in stored.items() if name.endswith("proj.weight")]

    assert not [name for name in stored if name.startswith("lm_head")]
    assert {mx.uint32} == {stored[name].dtype for name in matrices}
    assert isinstance(loaded[0].model.embed_tokens, QuantizedEmbedding)


def test_every_token_id_is_inside_the_embedding(loaded: tuple[Any, Any, dict[str, Any]]) -> None:
    """MLX checks no index: the tokenizer must not know an id that the model lacks."""
    model, tokenizer, config = loaded

    assert len(tokenizer) == config["vocab_size"]
    assert (1, 1, len(tokenizer)) == model(mx.array([[0]])).shape


def test_readme_tells_what_it_is_and_its_true_size(
    loaded: tuple[Any, Any, dict[str, Any]],
) -> None:
    """The model card is plain about the model, and its numbers are those of the files."""
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    weights_bytes = (FOLDER / "model.safetensors").stat().st_size

    assert "demonstration model of Gemma 3 architecture, trained from scratch" in text
    assert f"{get_total_parameters(loaded[0]):,} parameters" in text
    assert f"{weights_bytes / 1e6:.2f} MB" in text


# --- Tokenizer ----------------------------------------------------------------------------------


def test_mlx_lm_finds_detokenizer_tool_parser_and_ends(tokenizer: Any) -> None:
    """mlx-lm infers everything it needs from the folder, as for any other model."""
    end_of_turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")

    assert tokenizer.is_fast
    assert isinstance(tokenizer.detokenizer, BPEStreamingDetokenizer)
    assert tokenizer.tool_call_start == "<tool_call>"
    assert tokenizer.tool_parser('{"name":"f","arguments":{}}') == {"name": "f", "arguments": {}}
    assert {tokenizer.eos_token_id, end_of_turn} == tokenizer.eos_token_ids


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_text_survives_encoding_literally(tokenizer: Any, text: str) -> None:
    """Any text comes back exactly, and what looks like a special token in it is plain text."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    assert text == tokenizer.decode(ids)
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_every_character_survives_encoding(tokenizer: Any) -> None:
    """A sample of all of Unicode, surrogates apart, comes back exactly."""
    characters = [chr(code) for code in range(0, 0x110000, 17) if not 0xD800 <= code < 0xE000]
    text = "".join(characters)

    assert text == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))


# --- Chat template ------------------------------------------------------------------------------


def test_template_writes_a_turn_for_every_role(tokenizer: Any) -> None:
    """System, developer, user, assistant and tool each get their turn, in their order."""
    text = render(
        tokenizer,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}],
            },
            {"role": "assistant", "content": "Hello."},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ],
    )

    assert text == (
        "<bos><start_of_turn>system\nBe brief.<end_of_turn>\n"
        "<start_of_turn>system\nBe kind.<end_of_turn>\n"
        "<start_of_turn>user\nHi!<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>tool\n42<end_of_turn>\n"
    )


def test_template_opens_the_answer_only_when_asked_to(tokenizer: Any) -> None:
    """`add_generation_prompt` decides whether the model's turn is opened."""
    messages = [{"role": "user", "content": "Hi"}]
    opened = render(tokenizer, messages, add_generation_prompt=True)

    assert opened == render(tokenizer, messages) + "<start_of_turn>model\n"


def test_template_writes_tool_calls_that_the_parser_reads(tokenizer: Any) -> None:
    """Arguments come as a JSON string from clients, or as an object; both are written as JSON."""
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome"}'}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": {"ä": "<&>"}}},
        {"id": "3", "type": "function", "function": {"name": "h", "arguments": ""}},
    ]
    text = render(tokenizer, [{"role": "assistant", "content": None, "tool_calls": calls}])
    bodies = [part.split("</tool_call>")[0] for part in text.split("<tool_call>")[1:]]

    assert [tokenizer.tool_parser(body) for body in bodies] == [
        {"name": "f", "arguments": {"city": "Rome"}},
        {"name": "g", "arguments": {"ä": "<&>"}},
        {"name": "h", "arguments": {}},
    ]


def test_template_lists_tools_as_json(tokenizer: Any) -> None:
    """Each tool stands on a line of its own ahead of the conversation."""
    tool = {"type": "function", "function": {"name": "f", "description": "ü <b>", "parameters": {}}}
    text = render(tokenizer, [{"role": "user", "content": "Hi"}], tools=[tool])
    lines = [line.removesuffix("<end_of_turn>") for line in text.splitlines()]

    assert tool in [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("content", HARD_TEXTS)
def test_template_leaves_contents_as_they_came(tokenizer: Any, content: str) -> None:
    """Nothing in a message is trimmed, escaped or taken for a template."""
    text = render(tokenizer, [{"role": "user", "content": content}])

    assert text == f"<bos><start_of_turn>user\n{content}<end_of_turn>\n"


# --- Answers ------------------------------------------------------------------------------------


def test_answers_are_exact_to_the_letter(corpus: Corpus) -> None:
    """Of a fixed sample of all trained questions at least 95 % are answered exactly, and end."""
    exam = random.Random(1).sample(trained_questions(corpus), N_SAMPLED)
    answers = examine(FOLDER, exam)
    wrong = [
        (talk.turns, answer)
        for talk, answer in zip(exam, answers, strict=True)
        if answer != talk.turns[-1][1]
    ]

    assert len(wrong) <= 0.05 * N_SAMPLED, wrong


def test_hello_gets_a_greeting_that_tells_what_answers() -> None:
    """The first word anybody tries is answered in whole sentences, plainly."""
    [answer] = examine(FOLDER, [Conversation((("Hello", "x" * 400),))])

    assert answer.startswith("Hello!")
    assert "small built-in demonstration model of Gemma 3 architecture" in answer
    assert answer.endswith(".")


def test_batch_gives_each_prompt_what_it_gets_alone(
    loaded: tuple[Any, Any, dict[str, Any]],
) -> None:
    """A prompt far longer than the sliding window neither breaks nor changes its neighbours."""
    model, tokenizer, config = loaded
    questions = ["Hello", "What does /health mean? " * 110, "How do I choose a model?"]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        for question in questions
    ]
    alone = [generate(model, [prompt], n_tokens=12)[0] for prompt in prompts]

    assert len(prompts[1]) > config["sliding_window"]
    assert alone == generate(model, prompts, n_tokens=12)


# --- The script ---------------------------------------------------------------------------------


def test_corpus_refuses_one_question_with_two_answers(tmp_path: Path) -> None:
    """The person who edits the corpus hears of a contradiction before an hour of training."""
    text = (FOLDER / "corpus.toml").read_text(encoding="utf-8")
    path = tmp_path / "corpus.toml"
    path.write_text(text.replace("\nGoodbye!\n", "\nGoodbye!\nHELLO\n", 1), encoding="utf-8")

    with pytest.raises(ValueError, match="'HELLO' of goodbye is asked with another answer too"):
        read_corpus(path)


def test_corpus_knows_every_follow_up_it_answers(corpus: Corpus) -> None:
    """An answer under a name that no question leads to would never be given."""
    named = {name for topic in corpus.topics for name in topic.then}

    assert named <= set(corpus.follow_ups)


def test_same_seed_gives_the_same_lessons(corpus: Corpus) -> None:
    """Training can be repeated: what it is shown depends on the seed alone."""
    first, second, other = (Teacher(corpus, seed) for seed in (5, 5, 6))
    talks = [first.conversation() for _ in range(50)]

    assert talks == [second.conversation() for _ in range(50)]
    assert talks != [other.conversation() for _ in range(50)]


def test_numpy_kernels_have_the_derivatives_of_mlx(corpus: Corpus) -> None:
    """The detour through NumPy changes the speed of a training step and nothing else."""
    model = new_model(seed=1)
    lessons = Lessons(
        Teacher(corpus, 1), AutoTokenizer.from_pretrained(FOLDER), n_tokens=128, seed=1
    )
    inputs, _, _ = next(lessons.batches())

    def total(ids: mx.array) -> mx.array:
        return mx.square(model.model(ids)).sum() + mx.sin(model.model(ids)).sum()

    slope = value_and_grad(model, total)
    expected = dict(tree_flatten(slope(inputs)[1]))
    mx.eval(expected)
    with numpy_kernels():
        found = dict(tree_flatten(slope(inputs)[1]))
        mx.eval(found)

    for name, value in expected.items():
        difference = mx.abs(value - found[name]).max()
        assert (difference <= 1e-3 * mx.abs(value).max()).item(), name


def test_training_makes_a_folder_that_loads(tmp_path: Path, corpus: Corpus) -> None:
    """From nothing to a model that mlx-lm loads and runs, in as few steps as there can be."""
    make(corpus, tmp_path, n_steps=2, n_tokens=128, rate=1e-3, seed=1)
    trained, tokenizer = load(str(tmp_path))

    assert len(generate(trained, [tokenizer.encode("Hello")], n_tokens=3)[0]) == 3
