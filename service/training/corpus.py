"""The committed text that the model is taught: read, checked, and held as topics."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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


def plain(question: str) -> str:
    """Return *question* as it is told from others: small letters, no marks at its ends."""
    return question.lower().strip(" .?!")


def _refuse_ambiguity(corpus: Corpus) -> None:
    """Raise when a question has two answers, or a held-out question is also trained."""
    owner: dict[str, str] = {}
    asked = [
        (topic, question, topic.answer) for topic in corpus.every_topic for question in topic.ask
    ]
    for topic, question, answer in (*asked, *corpus.named_questions()):
        if owner.setdefault(plain(question), answer) != answer:
            raise ValueError(f"{question!r} of {topic.name} is asked with another answer too")
    trained = {plain(question) for _, question, _ in asked}
    trained |= {plain(frame.format(thing)) for frame in corpus.frames for thing in corpus.things}
    for topic in corpus.every_topic:
        for question in topic.held_out:
            if plain(question) in trained:
                raise ValueError(f"{question!r} is held out of {topic.name} but trained too")
