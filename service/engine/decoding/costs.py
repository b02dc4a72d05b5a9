"""
What steps cost, learnt from those before: how much of prompts to read in one, which guesses to check in one.

A step that reads is one in which everyone who decodes waits, so it is kept about as short as theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_STEP_TOKENS = 2048
MIN_STEP_TOKENS = 2
EVEN_TOKENS = 32
ALONE_S = 0.25  # how long a step may be where nobody decodes: cancelling waits for it
SHARE = 1.5  # how long it may be otherwise, in steps that only decode
INERTIA = 0.8
MEMORY = 0.9
MIN_SPREAD = 1e-6
MIN_GAIN = 1.1
N_TRUSTED = 64  # steps that guess, until one that doesn't is timed again
ADVANCE_STEPS = 8.0
MAX_CREDIT_STEPS = 64.0
SAVED_STEPS = 1 / 64


class Line:
    """A straight line through what was measured of late: seconds over a number that is varied."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)
        self._slope_s = 0.0

    def learn(self, n: int, took_s: float) -> None:
        """Take in that *n* of them took *took_s* seconds; what is old counts less and less."""
        self._sums = MEMORY * self._sums + (1, n, n * n, took_s, n * took_s)
        weight, ns, squares, times, products = self._sums
        spread = weight * squares - ns * ns
        if spread > MIN_SPREAD * weight * squares:
            self._slope_s = max((weight * products - ns * times) / spread, 0.0)

    def at(self, n: int) -> float:
        """Return how long *n* of them should take, in seconds; 0: nothing was measured."""
        weight, ns, _, times, _ = self._sums
        return (
            max(float(times + self._slope_s * (weight * n - ns)) / weight, 0.0) if weight else 0.0
        )


class Pace:
    """How many tokens of prompts one step may read, learnt from the steps before."""

    def __init__(self) -> None:
        self._decode = Line()
        self._token_s = ALONE_S / MAX_STEP_TOKENS

    def n_tokens(self, unread: Sequence[int], n_waiting: int, n_decoding: int) -> int:
        """
        Return how many tokens of each prompt to read.

        Many are a power of two. Few are an even part of the longest prompt, so that those about as long as it
        are read to their ends in the same step.

        Args:
            unread: tokens left to read of each prompt that is being read.
            n_waiting: how many wait for their first token, those included: a crowd may keep a few longer.
            n_decoding: how many wait for their next one meanwhile.
        """
        allowed_s = ALONE_S
        if n_decoding:
            crowd = 1 + (n_waiting - 1) / n_decoding
            allowed_s = min(SHARE * self._decode.at(n_decoding) * crowd, ALONE_S)
        wanted = int(allowed_s / self._token_s / max(len(unread), 1))
        n = min(max(wanted, MIN_STEP_TOKENS), MAX_STEP_TOKENS)
        if n >= EVEN_TOKENS:
            return 1 << (n.bit_length() - 1)
        longest = max(unread, default=n)
        return math.ceil(longest / math.ceil(longest / n))

    def learn(self, took_s: float, n_read: int, n_decoding: int) -> None:
        """Take in that a step took *took_s* seconds, and read *n_read* tokens beside *n_decoding* rows."""
        if not n_read:
            self._decode.learn(n_decoding, took_s)
            return
        reading_s = max(took_s - self._decode.at(n_decoding), 0.0) if n_decoding else took_s
        self._token_s = mixed(self._token_s, reading_s / n_read)


class Credit:
    """
    What a draft model may cost, in steps without it: a little in advance, and what it has saved.

    Once that is used up it rests, until the advance has been put by out of the steps without it, a small part
    of each. So it never costs more than that part for long, whatever the text, the batch and the machine.

    Attributes:
        gain: how many times faster the steps with it are, of late; 0: none were made.
    """

    def __init__(self) -> None:
        self.gain = 0.0
        self._steps = ADVANCE_STEPS
        self._is_used_up = False

    @property
    def steps(self) -> float:
        """What it may cost now; 0: it rests."""
        return 0.0 if self._is_used_up else self._steps

    def put_by(self) -> None:
        """Count a step without it."""
        if self._steps < ADVANCE_STEPS:
            self._steps += SAVED_STEPS
        else:
            self._is_used_up = False

    def book(self, n_steps: float) -> None:
        """Count *n_steps* that it has saved, or cost where they are negative."""
        self._steps = max(min(self._steps + n_steps, MAX_CREDIT_STEPS), -ADVANCE_STEPS)
        if self._steps <= 0:
            self._is_used_up = True
            self.gain = 0.0


class Economy:
    """
    What steps cost, learnt from those before; says whether a guess is worth its positions.

    Attributes:
        credit: of the draft model.
        is_disturbed: prompts are read between the steps: how long these take says nothing then.
    """

    def __init__(self) -> None:
        self.credit = Credit()
        self.is_disturbed = False
        self._step_s: dict[int, float] = {}
        self._more_s = 0.0
        self._n_guessed = 0

    def step_s(self, n_rows: int) -> float | None:
        """Return how long a step of *n_rows* is that guesses nothing; None: one should be timed."""
        is_trusted = self._n_guessed < N_TRUSTED or self.is_disturbed
        return self._step_s.get(n_rows) if is_trusted else None

    def is_worth_it(self, n_rows: int, n_more: int, n_expected: float) -> bool:
        """Whether *n_expected* tokens more, for free, are worth computing *n_more* positions more."""
        step_s = self.step_s(n_rows)
        if step_s is None:
            return False
        gain = (1 + n_expected / n_rows) / (1 + n_more * self._more_s / step_s)
        return gain > max(MIN_GAIN, self.credit.gain)

    def learn(self, took_s: float, n_rows: int, n_more: int) -> None:
        """Take in what a step of *n_rows* took that computed *n_more* positions beside each row's own."""
        if not n_more:
            if not self.is_disturbed:
                self._step_s[n_rows] = mixed(self._step_s.get(n_rows, took_s), took_s)
                self._n_guessed = 0
            return
        self._n_guessed += 1
        step_s = self._step_s.get(n_rows)
        if step_s is not None:
            more_s = max(took_s - step_s, 0.0) / n_more
            self._more_s = mixed(self._more_s or more_s, more_s)

    def charge(self, n_rows: int, took_s: float) -> None:
        """Book what a draft model took to read what it has to know."""
        self.credit.book(-took_s / self._step_s[n_rows])

    def reward(self, n_rows: int, took_s: float, n_tokens: int) -> None:
        """Book a step of *n_rows* with a draft model's guesses, all told, that gave *n_tokens*."""
        n_steps = n_tokens / n_rows
        n_spent = took_s / self._step_s[n_rows]
        self.credit.gain = mixed(self.credit.gain or n_steps / n_spent, n_steps / n_spent)
        self.credit.book(n_steps - n_spent)


def mixed(old: float, new: float) -> float:
    """Return an average that follows what is new slowly."""
    return INERTIA * old + (1 - INERTIA) * new
