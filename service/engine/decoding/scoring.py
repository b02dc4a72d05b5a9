"""Log-probabilities of a prompt's own tokens, piece by piece, so that nobody waits for long."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from service.engine.decoding.sampling import likeliest, rows_of

STEP_TOKENS = 512
MAX_LOGITS = 1 << 24

Scored = tuple[float, list[tuple[int, float]]]


class NotFiniteError(ArithmeticError):
    """The model computed what is no number."""


class Scoring:
    """
    A prompt being scored.

    Args:
        model: maps token ids, shape (1, n), and a cache to logits, shape (1, n, vocabulary).
        cache: an empty one, one part per layer.
        ids: the prompt, shape (n,).
        n_top: how many of the likeliest tokens to name in each place.
        n_logits: the logit width.

    Attributes:
        cache: keys and values of all tokens but the last, once it is done.
        scored: for each token from the second on its log-probability, and the likeliest ones' ids and
            theirs, likeliest first.
    """

    def __init__(
        self, model: nn.Module, cache: list[Any], ids: list[int], n_top: int, n_logits: int
    ) -> None:
        self.cache = cache
        self.scored: list[Scored] = []
        self._model = model
        self._ids = ids
        self._n_top = n_top
        self._step_tokens = max(1, min(STEP_TOKENS, MAX_LOGITS // n_logits))

    @property
    def is_done(self) -> bool:
        """Whether every token has been scored."""
        return len(self.scored) == len(self._ids) - 1

    def step(self) -> None:
        """
        Read one piece more.

        Raises:
            NotFiniteError: the model computed what is no number.
        """
        begin = len(self.scored)
        end = min(begin + self._step_tokens, len(self._ids) - 1)
        inputs = mx.array(self._ids[begin:end])
        targets = mx.array(self._ids[begin + 1 : end + 1])
        logits = self._model(inputs[None], cache=self.cache)[0].astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        logprobs = logits - total
        chosen = mx.take_along_axis(logprobs, targets[:, None], axis=-1)[:, 0]
        ids = likeliest(logprobs, self._n_top)
        top = mx.take_along_axis(logprobs, ids, axis=-1)
        mx.eval(total, chosen, ids, top, [layer.state for layer in self.cache])
        if not mx.isfinite(total).all().item():
            raise NotFiniteError("a prompt cannot be scored")
        for value, likeliest_ids, values in zip(*map(rows_of, (chosen, ids, top)), strict=True):
            self.scored.append((value, list(zip(likeliest_ids, values, strict=True))))
