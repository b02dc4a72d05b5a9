"""`service.engine.text.call_format`: which notation a model has, and the formats that come of it."""

from __future__ import annotations

import copy
import json

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.model.load import LoadedModel
from service.engine.text.answer import AnswerParser
from service.engine.text.call_format import call_notation, formats, thought_notation
from service.engine.text.notations import CALLS, THOUGHTS
from service.protocol import Chat, ModelCard, Text, Tool, Turn
from service.settings import REASONING_PARSERS, TOOL_PARSERS
from tests.engine.conftest import job
from tests.models.notations import SAMPLES, Sample, tokenizer_of

ADD = Tool("add", None, json.dumps({"properties": {"a": {"type": "integer"}}}))
OWN_CALL = "<start_function_call>call:add{a:1}<end_function_call>"
JSON_CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
CARD = ModelCard("org/m", "f", "A model", 4096, 1, knows_tools=True, knows_thinking=True)


@pytest.fixture(scope="module")
def foreign(loaded: LoadedModel) -> TokenizerWrapper:
    """The tokenizer of a model whose own calls are no JSON."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.init_kwargs["tool_parser"] = "function_gemma"
    return tokenizer


def test_settings_name_every_notation() -> None:
    """Whoever may name a parser finds all of them, in the order in which their signs are looked for."""
    assert tuple(CALLS) == TOOL_PARSERS
    assert tuple(THOUGHTS) == REASONING_PARSERS
    assert {sample.notation for sample in SAMPLES} == CALLS.keys()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.family)
def test_notation_is_shown_by_template_and_tokens(sample: Sample) -> None:
    """A family is known by what its template and its vocabulary hold."""
    tokenizer = tokenizer_of(sample.special, sample.signs)

    assert call_notation(tokenizer) is CALLS[sample.notation]
    assert formats(tokenizer).knows_thoughts >= (sample.think is not None)


def test_templates_by_name_are_all_looked_at() -> None:
    """Hermes and Command R have a template for tools beside the default one."""
    tokenizer = tokenizer_of((), "")
    tokenizer._tokenizer.chat_template = {
        "default": "{{ x }}",
        "tool_use": "{{ tools }} <tool_call>",
    }

    assert call_notation(tokenizer) is CALLS["hermes"]


def test_template_counts_for_more_than_the_vocabulary() -> None:
    """A model that was trained further keeps the tokens that its first notation had."""
    tokenizer = tokenizer_of(("<|python_tag|>", "<|start_header_id|>"), "tools <tool_call>")

    assert call_notation(tokenizer) is CALLS["hermes"]


def test_named_parsers_beat_what_is_shown() -> None:
    """An operator may know better."""
    tokenizer = tokenizer_of((), "tools <tool_call> <think></think>")
    tokenizer.init_kwargs |= {"tool_parser": "nemotron", "reasoning_parser": "mistral"}

    assert call_notation(tokenizer) is CALLS["nemotron"]
    assert thought_notation(tokenizer) is THOUGHTS["mistral"]


@pytest.mark.parametrize(
    ("template", "knows_calls", "knows_thinking", "on_demand"),
    [
        ("tools <tool_call> <think></think>", True, True, False),
        ("tools <tool_call>", True, False, False),
        ("tools and a notation of its own", False, False, True),
    ],
)
def test_card_says_what_holds(
    template: str, knows_calls: bool, knows_thinking: bool, on_demand: bool
) -> None:
    """A tag is there where the whole round works; else the card says what does."""
    card = formats(tokenizer_of((), template)).confirmed(CARD)

    assert (card.knows_calls, card.knows_thinking) == (knows_calls, knows_thinking)
    assert ("come only on demand" in card.description) == bool(card.notes) == on_demand


def test_model_that_calls_in_json_is_held_to_its_own_format(loaded: LoadedModel) -> None:
    """There is nothing to teach it: what is forced is what it would say."""
    found = formats(loaded.tokenizer)

    assert found.own.reader is found.forced.reader
    assert found.own.frame is found.forced.frame is CALLS["hermes"].frame


@pytest.mark.parametrize(("must_call", "text"), [((), OWN_CALL), (("add",), JSON_CALL)])
def test_calls_are_read_in_the_format_they_come_in(
    must_call: tuple[str, ...], text: str, foreign: TokenizerWrapper
) -> None:
    """By itself such a model calls in its own way, and as a grammar forces it if it has to."""
    asked = job(prompt=Chat((Turn("user", "Hi"),), (ADD,)), must_call=must_call)
    answer = AnswerParser(foreign).answer(asked)
    parsed = [answer.add(i) for i in foreign.encode(text, add_special_tokens=False)]
    parsed.append(answer.finish())

    assert [call.arguments for each in parsed for call in each.tool_calls] == ['{"a": 1}']
    assert "".join(each.text for each in parsed) == ""


def test_special_tokens_that_mark_nothing_are_silent(
    loaded: LoadedModel, foreign: TokenizerWrapper
) -> None:
    """Those that set an answer's parts apart are read."""
    turn, call = map(loaded.tokenizer.convert_tokens_to_ids, ("<start_of_turn>", "<tool_call>"))

    assert {turn, call} & formats(loaded.tokenizer).own.silent_tokens == {turn}
    assert {turn, call} & formats(loaded.tokenizer).toolless.silent_tokens == {turn, call}
    assert {turn, call} & formats(foreign).own.silent_tokens == {turn, call}
    assert {turn, call} & formats(foreign).forced.silent_tokens == {turn}


def test_text_that_is_continued_has_no_marks(loaded: LoadedModel) -> None:
    """In the middle of a text everything is text."""
    answer = AnswerParser(loaded.tokenizer).answer(job(prompt=Text("a")))
    said = [answer.add(i) for i in loaded.tokenizer.encode(JSON_CALL, add_special_tokens=False)]
    said.append(answer.finish())

    assert "".join(each.text for each in said) == JSON_CALL
