"""Grammars are tried in another process: what takes too long or too much costs nobody anything."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest
from llguidance import LLMatcher

from service.engine.constrain.prover import Prover, TooComplex
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Constraint, Job
from tests.engine.conftest import job

SLOW = "((a{1000}){1000}){1000}"


@pytest.fixture
def prover(vocabulary: Vocabulary) -> Iterator[Prover]:
    """A prover for the embedded model's tokens."""
    assert vocabulary.ll_tokenizer is not None
    prover = Prover(vocabulary.ll_tokenizer)
    yield prover
    prover.close()


def regex(source: str) -> Job:
    """Return a job whose answer matches *source*."""
    return job(constraint=Constraint("regex", source, "guided_regex"))


def test_grammar_is_proven_again_and_again_by_one_process(prover: Prover) -> None:
    """Also one that is wrong: what is wrong with it is told by who compiles it."""
    for source in ("a+", "[0-9]{3}", "(a{1,1000}){1,1000}", "(?!a)"):
        prover.prove(LLMatcher.grammar_from_regex(source))

    assert 1 == len(trials())


def test_grammar_that_takes_too_long_is_refused_and_the_next_is_fine(
    loaded: LoadedModel, vocabulary: Vocabulary, prover: Prover
) -> None:
    """The refusal names the field; asked again it costs nothing; no process is left over."""
    preparer = Preparer(loaded.tokenizer, 8192, vocabulary, allow_grammars=True, prover=prover)
    seconds = []
    for source in (SLOW, SLOW):
        began_s = time.perf_counter()
        with pytest.raises(RefusedPrompt) as caught:
            preparer.prepare(regex(source))
        seconds.append(time.perf_counter() - began_s)
        assert ("guided_regex", "invalid_grammar") == (caught.value.param, caught.value.code)
        assert "too long" in caught.value.message
    preparer.prepare(regex("a+"))

    assert seconds[1] < 0.1
    assert 1 == len(trials())


def test_grammar_that_never_ends_is_refused(prover: Prover) -> None:
    """The system ends the process by its own clock, so that nothing goes on where nobody is left to look."""
    endless = '{"grammars": [{"lark_grammar": "start: X \\"b\\"\\nX: /(a|b|c|d)*?/ | /a*/ \\n"}]}'
    try:
        prover.prove(endless)
    except TooComplex:
        assert [] == trials()


def test_process_that_was_killed_is_replaced(prover: Prover) -> None:
    """By whomever; the grammar at hand is as good as any."""
    prover.prove(LLMatcher.grammar_from_regex("a"))
    (trial,) = trials()
    trial.kill()
    trial.wait()
    prover.prove(LLMatcher.grammar_from_regex("b"))

    assert 1 == len(trials())


def trials() -> list[psutil.Process]:
    """Return the processes below this one in which grammars are tried."""
    return [
        child
        for child in psutil.Process().children()
        if "service.engine.constrain.prover_process" in child.cmdline()
    ]
