"""What a request took: tokens as they were counted, and seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.protocol import Delta


@dataclass(slots=True)
class Usage:
    """
    The tokens and times of one request, whose answers may be several.

    Attributes:
        n_prompt_tokens: each prompt once, however many answers were given to it.
        n_answers: how many are to come.
        waited_s: seconds until the request got its permit.
        n_prompts: they are shared out evenly among so many prompts, those of the first prompt first.
    """

    n_prompt_tokens: int
    n_answers: int = 1
    waited_s: float = 0.0
    n_prompts: int = 1
    _last: dict[int, Delta] = field(default_factory=dict)

    def add(self, index: int, last: Delta) -> None:
        """Count the answer *index*, by its last delta."""
        self._last[index] = last

    @property
    def is_complete(self) -> bool:
        """Whether all answers have ended."""
        return len(self._last) == self.n_answers

    @property
    def n_completion_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(last.n_completion_tokens for last in self._last.values())

    @property
    def n_reasoning_tokens(self) -> int:
        """How many of them were thoughts."""
        return sum(last.n_reasoning_tokens for last in self._last.values())

    @property
    def n_cached_tokens(self) -> int:
        """How many of the prompts' tokens no answer had to read."""
        least: dict[int, int] = {}
        for index, last in self._last.items():
            if last.spent:
                prompt = index * self.n_prompts // self.n_answers
                n_cached = last.spent.n_cached_tokens
                least[prompt] = min(n_cached, least.get(prompt, n_cached))
        return sum(least.values())

    def counts(self) -> dict[str, Any]:
        """Return the counts as chats and completions name them."""
        return {
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": self.n_completion_tokens,
            "total_tokens": self.n_prompt_tokens + self.n_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.n_cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.n_reasoning_tokens},
        }

    def timings(self) -> dict[str, float]:
        """Return the seconds spent waiting, reading the prompt and writing, of the slowest answer."""
        spent = [last.spent for last in self._last.values() if last.spent is not None]
        queue_s = self.waited_s + max((one.queue_s for one in spent), default=0.0)
        return {
            "queue_s": round(queue_s, 6),
            "prefill_s": round(max((one.prefill_s for one in spent), default=0.0), 6),
            "decode_s": round(max((one.decode_s for one in spent), default=0.0), 6),
        }

    def as_body(self) -> dict[str, Any]:
        """Return the members that end a body or a stream."""
        return {"usage": self.counts(), "timings": self.timings()}
