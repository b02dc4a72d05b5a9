"""`service.engine.text.call_format`."""

from __future__ import annotations

import copy
import json

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import function_gemma

from service.engine.model.load import LoadedModel
from service.engine.text.answer import AnswerParser
from service.engine.text.call_format import CallFormat, forced_format, own_format, plain_format
from service.protocol import Chat, Tool, Turn
from tests.engine.conftest import job

ADD = Tool("add", None, json.dumps({"properties": {"a": {"type": "integer"}}}))
OWN_CALL = "<start_function_call>call:add{a:1}<end_function_call>"
JSON_CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


@pytest.fixture(scope="module")
def foreign(loaded: LoadedModel) -> TokenizerWrapper:
    """The tokenizer of a model whose own calls are no JSON."""
    tokenizer = copy.deepcopy(loaded.tokenizer._tokenizer)
    tokenizer.init_kwargs["tool_parser_type"] = "function_gemma"
    return TokenizerWrapper(
        tokenizer,
        type(loaded.tokenizer.detokenizer),
        tool_call_start=function_gemma.tool_call_start,
        tool_call_end=function_gemma.tool_call_end,
        tool_parser=function_gemma.parse_tool_call,
    )


def marks(call_format: CallFormat) -> tuple[str, str]:
    """Return the texts around a call."""
    return call_format.start, call_format.end


def test_model_that_calls_in_json_is_held_to_its_own_format(loaded: LoadedModel) -> None:
    """There is nothing to teach it: what is forced is what it would say."""
    own, forced = own_format(loaded.tokenizer), forced_format(loaded.tokenizer)

    assert own.is_json
    assert marks(own) == marks(forced) == ("<tool_call>", "</tool_call>")
    assert own.parse is forced.parse


def test_model_that_calls_otherwise_is_held_to_json(foreign: TokenizerWrapper) -> None:
    """Its own calls keep their marks and their parser."""
    own, forced = own_format(foreign), forced_format(foreign)

    assert (own.is_json, forced.is_json) == (False, True)
    assert marks(own) == ("<start_function_call>", "<end_function_call>")
    assert marks(forced) == ("<tool_call>", "</tool_call>")
    assert own.parse is function_gemma.parse_tool_call


@pytest.mark.parametrize(("must_call", "text"), [((), OWN_CALL), (("add",), JSON_CALL)])
def test_calls_are_parsed_in_the_format_they_come_in(
    must_call: tuple[str, ...], text: str, foreign: TokenizerWrapper
) -> None:
    """By itself such a model calls in its own way, and as a grammar forces it if it has to."""
    asked = job(prompt=Chat((Turn("user", "Hi"),), (ADD,)), must_call=must_call)
    answer = AnswerParser(foreign).answer(asked)
    parsed = [answer.add(i) for i in foreign.encode(text, add_special_tokens=False)]
    parsed.append(answer.finish())

    assert [call.arguments for each in parsed for call in each.tool_calls] == ['{"a": 1}']
    assert "".join(each.text for each in parsed) == ""


def test_marks_that_are_special_tokens_are_read(
    loaded: LoadedModel, foreign: TokenizerWrapper
) -> None:
    """Special tokens that mark nothing in a format are left out of the text."""
    turn, call = map(loaded.tokenizer.convert_tokens_to_ids, ("<start_of_turn>", "<tool_call>"))

    assert {turn, call} & own_format(loaded.tokenizer).silent_tokens == {turn}
    assert {turn, call} & own_format(foreign).silent_tokens == {turn, call}
    assert {turn, call} & forced_format(foreign).silent_tokens == {turn}


def test_text_that_is_continued_has_no_marks(foreign: TokenizerWrapper) -> None:
    """In the middle of a text everything is text."""
    plain = plain_format(own_format(foreign))

    assert marks(plain) == ("", "")
    assert plain.parse is None
