"""Conversations made up from the corpus, worded as people word them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from service.training.corpus import Corpus, Topic, plain

Turn = tuple[str, str]


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
        self._held_out = {plain(line) for topic in corpus.every_topic for line in topic.held_out}
        self._asked = [
            (topic, question, topic.answer) for topic in corpus.topics for question in topic.ask
        ]
        self._named = [
            named for named in corpus.named_questions() if plain(named[1]) not in self._held_out
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
            turns.append((question if plain(reworded) in self._held_out else reworded, answer))
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
