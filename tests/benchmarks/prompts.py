"""
What clients say, by kinds; `KINDS` is the table.

Texts are drawn from a seed, another in each round, so that no cache knows them from the round before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from service.catalog.card import EMBEDDED_FOLDER
from tests.benchmarks.load import LONG, Ask, Client

WORDS = (
    *("the", "a", "one", "two", "first", "last", "next", "every", "short", "long", "ready", "not"),
    *("server", "model", "request", "answer", "token", "queue", "engine", "prompt", "stream"),
    *("client", "setting", "health", "memory", "log", "and", "with", "for", "when", "after"),
    *("is", "has", "waits", "reads", "writes", "counts", "starts", "ends", "gives", "keeps"),
)
N_OWN_TOKENS = 8
QUESTIONS = (
    "What does /health mean?",
    "How do I stream an answer?",
    "What is the queue for?",
    "How do I set the port?",
    "What is a token?",
    "How is the model loaded?",
    "What does the log say?",
    "Which routes are there?",
    "What is a warm-up?",
    "How do I stop the server?",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "read_log",
        "description": "Read lines of the log.",
        "parameters": {
            "type": "object",
            "properties": {"first": {"type": "integer"}, "last": {"type": "integer"}},
            "required": ["first", "last"],
        },
    },
}


@dataclass(frozen=True)
class Order:
    """
    What one client is to say.

    Attributes:
        index: the client's number.
        n_prompt_tokens: about how long its text is.
        n_tokens: the longest answer.
        n_turns: how many asks it makes.
        shared: the seed that all clients of the round have in common.
        fields: what each of its requests has besides.
    """

    index: int
    n_prompt_tokens: int
    n_tokens: int
    n_turns: int
    shared: int
    fields: Mapping[str, Any]

    def own(self) -> random.Random:
        """Return the client's own source of chance."""
        return random.Random(f"{self.shared} {self.index}")


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))


def text(n_tokens: int, chance: random.Random) -> str:
    """Return words that are *n_tokens* tokens, or one or two fewer."""
    words = " ".join(chance.choices(WORDS, k=n_tokens))
    return str(_tokenizer().decode(_tokenizer().encode(words).ids[:n_tokens]))


def user(content: str) -> dict[str, str]:
    """Return a user's message."""
    return {"role": "user", "content": content}


def question(order: Order) -> list[Ask]:
    """A few words of the client's own, and one short question whose answer is long."""
    return reading(replace(order, n_prompt_tokens=N_OWN_TOKENS))


def reading(order: Order) -> list[Ask]:
    """A text of the client's own, and a question."""
    said = text(order.n_prompt_tokens, order.own()) + "\n" + LONG[order.index % len(LONG)]
    return [Ask((user(said),), order.n_tokens, order.fields)]


def mixed(order: Order) -> list[Ask]:
    """A text and an answer of any length up to what is ordered."""
    chance = order.own()
    said = text(chance.randint(8, order.n_prompt_tokens), chance)
    return [Ask((user(said),), chance.randint(8, order.n_tokens), order.fields)]


def shared(order: Order) -> list[Ask]:
    """A long system prompt that all clients have, and a question of the client's own."""
    system = {"role": "system", "content": _shared_text(order)}
    asked = user(f"{order.index}: {QUESTIONS[order.index % len(QUESTIONS)]}")
    return [Ask((system, asked), order.n_tokens, order.fields)]


def chat(order: Order) -> list[Ask]:
    """A conversation that grows with each question and each answer that came."""
    opening = text(order.n_prompt_tokens, order.own()) + "\n"
    return [
        Ask(
            (user(("" if turn else opening) + QUESTIONS[turn % len(QUESTIONS)]),),
            order.n_tokens,
            order.fields,
        )
        for turn in range(order.n_turns)
    ]


def agent(order: Order) -> list[Ask]:
    """A task with a tool that is called again and again; calls and results are written beforehand."""
    chance = order.own()
    system = {"role": "system", "content": text(order.n_prompt_tokens, chance)}
    begun = [system, user("Find the error in the log.")]
    asks = [Ask(tuple(begun), order.n_tokens, {**order.fields, "tools": [TOOL]})]
    for turn in range(1, order.n_turns):
        arguments = f'{{"first": {10 * turn}, "last": {10 * turn + 9}}}'
        function = {"name": "read_log", "arguments": arguments}
        call = {"id": f"call_{turn}", "type": "function", "function": function}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": f"call_{turn}", "content": text(64, chance)}
        asks.append(Ask((called, result), order.n_tokens, asks[0].fields))
    return asks


def again(order: Order) -> list[Ask]:
    """The same question twice: the second answer repeats the first, and it alone is measured."""
    asked = user(LONG[order.index % len(LONG)])
    return [
        Ask((asked,), order.n_tokens, order.fields, is_measured=False),
        Ask((asked,), order.n_tokens, order.fields),
    ]


def _shared_text(order: Order) -> str:
    return text(order.n_prompt_tokens, random.Random(order.shared))


KINDS: dict[str, Callable[[Order], list[Ask]]] = {
    "question": question,
    "reading": reading,
    "mixed": mixed,
    "shared": shared,
    "chat": chat,
    "agent": agent,
    "again": again,
}


def client(kind: str, order: Order, at_s: float = 0.0) -> Client:
    """Return the client that says what *order* wants."""
    return Client(tuple(KINDS[kind](order)), at_s)
