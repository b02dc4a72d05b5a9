"""
Answers that are right by construction: llguidance compiles what an answer must be, and the compiled is kept.

Compiling happens on the text worker; what comes of it, a `Gate` for each row, is for the MLX thread.
"""

from __future__ import annotations

import functools
import re

from llguidance import LLMatcher, LLTokenizer
from mlx_lm.generate import StopSequences
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.constrain.grammar import Composer, Form
from service.engine.constrain.token_mask import Gate
from service.engine.model.vocabulary import Vocabulary
from service.protocol import Chat, Job

N_KEPT = 128
MAX_MESSAGE = 300
# What may stand in a Lark grammar and hide a name: texts, comments; and what is looked for in it.
_WORD = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\n]*|(?P<regex>/(?:\\.|[^/\\\n])+/[a-z]*)|(?P<start>\bstart\b)'
)
_TERMINAL = re.compile(r"^([A-Z_][A-Z_0-9]*)\b[^:\n]*:", re.MULTILINE)


class UnfitGrammar(Exception):
    """
    The grammar can't be compiled; the message says what in it.

    Attributes:
        param: the request's field that asked for it.
        is_schema: it was made from a JSON Schema.
    """

    def __init__(self, form: Form, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = form.param
        self.is_schema = form.is_schema


class Constrainer:
    """
    Compiles grammars for one model.

    Args:
        tokenizer: the model's own.
        vocabulary: its tokens.
        allow_grammars: requests may bring grammars of their own; llguidance 1.9 can loop for ever over
            one in which nothing can follow, such as `start: /a+/ "a"`.
    """

    def __init__(
        self, tokenizer: TokenizerWrapper, vocabulary: Vocabulary, *, allow_grammars: bool = False
    ) -> None:
        self._allow_grammars = allow_grammars
        self._masker = vocabulary.masker
        self._composer = Composer(tokenizer)
        self._thoughts_start = tokenizer.think_start_tokens
        self._thoughts_end = tokenizer.think_end_tokens
        self._turn_ends = sorted(tokenizer.eos_token_ids)
        self._compiled = functools.lru_cache(N_KEPT)(self._compile)

    def gate(self, job: Job, *, is_thinking: bool, may_think: bool) -> Gate | None:
        """
        Return the gate of *job*; None where any answer will do.

        Args:
            job: what is asked for.
            is_thinking: its prompt ends inside of thoughts.
            may_think: its answer may begin with them.

        Raises:
            UnfitGrammar: the grammar can't be compiled.
        """
        tools = job.prompt.tools if isinstance(job.prompt, Chat) else ()
        form = Form(tools, job.must_call, job.parallel_tool_calls, job.constraint)
        compiled = self._compiled(form)
        if compiled is None:
            return None
        matcher = compiled.deep_copy()
        if matcher.is_error():
            raise UnfitGrammar(form, _in_short(matcher.get_error()))
        if not self._thoughts_end or not (is_thinking or may_think):
            return Gate(matcher)
        ends = StopSequences([self._thoughts_end]).matcher()
        if is_thinking:
            return Gate(matcher, ends, None, self._turn_ends)
        if self._thoughts_start and len(self._thoughts_start) == 1:
            return Gate(matcher, ends, self._thoughts_start[0], self._turn_ends)
        return Gate(matcher)

    def _compile(self, form: Form) -> LLMatcher | None:
        grammar = self._composer.grammar(form)
        if grammar is None:
            return None
        if self._masker is None:
            raise UnfitGrammar(form, "the model's tokenizer is unknown to llguidance")
        if form.constraint and form.constraint.kind == "grammar":
            if not self._allow_grammars:
                raise UnfitGrammar(
                    form, "grammars are off on this server, ALLOW_GRAMMARS lets them in"
                )
            if _has_empty_terminal(form.constraint.source, self._masker):
                raise UnfitGrammar(form, "a terminal may match the empty text")
        matcher = LLMatcher(self._masker, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is too complex for its first token shows now
        return matcher


def _has_empty_terminal(lark: str, masker: LLTokenizer) -> bool:
    """Whether Lark would refuse it, too; llguidance 1.9 can loop for ever over a terminal without width."""
    matcher = LLMatcher(masker, _any_terminal(lark), log_level=0)
    return not matcher.is_error() and matcher.is_accepting()


def _any_terminal(lark: str) -> str:
    """Return a grammar of a single terminal, whichever one of those in *lark*."""
    terminals = [
        *_TERMINAL.findall(lark),
        *filter(None, (m["regex"] for m in _WORD.finditer(lark))),
    ]
    renamed = _WORD.sub(lambda m: "rest" if m["start"] else m[0], lark)
    return f"{renamed}\nstart: {' | '.join(terminals)}" if terminals else ""


def _in_short(text: str) -> str:
    """Return what llguidance says on several lines as one that isn't too long."""
    return " ".join(text.split())[:MAX_MESSAGE]
