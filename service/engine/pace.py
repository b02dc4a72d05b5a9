"""
What steps cost, learnt from those before: how much of prompts to read in one, which guesses to check in one.

A step that reads is one in which everyone who decodes waits, so it is kept about as short as theirs.
"""

from __future__ import annotations

MAX_STEP_TOKENS = 2048
MIN_STEP_TOKENS = 2
EVEN_TOKENS = 32
ALONE_S = 0.25  # how long a step may be where nobody decodes: cancelling waits for it
SHARE = 1.5  # how long it may be otherwise, in steps that only decode
INERTIA = 0.8
MIN_GAIN = 1.1


class Pace:
    """How many tokens of prompts one step may read, learnt from the steps before."""

    def __init__(self) -> None:
        self._decode_s = 0.0
        self._token_s = ALONE_S / MAX_STEP_TOKENS

    def n_tokens(self, n_prompts: int, n_waiting: int, n_decoding: int) -> int:
        """
        Return how many tokens of each of *n_prompts* to read; many as a power of two.

        Args:
            n_prompts: how many are being read.
            n_waiting: how many wait for their first token, those included: a crowd may keep a few longer.
            n_decoding: how many wait for their next one meanwhile.
        """
        allowed_s = ALONE_S
        if n_decoding:
            crowd = max(1.0, n_waiting / n_decoding)
            allowed_s = min(SHARE * self._decode_s * crowd, ALONE_S)
        wanted = int(allowed_s / self._token_s / max(n_prompts, 1))
        n = min(max(wanted, MIN_STEP_TOKENS), MAX_STEP_TOKENS)
        return n if n < EVEN_TOKENS else 1 << (n.bit_length() - 1)

    def learn(self, took_s: float, n_read: int, *, is_decoding: bool) -> None:
        """Take in that a step took *took_s* seconds and read *n_read* tokens of prompts."""
        if not n_read:
            self._decode_s = mixed(self._decode_s or took_s, took_s)
        elif is_decoding:
            self._token_s = mixed(self._token_s, max(took_s - self._decode_s, 0.0) / n_read)
        else:
            self._token_s = mixed(self._token_s, took_s / n_read)


class Economy:
    """What steps cost, learnt from those before; says whether a guess is worth its positions."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._more_s = 0.0

    def is_worth_it(self, n_rows: int, n_more: int, n_expected: float) -> bool:
        """Whether *n_expected* tokens more are worth computing *n_more* positions more."""
        if not self._step_s:
            return False
        dearer = 1 + n_more * self._more_s / self._step_s
        return 1 + n_expected / n_rows > MIN_GAIN * dearer

    def learn(self, took_s: float, n_more: int) -> None:
        """Take in what a step took that computed *n_more* positions beside each row's own."""
        if not n_more:
            self._step_s = mixed(self._step_s or took_s, took_s)
        else:
            more_s = max(took_s - self._step_s, 0.0) / n_more
            self._more_s = mixed(self._more_s or more_s, more_s)


def mixed(old: float, new: float) -> float:
    """Return an average that follows what is new slowly."""
    return INERTIA * old + (1 - INERTIA) * new
