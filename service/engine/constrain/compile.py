"""
Answers that are right by construction: llguidance compiles the grammar of what an answer must be.

What came of a grammar is kept, since requests repeat them. A thread of its own compiles, after another
process has tried the grammar; the `GrammarMask` that comes of it is for the MLX thread.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict

from llguidance import LLMatcher, LLTokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.constrain.grammar import AnswerForm, GrammarBuilder, flaw
from service.engine.constrain.prover import Prover, TooComplex
from service.engine.constrain.token_mask import EndOfThoughts, GrammarMask
from service.engine.model.vocabulary import Vocabulary, token_id
from service.engine.text.call_format import formats
from service.protocol import Chat, Job

MAX_COMPILED = 128  # grammars that are kept; taste
MAX_MESSAGE_LENGTH = 300  # characters of llguidance's reason that a client is told; taste
# What can hide a rule's name in a Lark grammar (texts, comments), and what is looked for in one.
_WORD = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\n]*|(?P<regex>/(?:\\.|[^/\\\n])+/[a-z]*)|(?P<start>\bstart\b)'
)
_TERMINAL = re.compile(r"^([A-Z_][A-Z_0-9]*)\b[^:\n]*:", re.MULTILINE)


class UnfitGrammar(Exception):
    """
    The grammar can't be compiled; the message says what in it.

    Attributes:
        param: the request's field that asked for it.
        is_schema: the grammar was made from a JSON Schema.
    """

    def __init__(self, form: AnswerForm, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = form.param
        self.is_schema = form.is_schema


class GrammarCompiler:
    """
    Compiles grammars for one model.

    Args:
        tokenizer: the model's own.
        vocabulary: its tokens.
        allow_grammars: requests may bring grammars of their own; llguidance 1.9 can loop for ever over
            one in which nothing can follow, such as `start: /a+/ "a"`.
        prover: tries each grammar first; None: nobody does.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        vocabulary: Vocabulary,
        *,
        allow_grammars: bool = False,
        prover: Prover | None = None,
    ) -> None:
        self._allow_grammars = allow_grammars
        self._ll_tokenizer = vocabulary.ll_tokenizer
        self._builder = GrammarBuilder(tokenizer)
        self._vocabulary = vocabulary
        thoughts = formats(tokenizer).thoughts
        starts = [token_id(tokenizer, mark) for mark in thoughts.starts] if thoughts else []
        self._thoughts_start = next((start for start in starts if start is not None), None)
        self._thoughts_ends = thoughts.ends if thoughts else ()
        self._turn_ends = sorted(tokenizer.eos_token_ids)
        self._prover = prover
        self._lock = threading.Lock()
        self._compiled: OrderedDict[AnswerForm, LLMatcher | UnfitGrammar | None] = OrderedDict()

    def token_mask(self, job: Job, *, is_thinking: bool) -> GrammarMask | None:
        """
        Return the mask for the answer to *job*, whose prompt may end inside of thoughts; None: it is free.

        Raises:
            UnfitGrammar: the grammar can't be compiled.
        """
        form = _form(job)
        compiled = self._compiled_once(form)
        if compiled is None:
            return None
        if isinstance(compiled, UnfitGrammar):
            raise compiled.with_traceback(None)
        matcher = compiled.deep_copy()
        if matcher.is_error():
            raise UnfitGrammar(form, _in_short(matcher.get_error()))
        if not self._thoughts_ends or not (is_thinking or form.may_think):
            return GrammarMask(matcher)
        if not is_thinking and self._thoughts_start is None:
            return GrammarMask(matcher)
        ends = EndOfThoughts(self._thoughts_ends, self._vocabulary.piece)
        start = None if is_thinking else self._thoughts_start
        return GrammarMask(matcher, ends, start, self._turn_ends)

    def is_compiled(self, job: Job) -> bool:
        """Tell whether the mask for the answer to *job* is to be had at once."""
        form = _form(job)
        is_free = not (form.constraint or form.must_call or any(t.strict for t in form.tools))
        return is_free or form in self._compiled

    def _compiled_once(self, form: AnswerForm) -> LLMatcher | UnfitGrammar | None:
        """Return what becomes of *form*, a refusal as well, from what is kept if it is."""
        with self._lock:
            if form in self._compiled:
                self._compiled.move_to_end(form)
                return self._compiled[form]
        found: LLMatcher | UnfitGrammar | None
        try:
            found = self._compile(form)
        except UnfitGrammar as error:
            found = error
        with self._lock:
            self._compiled[form] = found
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return found

    def _prove(self, form: AnswerForm, grammar: str) -> None:
        """Let *grammar* through if compiling it is bearable."""
        if self._prover is not None:
            try:
                self._prover.prove(grammar)
            except TooComplex:
                raise UnfitGrammar(form, "it takes too long to compile") from None

    def _compile(self, form: AnswerForm) -> LLMatcher | None:
        grammar = self._builder.grammar(form)
        if grammar is None:
            return None
        if self._ll_tokenizer is None:
            raise UnfitGrammar(form, "the model's tokenizer is unknown to llguidance")
        if form.constraint and form.constraint.kind == "grammar":
            if not self._allow_grammars:
                raise UnfitGrammar(
                    form, "grammars are off on this server, ALLOW_GRAMMARS lets them in"
                )
            self._prove(form, _any_terminal(form.constraint.source))
            if _has_empty_terminal(form.constraint.source, self._ll_tokenizer):
                raise UnfitGrammar(form, "a terminal may match the empty text")
        self._prove(form, grammar)
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # a grammar that is too complex for its first token shows now
        elif form.is_schema and (told := flaw(form)):
            raise UnfitGrammar(form, _in_short(told))
        return matcher


def _form(job: Job) -> AnswerForm:
    tools = job.prompt.tools if isinstance(job.prompt, Chat) else ()
    may_think = isinstance(job.prompt, Chat) and job.prompt.thinking is not False
    return AnswerForm(
        tools, job.must_call, job.parallel_tool_calls, job.constraint, may_think=may_think
    )


def _has_empty_terminal(lark: str, ll_tokenizer: LLTokenizer) -> bool:
    """
    Whether a terminal of the grammar *lark* may match the empty text.

    Lark itself would refuse that; llguidance 1.9 can loop for ever over such a terminal.
    """
    matcher = LLMatcher(ll_tokenizer, _any_terminal(lark), log_level=0)
    return not matcher.is_error() and matcher.is_accepting()


def _any_terminal(lark: str) -> str:
    """Return a grammar whose text is any one terminal of *lark*; empty where *lark* has none."""
    terminals = [
        *_TERMINAL.findall(lark),
        *filter(None, (m["regex"] for m in _WORD.finditer(lark))),
    ]
    renamed = _WORD.sub(lambda m: "rest" if m["start"] else m[0], lark)
    return f"{renamed}\nstart: {' | '.join(terminals)}" if terminals else ""


def _in_short(text: str) -> str:
    """Return *text*, which llguidance writes on several lines, as a single line that isn't too long."""
    return " ".join(text.split())[:MAX_MESSAGE_LENGTH]
