"""
Trains the embedded model from its committed text: `python -m service.training`.

Five steps, each a module beside this one: read the corpus, build tokenizer and configuration, make up
conversations, train on them, save quantized and examine what was saved. The same seed on the same
machine, with the same number of threads, gives the same weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import gemma3_text
from mlx_lm.utils import get_total_parameters, quantize_model, save_config
from transformers import AutoTokenizer

from service.catalog.card import EMBEDDED_FOLDER
from service.training.conversations import Teacher
from service.training.corpus import Corpus, read_corpus
from service.training.exam import held_out_questions, report, trained_questions
from service.training.lessons import Lessons
from service.training.optimize import new_model, train
from service.training.tokenizer import (
    CONFIG,
    QUANTIZATION,
    build_tokenizer,
    write_configuration,
)

MADE = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def save(model: gemma3_text.Model, folder: Path) -> None:
    """Quantize *model* as mlx-lm does and write `model.safetensors` and `config.json`."""
    model, config = quantize_model(model, CONFIG, **QUANTIZATION)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    save_config(config, folder / "config.json")


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
        shutil.copy(EMBEDDED_FOLDER / "chat_template.jinja", folder)


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=EMBEDDED_FOLDER,
    help="Folder of the model; by default the one the package ships.",
)
@click.option(
    "--steps",
    "n_steps",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="How long to train; the default took 19 minutes on one core.",
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
    corpus = read_corpus(EMBEDDED_FOLDER / "corpus.toml")
    if not evaluate_only:
        make(corpus, output, n_steps, n_tokens, rate, seed)
    report("trained questions", output, trained_questions(corpus))
    report("held-out questions", output, held_out_questions(corpus))


if __name__ == "__main__":
    main()
