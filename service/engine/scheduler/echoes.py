"""Sequences that say their prompt first, as evaluation harnesses ask for it, with its log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Collection

import mlx.nn as nn

from service.engine.cache.kv import Caches
from service.engine.decoding.scoring import Scoring
from service.engine.decoding.sequence import Sequence, Status
from service.engine.scheduler.output import StepOutput, Teller


class Echoes:
    """
    The sequences whose prompts are still to be said, one after another.

    Args:
        model: maps token ids, shape (1, n), and a cache to logits, shape (1, n, vocabulary).
        caches: makes the cache of each.
        n_logits: the logit width.
        teller: makes deltas.

    Attributes:
        sequences: first come first.
    """

    def __init__(self, model: nn.Module, caches: Caches, n_logits: int, teller: Teller) -> None:
        self.sequences: list[Sequence] = []
        self._model = model
        self._caches = caches
        self._n_logits = n_logits
        self._teller = teller
        self._scoring: Scoring | None = None

    def step(self, output: StepOutput) -> Sequence | None:
        """
        Score a piece of the first prompt, where that is wanted.

        Returns:
            The sequence that has said its prompt into *output* now, and can go on; None: not yet.
        """
        if not self.sequences:
            return None
        first = self.sequences[0]
        first.begun_s = first.begun_s or time.monotonic()
        n_top = first.job.top_logprobs
        if n_top is not None:
            if self._scoring is None:
                self._scoring = Scoring(
                    self._model, self._caches.make(), first.tokens, n_top, self._n_logits
                )
            if not self._scoring.is_done:
                self._scoring.step()
            if not self._scoring.is_done:
                return None
        scoring, self._scoring = self._scoring, None
        output.deltas.append(self._teller.echo(first, scoring.scored if scoring else None))
        if scoring and first.n_left:
            first.cache, first.n_in_cache = scoring.cache, first.n_left
        first.status = Status.WAITING
        return self.sequences.pop(0)

    def leave(self, leaving: Collection[Sequence]) -> None:
        """Forget all *leaving* sequences that are here."""
        if self.sequences and self.sequences[0] in leaving:
            self._scoring = None
        self.sequences = [each for each in self.sequences if each not in leaving]
