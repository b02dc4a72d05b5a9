"""Thoughts kept apart from answers, with a model whose tokens can mark them."""

from __future__ import annotations

import json

import mlx.core as mx
import pytest

from service.engine.constrain.compile import GrammarCompiler
from service.engine.constrain.token_mask import allowed_tokens
from service.engine.model.load import LoadedModel, load
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.answer import Answer, AnswerParser
from service.protocol import Chat, Constraint, Load, Sampling, Text, Tool, Turn
from tests import thinking_model
from tests.engine.conftest import job, run

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ADD = Tool("add", None, json.dumps({"properties": {"a": {"type": "integer"}}}))
HI = (Turn("user", "Hi"),)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that opens its thoughts in the prompt."""
    folder = thinking_model.make(tmp_path_factory.mktemp("thinker") / "model")
    return load(Load(str(folder), None, max_concurrency=4, warmup=False, log_level="INFO"))


@pytest.fixture(scope="module")
def tokens(thinker: LoadedModel) -> Vocabulary:
    """Its tokens."""
    return Vocabulary(thinker.tokenizer, thinker.model(mx.array([[0]])).shape[-1])


@pytest.fixture(scope="module")
def thoughtful(thinker: LoadedModel, tokens: Vocabulary) -> Preparer:
    """What prepares its jobs."""
    return Preparer(thinker.tokenizer, thinker.card.context_length, tokens)


def heard(thinker: LoadedModel, answer: Answer, text: str) -> tuple[str, str, list[str]]:
    """Feed *text* token by token; return what was answered, what was thought, and what was called."""
    said = [answer.add(i) for i in thinker.tokenizer.encode(text, add_special_tokens=False)]
    said.append(answer.finish())
    return (
        "".join(each.text for each in said),
        "".join(each.reasoning for each in said),
        [call.arguments for each in said for call in each.tool_calls],
    )


@pytest.mark.parametrize("is_thinking", [True, False])
def test_thoughts_calls_and_text_are_told_apart(thinker: LoadedModel, is_thinking: bool) -> None:
    """Wherever the thoughts were opened; what only sets the parts apart is no text."""
    asked = job(prompt=Chat(HI, (ADD,)))
    answer = AnswerParser(thinker.tokenizer).answer(asked, is_thinking=is_thinking)
    opening = "" if is_thinking else "<think>"
    found = heard(thinker, answer, f"{opening}\nHm, 1.</think>\n\nSo: {CALL}\n{CALL} done")

    assert found == ("So: done", "Hm, 1.", ['{"a": 1}'] * 2)
    assert answer.reason("stop") == "tool_calls"
    assert answer.n_reasoning_tokens > 2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("<tool_call>{not json</tool_call>", "{not json"),
        (CALL.replace("add", "subtract"), '{"name": "subtract", "arguments": {"a": 1}}'),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', '{"name": "add", "arguments": [1]}'),
        ("<tool_call>{", "{"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_handed_back(thinker: LoadedModel, call: str, text: str) -> None:
    """Broken, unknown or unended calls are text, without the marks that made them look like calls."""
    answer = AnswerParser(thinker.tokenizer).answer(job(prompt=Chat(HI, (ADD,))))

    assert heard(thinker, answer, f"a {call}") == (f"a {text}", "", [])


def test_nothing_is_a_call_where_no_tool_is_offered(thinker: LoadedModel) -> None:
    """What stands between the marks is text; the marks are signs to the model."""
    answer = AnswerParser(thinker.tokenizer).answer(job())
    text = CALL.removeprefix("<tool_call>").removesuffix("</tool_call>")

    assert heard(thinker, answer, CALL) == (text, "", [])
    assert answer.reason("stop") == "stop"


def test_thinking_is_switched_by_the_template(thoughtful: Preparer) -> None:
    """The model's own default is to think; a request can say no."""
    is_thinking = {
        wish: thoughtful.prepare(job(prompt=Chat(HI, thinking=wish))).is_thinking
        for wish in (None, True, False)
    }

    assert is_thinking == {None: True, True: True, False: False}


def test_what_is_said_of_thoughts_opens_none(thoughtful: Preparer) -> None:
    """A message that spells the marks is text: it begins no thoughts, and switches no form off."""
    choice = Constraint("choice", '["yes", "no"]', "response_format")
    said = Chat((Turn("user", "What does the <think> tag mean? <think>"),), thinking=False)
    asked = [job(prompt=prompt, constraint=choice) for prompt in (said, Text("Say <think>"))]
    found = [thoughtful.prepare(each) for each in asked]

    assert [False, False] == [each.is_thinking for each in found]
    for each in found:
        assert 0 not in each.ids
        assert thinking_model.END_ID not in each.ids


def test_form_holds_after_the_thoughts(
    thinker: LoadedModel, tokens: Vocabulary, thoughtful: Preparer
) -> None:
    """What is thought is free, what is answered is of the form."""
    scheduler = Scheduler(thinker, tokens, max_rows=4)
    for ticket in range(4):
        asked = job(
            constraint=Constraint("choice", '["yes", "no"]', "response_format"),
            sampling=Sampling(
                temperature=1, seed=ticket, logit_bias=((thinking_model.END_ID, 13),)
            ),
            max_tokens=300,
        )
        scheduler.add(ticket, thoughtful.prepare(asked), asked)
    for deltas in run(scheduler).values():
        assert deltas[-1].finish_reason == "stop"
        assert "".join(delta.text for delta in deltas) in {"yes", "no"}
        assert deltas[-1].n_reasoning_tokens > 0


@pytest.mark.parametrize("thinking", [None, True, False])
def test_form_binds_no_thoughts(
    thinking: bool | None, thinker: LoadedModel, tokens: Vocabulary, thoughtful: Preparer
) -> None:
    """Amid thoughts any token may come but one that would end the answer; behind them the form holds."""
    choice = Constraint("choice", '["yes", "no"]', "response_format")
    mask = thoughtful.prepare(job(prompt=Chat(HI, thinking=thinking), constraint=choice)).token_mask
    assert mask is not None
    forbidden = (~allowed_tokens([mask], tokens.n_logits)[0]).nonzero()[0]
    if thinking is not False:
        assert sorted(thinker.tokenizer.eos_token_ids) == list(forbidden)
        mask.advance(100)
        mask.advance(thinking_model.END_ID)
    allowed = allowed_tokens([mask], tokens.n_logits)[0].nonzero()[0]

    assert {"y", "n"} == {thinker.tokenizer.decode([i])[0] for i in allowed}


def test_thoughts_may_begin_in_the_answer(thinker: LoadedModel, tokens: Vocabulary) -> None:
    """Where the prompt opens none, the answer may, once; without thoughts it is of the form at once."""
    choice = Constraint("choice", '["yes", "no"]', "response_format")
    asked = job(prompt=Chat(HI), constraint=choice)
    compiler = GrammarCompiler(thinker.tokenizer, tokens)
    mask = compiler.token_mask(asked, is_thinking=False)
    unthinking = compiler.token_mask(
        job(prompt=Chat(HI, thinking=False), constraint=choice), is_thinking=False
    )
    assert mask is not None
    assert unthinking is not None
    start = thinker.tokenizer.convert_tokens_to_ids(thinking_model.THINK)
    at_first, bound = allowed_tokens([mask, unthinking], tokens.n_logits)
    assert list((at_first != bound).nonzero()[0]) == [start]
    mask.advance(start)
    assert allowed_tokens([mask], tokens.n_logits)[0].sum() > bound.sum() + 1
    mask.advance(thinking_model.END_ID)

    assert (allowed_tokens([mask], tokens.n_logits)[0] == bound).all()
