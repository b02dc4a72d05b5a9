"""Whether a grammar takes what keeps its schema, and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import mlx.core as mx
from llguidance import LLMatcher

from service.engine.constrain.grammar import AnswerForm, GrammarBuilder, flaw
from service.engine.model.load import load
from service.engine.model.vocabulary import Vocabulary
from service.errors import InvalidRequest
from service.openai import request_fields
from service.protocol import Load

MOST_ORDERS = 200  # taste: in so many orders of its properties is a value tried
_SPACED: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Refused(Exception):
    """A schema isn't taken; the message is what the client is told."""


@dataclass
class Case:
    """
    A schema.

    Attributes:
        name: where it is from.
        schema: itself.
        values: what keeps it or doesn't, each with whether it does.
    """

    name: str
    schema: Any
    values: list[tuple[Any, bool]]


def case_of(found: dict[str, Any], place: str = "") -> Case:
    """Return a case in the form of the JSON Schema Test Suite; the suite's own verdict holds."""
    values = [(test["data"], test["valid"]) for test in found["tests"]]
    return Case(f"{place}{found['description']}", found["schema"], values)


def judged(case: Case) -> Case:
    """Return *case* with those values of which its maker says what its schema says, formats left aside."""
    validator = jsonschema.validators.validator_for(case.schema, jsonschema.Draft202012Validator)
    check = validator(case.schema)
    values = [(value, said) for value, said in case.values if check.is_valid(value) == said]
    return Case(case.name, case.schema, values)


@dataclass
class Score:
    """
    What became of a set of schemas.

    Attributes:
        n: how many there are.
        n_accepted: how many have a grammar.
        n_right: how many of these take all that keeps them, and nothing else.
        refused: what clients are told of the others.
        narrow: values that keep their schema, and aren't taken.
        wide: values that don't, and are.
    """

    n: int = 0
    n_accepted: int = 0
    n_right: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    narrow: list[tuple[str, Any]] = field(default_factory=list)
    wide: list[tuple[str, Any]] = field(default_factory=list)


class Judge:
    """Makes grammars of schemas, with the embedded model's vocabulary."""

    def __init__(self) -> None:
        loaded = load(Load(None, None, max_concurrency=1, warmup=False, log_level="INFO"))
        n_logits = loaded.model(mx.array([[0]])).shape[-1]
        tokenizer = Vocabulary(loaded.tokenizer, n_logits).ll_tokenizer
        assert tokenizer is not None
        self._tokenizer = tokenizer
        self._builder = GrammarBuilder(loaded.tokenizer)

    def ours(self, schema: Any) -> LLMatcher:
        """
        Return what follows *schema* as the server does.

        Raises:
            Refused: the server refuses it.
        """
        if not isinstance(schema, dict):
            raise Refused("The contracts take objects as schemas only.")
        try:
            constraint = request_fields.schema_constraint(schema, "schema")
        except InvalidRequest as error:
            raise Refused(error.message) from None
        form = AnswerForm((), (), is_parallel=False, constraint=constraint)
        grammar = self._builder.grammar(form)
        assert grammar is not None
        return self._matcher(grammar, lambda: flaw(form))

    def llguidance(self, schema: Any) -> LLMatcher:
        """
        Return what follows *schema* as llguidance does when it is left alone.

        Raises:
            Refused: it can't.
        """
        if not isinstance(schema, dict):
            raise Refused("no object")
        text = json.dumps(schema)
        return self._matcher(LLMatcher.grammar_from_json_schema(text, defaults=_SPACED))

    def _matcher(self, grammar: str, flaw: Callable[[], str | None] = lambda: None) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise Refused(" ".join((flaw() or matcher.get_error()).split()))
        return matcher

    def takes(self, matcher: LLMatcher, value: Any) -> bool:
        """Tell whether *matcher*, at its beginning, takes *value* in some order of its properties."""
        return any(
            self._takes_text(matcher, json.dumps(each, ensure_ascii=False))
            for each in itertools.islice(_orders(value), MOST_ORDERS)
        )

    def _takes_text(self, matcher: LLMatcher, text: str) -> bool:
        tokens, copy = self._tokenizer.tokenize_str(text), matcher.deep_copy()
        return bool(copy.try_consume_tokens(tokens) == len(tokens) and copy.is_accepting())

    def score(self, cases: list[Case], follow: Callable[[Any], LLMatcher]) -> Score:
        """Return what becomes of *cases* where *follow* makes the grammar."""
        found = Score(n=len(cases))
        for case in cases:
            try:
                matcher = follow(case.schema)
            except Refused as error:
                found.refused.append((case.name, str(error)))
                continue
            wrong = [each for each in case.values if self.takes(matcher, each[0]) != each[1]]
            found.narrow += [(case.name, value) for value, is_valid in wrong if is_valid]
            found.wide += [(case.name, value) for value, is_valid in wrong if not is_valid]
            found.n_accepted += 1
            found.n_right += not wrong
        return found


def _orders(value: Any) -> Iterator[Any]:
    """Yield *value* with its properties in every order, more or less."""
    if isinstance(value, dict):
        for names in itertools.permutations(value):
            for inner in itertools.product(*(list(_few(value[name])) for name in names)):
                yield dict(zip(names, inner, strict=True))
    elif isinstance(value, list):
        yield from map(list, itertools.product(*(list(_few(each)) for each in value)))
    else:
        yield value


def _few(value: Any) -> Iterator[Any]:
    return itertools.islice(_orders(value), 6)
