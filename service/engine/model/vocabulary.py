"""A model's tokens: how many logits there are, what each token is in bytes, what llguidance makes of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import llguidance
import llguidance.hf
from llguidance import LLTokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer

from service.protocol import Candidate, TokenLogprob

_log = logging.getLogger(__name__)

MIN_LOGPROB = -9999.0  # JSON has no number for minus infinity


class Vocabulary:
    """
    The tokens of one model; safe in any thread.

    Args:
        tokenizer: the model's own.
        n_logits: the logit width; no token id at or above it may reach the model.

    Attributes:
        n_logits: the same.
        n_tokens: ids at or above it are no tokens; at most the logit width.
        ll_tokenizer: llguidance's view, for grammars; None where it can't read the tokenizer.
    """

    def __init__(self, tokenizer: TokenizerWrapper, n_logits: int) -> None:
        n_known = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.n_logits = n_logits
        self.n_tokens = min(n_known, n_logits)
        self.ll_tokenizer = _ll_tokenizer(tokenizer, max(n_known, n_logits))
        self._tokenizer = tokenizer

    def piece(self, token: int) -> bytes:
        """Return the text of *token* as bytes, which need not be whole characters."""
        if self.ll_tokenizer is not None:
            return self.ll_tokenizer.decode_bytes([token])
        return str(self._tokenizer.decode([token])).encode()

    def told(
        self, token: int, logprob: float | None, top: Sequence[tuple[int, float]]
    ) -> TokenLogprob:
        """Return a token's log-probability as it is told, and those of the likeliest ones there."""
        return TokenLogprob(
            self._candidate(token, logprob), tuple(self._candidate(i, value) for i, value in top)
        )

    def _candidate(self, token: int, logprob: float | None) -> Candidate:
        finite = logprob if logprob is None else max(logprob, MIN_LOGPROB)
        return Candidate(token, self.piece(token), finite)


def special_tokens(tokenizer: TokenizerWrapper) -> dict[int, str]:
    """Return the tokens that are signs to the model and no text, by id."""
    return {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}


class _Spelled:
    """
    A tokenizer as llguidance asks for one, to which special tokens spelled out in a text are letters.

    By itself it would encode them as what they spell, which no text in a grammar may be.

    Args:
        tokenizer: the model's own.
        known: llguidance's view of it.
    """

    def __init__(self, tokenizer: Any, known: LLTokenizer) -> None:
        self.eos_token_id = known.eos_token
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [known.decode_bytes([i]) for i in range(known.vocab_size)]
        self.special_token_ids = [i for i in range(known.vocab_size) if known.is_special_token(i)]
        self._encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._encoder.encode_special_tokens = True

    def __call__(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids


def _ll_tokenizer(tokenizer: TokenizerWrapper, n: int) -> LLTokenizer | None:
    own = tokenizer._tokenizer  # the wrapper hides the type that llguidance asks for
    ends = sorted(tokenizer.eos_token_ids)
    try:
        known = llguidance.hf.from_tokenizer(own, n_vocab=n, eos_token=ends)
        spelled = llguidance.TokenizerWrapper(_Spelled(own, known))
        return LLTokenizer(spelled, n_vocab=n, eos_token=ends)
    except Exception:  # a tokenizer that isn't a fast one, or that the library doesn't know
        _log.warning("answers of this model can't be held to a form", exc_info=True)
        return None
