"""The saved model, examined: which questions it answers to the letter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load

from service.training.conversations import Conversation
from service.training.corpus import Corpus, Topic


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
