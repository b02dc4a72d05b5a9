"""A model's tokens: how many there are, what text each is, which are special; the same for llguidance."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import llguidance
from llguidance import LLTokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer

from service.protocol import Candidate, TokenLogprob

_log = logging.getLogger(__name__)

MIN_LOGPROB = (
    -9999.0
)  # protocol: OpenAI's number for a token that is very unlikely; JSON has no infinity


class Vocabulary:
    """
    The tokens of one model; safe in any thread.

    Args:
        tokenizer: the model's own.
        n_logits: how many logits the model has; no token id at or above it may reach the model.

    Attributes:
        n_logits: the same.
        n_tokens: ids at or above it are no tokens; at most `n_logits`.
        max_token_length: the longest token's, in characters as the tokenizer spells them.
        ll_tokenizer: the tokenizer in llguidance's form, for grammars; None where llguidance can't read it.
    """

    def __init__(self, tokenizer: TokenizerWrapper, n_logits: int) -> None:
        known = tokenizer.get_vocab()
        n_known = max(known.values(), default=-1) + 1
        self.max_token_length = max(map(len, known), default=0)
        self.n_logits = n_logits
        self.n_tokens = min(n_known, n_logits)
        self.ll_tokenizer = _ll_tokenizer(tokenizer, max(n_known, n_logits))
        self._tokenizer = tokenizer

    def piece(self, token: int) -> bytes:
        """Return the text of *token* as bytes, which need not be whole characters."""
        if self.ll_tokenizer is not None:
            return self.ll_tokenizer.decode_bytes([token])
        return str(self._tokenizer.decode([token])).encode()

    def token_logprob(
        self, token: int, logprob: float | None, top: Sequence[tuple[int, float]]
    ) -> TokenLogprob:
        """Return the log-probability of *token*, and the *top* ones in its place, as a message has them."""
        return TokenLogprob(
            self._candidate(token, logprob), tuple(self._candidate(i, value) for i, value in top)
        )

    def _candidate(self, token: int, logprob: float | None) -> Candidate:
        finite = logprob if logprob is None else max(logprob, MIN_LOGPROB)
        return Candidate(token, self.piece(token), finite)


def special_tokens(tokenizer: TokenizerWrapper) -> dict[int, str]:
    """Return the tokens that are signs to the model and no text, by id."""
    return {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}


def token_id(tokenizer: TokenizerWrapper, text: str) -> int | None:
    """Return the id of the token that is spelled *text*; None: there is none."""
    found = tokenizer.convert_tokens_to_ids(text)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


class _LiteralTokenizer:
    """
    A tokenizer as llguidance asks for one, to which a special token spelled out in a text is plain letters.

    The model's own would encode the spelling as that special token, which no text of a grammar may become.

    Args:
        encoder: a copy of the model's own, which is this one's from now on.
        known: the same in llguidance's form.
    """

    bos_token_id = None

    def __init__(self, encoder: Tokenizer, known: LLTokenizer) -> None:
        self.eos_token_id = known.eos_token
        self.tokens = [known.decode_bytes([i]) for i in range(known.vocab_size)]
        self.special_token_ids = [i for i in range(known.vocab_size) if known.is_special_token(i)]
        self._encoder = encoder
        self._encoder.encode_special_tokens = True

    def __call__(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids


def _ll_tokenizer(tokenizer: TokenizerWrapper, n_tokens: int) -> LLTokenizer | None:
    ends = sorted(tokenizer.eos_token_ids)
    try:
        # One copy serves both: with 262,144 tokens each takes a second.
        encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        encoder.no_padding()
        encoder.no_truncation()
        known = LLTokenizer(encoder.to_str(), n_vocab=n_tokens, eos_token=ends)
        literal = llguidance.TokenizerWrapper(_LiteralTokenizer(encoder, known))
        return LLTokenizer(literal, n_vocab=n_tokens, eos_token=ends)
    except Exception:  # not a fast tokenizer, or one that llguidance doesn't know
        _log.warning("answers of this model can't be held to a form", exc_info=True)
        return None
