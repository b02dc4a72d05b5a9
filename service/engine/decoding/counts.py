"""What is counted while an engine generates, for who watches it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counts:
    """
    Belongs to the MLX thread; only ever counted up, but for `clear`.

    Attributes:
        n_queried_tokens: tokens of prompts that the prefix cache was asked for.
        n_hit_tokens: those of them that it had.
        n_proposed_tokens: tokens that were guessed ahead and checked.
        n_accepted_tokens: those of them that the model says as well.
        n_preemptions: times that a sequence had to wait again, since the KV cache was full.
    """

    n_queried_tokens: int = 0
    n_hit_tokens: int = 0
    n_proposed_tokens: int = 0
    n_accepted_tokens: int = 0
    n_preemptions: int = 0

    def clear(self) -> None:
        """Begin anew: what was counted in trials is nobody's request."""
        for field in fields(self):
            setattr(self, field.name, 0)
