"""
Prompt lookup: what a sequence will say next is guessed from its own tokens, and checked in one step.

A guess costs a few more positions in a step that is made anyway. Every position is drawn as it would be
without guesses, with the sequence's own key and the token's own number, and a guessed token is accepted only
where it is the one that was drawn. So answers are the same, greedy or not, and only the number of steps is
another.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023; the guesses after Saxena,
"Prompt Lookup Decoding", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.engine.decoding.step_costs import mixed

N_GRAM = 3  # tokens that must have stood together before; fewer guess wrongly too often (measured)
FIRST_TOKENS = 3  # length of a guess of which nothing is known yet (measured)
MAX_PAUSE = (
    64  # most steps without a guess after wrong ones: a text may begin to repeat itself (taste)
)


class Acceptance:
    """
    How many tokens of the guesses from one source are accepted, and so how long the next guess should be.

    Args:
        max_tokens: most tokens of a guess.

    Attributes:
        n_tokens: how many tokens the next guess should have.
        rate: the part of the guessed tokens that was accepted of late.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self.n_tokens = min(FIRST_TOKENS, max_tokens)
        self.rate = 0.5
        self._pause = 0
        self._next_pause = 1

    def rests(self) -> bool:
        """Whether to guess nothing this time, since the last guess was wrong."""
        is_resting = self._pause > 0
        self._pause -= is_resting
        return is_resting

    def learn(self, n_guessed: int, n_accepted: float) -> None:
        """Take in how a guess did: after a right one the next is longer, after a wrong one comes a rest."""
        self.rate = mixed(self.rate, n_accepted / n_guessed)
        if n_accepted:
            self._next_pause = 1
            self.n_tokens = min(round(2 * n_accepted) + 1, self._max_tokens)
        else:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, MAX_PAUSE)
            self.n_tokens = min(FIRST_TOKENS, self._max_tokens)


class PromptLookup:
    """
    The tokens of one sequence, and what may follow them.

    Args:
        max_tokens: most tokens of a guess.

    Attributes:
        acceptance: how well its guesses do.
    """

    def __init__(self, max_tokens: int) -> None:
        self._ids = np.zeros(256, dtype=np.int64)
        self._n = 0
        self.acceptance = Acceptance(max_tokens)

    def guess(self, tokens: Sequence[int]) -> list[int]:
        """
        Return what may follow *tokens*, which began as at the last call; empty where nothing is found.

        The last tokens are looked for among all before them, the latest place first.
        """
        self._take(tokens)
        if self.acceptance.rests():
            return []
        ids = self._ids[: self._n]
        if len(ids) <= N_GRAM:
            return []
        found = ids[N_GRAM - 1 : -1] == ids[-1]
        for i in range(1, N_GRAM):
            found &= ids[N_GRAM - 1 - i : -1 - i] == ids[-1 - i]
        places = found.nonzero()[0]
        if not len(places):
            return []
        again = ids[int(places[-1]) + N_GRAM :]  # and so on, if it is shorter than a guess
        return [int(again[i % len(again)]) for i in range(1 + self.acceptance.n_tokens)]

    def _take(self, tokens: Sequence[int]) -> None:
        if len(tokens) > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(len(tokens), dtype=np.int64)])
        self._ids[self._n : len(tokens)] = tokens[self._n :]
        self._n = len(tokens)


def accepted(guess: Sequence[int], drawn: Sequence[int]) -> list[int]:
    """Return the tokens of *guess* up to the first that was not *drawn* in its place."""
    n = next((i for i, token in enumerate(guess) if token != drawn[i]), len(guess))
    return list(guess[:n])
