"""Reasoning before an answer, where some effort is asked for."""

import itertools
from collections.abc import Iterator
from typing import Any

from conformance.broken.miniature import Asked
from conformance.broken.seeing import Body
from conformance.broken.talking import Said, Talking, pieces

THOUGHTS = pieces("Which tick comes next?")


class Thinking(Talking):
    """The talking miniature, with thoughts, which it keeps apart."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "reasoning"]

    def thoughts(self, body: Body) -> list[str]:
        """Return what is thought before the answer, token by token."""
        return [] if body.get("reasoning_effort") in {None, "none"} else THOUGHTS

    def thought(self, text: str) -> dict[str, Any]:
        """Return how thoughts stand in a message or a delta."""
        return {"reasoning_content": text}

    def said(self, body: Body) -> Said:
        """Decide what a choice says; after some thought, one word is enough."""
        found = super().said(body)
        return Said(found.tokens[:1], "stop") if self.thoughts(body) else found

    def usage_of(self, body: Body, n_choices: int) -> dict[str, Any]:
        """Return the counts; thoughts are generated, too."""
        usage, n_thought = super().usage_of(body, n_choices), n_choices * len(self.thoughts(body))
        if not n_thought:
            return usage
        for name in ("completion_tokens", "total_tokens"):
            usage[name] += n_thought
        return usage | {"completion_tokens_details": self.details(n_thought)}

    def details(self, n_thought: int) -> dict[str, int]:
        """Return which of the tokens are thoughts."""
        return {"reasoning_tokens": n_thought}

    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        """Return a whole choice."""
        found = super().whole(asked, body)
        if thoughts := self.thoughts(body):
            found["message"] |= self.thought("".join(thoughts))
        return found

    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        """Yield the chunks of one choice."""
        chunks = super().choice_chunks(asked, body)
        yield from itertools.islice(chunks, 1)
        for token in self.thoughts(body):
            yield self.choice(self.thought(token))
        yield from chunks
