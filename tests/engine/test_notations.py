"""`service.engine.text.notations`: every family's answers, read whole, in pieces and cut."""

from __future__ import annotations

import json
import random

import pytest

from service.engine.constrain.compile import GrammarCompiler, UnfitGrammar
from service.engine.constrain.token_mask import allowed_tokens
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.answer import AnswerParser
from service.engine.text.call_readers import parse_minimax_m3
from service.protocol import Chat, Constraint, Job, Tool, Turn
from tests.models.notations import (
    CALLS,
    SAMPLES,
    TEXT,
    THOUGHTS,
    TOOLS,
    Listener,
    Sample,
    calls_of,
    hear,
    is_forced_right,
    is_form_right,
    job,
    leak,
    tokenizer_of,
    written,
)

N_CUTS = 60  # taste: enough for every kind of place; the command cuts 10,000
FAMILIES = {sample.family: sample for sample in SAMPLES}


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda sample: sample.family)
def family(request: pytest.FixtureRequest) -> Sample:
    """One family after the other."""
    sample: Sample = request.param
    return sample


@pytest.fixture(scope="module")
def listener(family: Sample) -> Listener:
    """What reads its answers."""
    return Listener(family)


def test_answer_is_taken_apart(family: Sample, listener: Listener) -> None:
    """Thoughts, text and several calls come out as they went in, whatever their texts hold."""
    heard = listener.hear(listener.tokens(written(family, THOUGHTS, TEXT, CALLS)))

    assert calls_of(heard) == CALLS
    assert heard.text.strip() == (TEXT if family.say else "")
    assert heard.reasoning.strip() == (THOUGHTS if family.think else "")
    assert heard.finish_reason == "tool_calls"
    assert len({call.id for call in heard.calls}) == len(CALLS)


def test_text_alone_is_text(family: Sample, listener: Listener) -> None:
    """Nothing of it is lost, and nothing is taken for a call."""
    say = family.say or str
    heard = listener.hear(listener.tokens(say(TEXT).removesuffix("<|start|>assistant")))

    assert (heard.text, heard.calls, heard.finish_reason) == (TEXT, [], "stop")


def test_no_cut_lets_marks_out(family: Sample, listener: Listener) -> None:
    """Wherever tokens meet and the limit falls, there is only what was said, and the beginning of a call."""
    chance = random.Random(family.family)
    leaks = [found for _ in range(N_CUTS) if (found := leak(family, listener, chance))]

    assert leaks == []


def test_leak_is_found() -> None:
    """What reads another notation lets this one's marks out, and that doesn't pass unseen."""
    listener, other = (Listener(FAMILIES[name]) for name in ("FunctionGemma", "MiniMax M2"))
    chance = random.Random(1)

    assert any(leak(FAMILIES["MiniMax M2"], listener, chance) for _ in range(9))
    assert not any(leak(FAMILIES["MiniMax M2"], other, chance) for _ in range(9))


def test_demanded_call_and_form_hold(family: Sample) -> None:
    """By construction, in the model's own notation where that has JSON, else in another."""
    chance = random.Random(1)

    assert is_forced_right(family, chance)
    assert is_form_right(family, chance)


@pytest.mark.parametrize("name", ["Kimi K2", "Mistral with ids of its own"])
def test_ids_of_the_model_are_kept(name: str) -> None:
    """Its template wants them back; one that comes twice is replaced."""
    listener = Listener(FAMILIES[name])
    text = FAMILIES[name].write(CALLS[:2])
    ids = [call.id for call in listener.hear(listener.tokens(text)).calls]
    again = text.replace("clock:1", "clock:0").replace("h1[ARGS]", "h0[ARGS]")
    first, second = listener.hear(listener.tokens(again.replace("clock", "get_weather"))).calls

    assert ids in (["functions.get_weather:0", "functions.clock:1"], ["abcdefgh0", "abcdefgh1"])
    assert first.id != second.id


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ('<tool_call>{"name": "clock", "arguments": {"zone": "U', '{"zone": "U'),
        ('<tool_call>{"name": "clock"', ""),
        ('<tool_call>{"name": "clock", "arguments": {"zone": "UTC"}', '{"zone": "UTC"}'),
        ('<tool_call>{"name": "clo', None),
        ("<tool_call>", None),
        ("<tool_c", None),
    ],
)
def test_cut_call_is_given_as_far_as_it_goes(said: str, arguments: str | None) -> None:
    """From its name on; the limit is the reason why the answer ended."""
    listener = Listener(SAMPLES[0])
    heard = listener.hear(listener.tokens("So: " + said), "length")

    assert heard.text == "So: "
    assert [(c.name, c.arguments, c.is_cut) for c in heard.calls] == (
        [] if arguments is None else [("clock", arguments, True)]
    )
    assert heard.finish_reason == "length"


def test_whole_calls_before_a_cut_one_are_whole() -> None:
    """Several of them in one list."""
    listener = Listener(FAMILIES["Granite 3"])
    text = FAMILIES["Granite 3"].write(CALLS)
    heard = listener.hear(listener.tokens(text[:-20]), "length")

    assert calls_of(heard) == CALLS[:3]
    assert [call.is_cut for call in heard.calls] == [False, False, False, True]


def test_call_without_its_closing_mark_is_one() -> None:
    """A model that ends its turn too early has said all the same what it wants."""
    listener = Listener(SAMPLES[0])
    text = SAMPLES[0].write(CALLS[:1]).removesuffix("</tool_call>")

    assert calls_of(listener.hear(listener.tokens(text))) == CALLS[:1]
    assert calls_of(listener.hear(listener.tokens(text + "</tool_"))) == CALLS[:1]


@pytest.mark.parametrize(
    "answer", ['{"name": "Bob", "age": 7}', '[{"name": "Bob"}]', "[1, 2]", "{}"]
)
def test_json_that_calls_nothing_is_an_answer(answer: str) -> None:
    """Where calls have no mark, other JSON may look like one for a while."""
    listener = Listener(FAMILIES["Llama 3.1 to 3.3"])

    assert listener.hear(listener.tokens(answer)).text == answer


@pytest.mark.parametrize(
    ("family", "answer", "text", "reasoning"),
    [
        ("gpt-oss", "<|channel|>final<|message|>Hi<|return|>", "Hi", ""),
        ("gpt-oss", "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hi",
         "Hi", "Hm"),
        ("gpt-oss", "<|channel|>commentary to=functions.unknown<|message|>{}", "{}", ""),
        ("gpt-oss", "Hi<|constrain|> there", "Hi there", ""),
        ("functionary 3.2", "all\nTry:\n>>> 1 + 1\n2", "Try:\n>>> 1 + 1\n2", ""),
        ("functionary 3.2", "Hello", "Hello", ""),
        ("functionary 3.2", "al", "al", ""),
        ("Gemma 4", "<|channel>thought\n<channel|>Hi", "Hi", ""),
        ("Command R7B, Command A", "<|START_RESPONSE|>Hi<|END_RESPONSE|>", "Hi", ""),
        ("GLM 4.5, 4.6", "Hi</think> there</tool_call>", "Hi there", ""),
        ("Qwen 2.5, Qwen 3, Hermes 2 and 3", '<tool_call>{"name": "no"}</tool_call>', '{"name": "no"}', ""),
    ],
)  # fmt: skip
def test_other_answers(family: str, answer: str, text: str, reasoning: str) -> None:
    """Marks set parts apart or are nothing; what is no call is text without its marks."""
    listener = Listener(FAMILIES[family])
    heard = listener.hear(listener.tokens(answer))

    assert (heard.text, heard.reasoning, heard.calls) == (text, reasoning, [])


def test_llama_calls_its_own_tools_as_methods() -> None:
    """That is how it writes calls of the tools that it was trained with."""
    listener = Listener(FAMILIES["Llama 3 after its tag"])
    heard = listener.hear(listener.tokens('<|python_tag|>clock.call(zone="UTC")'))

    assert calls_of(heard) == [("clock", {"zone": "UTC"})]


@pytest.mark.parametrize("family", ["gpt-oss", "functionary 3.2"])
def test_answer_without_tools_has_no_header(family: str) -> None:
    """Some notations say how any answer is written."""
    sample = FAMILIES[family]
    assert sample.say is not None
    listener = Listener(sample)
    answer = AnswerParser(listener.tokenizer).answer(Job(prompt=Chat((Turn("user", "Hi"),))))
    text = sample.say(TEXT).removesuffix("<|end|><|start|>assistant").removesuffix(">>>")

    assert hear(answer, listener.tokens(text)).text == TEXT


def test_marks_in_a_held_answer_are_text() -> None:
    """A grammar lets no real mark through, so what looks like one is what was meant."""
    sample = SAMPLES[0]
    tokenizer = tokenizer_of(sample.special, sample.signs)
    form = Constraint("json_object", "", "response_format")
    asked = Job(prompt=Chat((Turn("user", "Hi"),)), constraint=form)
    text = json.dumps({"a": "</think> </tool_call> <tool_call>"})
    heard = hear(AnswerParser(tokenizer).answer(asked), tokenizer.encode(text))

    assert heard.text == text


def test_one_call_ends_the_answer_where_one_is_wanted() -> None:
    """Also where only the end of the answer closes calls."""
    listener = Listener(FAMILIES["Granite 3"])
    answer = AnswerParser(listener.tokenizer).answer(job(parallel_tool_calls=False))
    heard = hear(answer, listener.tokens(FAMILIES["Granite 3"].write(CALLS)))

    assert calls_of(heard) == CALLS[:1]


def test_elements_in_elements_are_objects_and_lists() -> None:
    """MiniMax M3 writes nested arguments as markup; a text is one where the schema says so."""
    text = "<invoke name=f>-<a>-<x>7-</x>-</a>-<b>-<item>1-</item>-<item>two-</item>-</b>-<c>8-</c>-</invoke>"
    parameters = {"properties": {"c": {"type": "string"}}}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    (call,) = parse_minimax_m3("]<]minimax[>[" + text.replace("-<", "]<]minimax[>[<"), tools)

    assert call == {"name": "f", "arguments": {"a": {"x": 7}, "b": [1, "two"], "c": "8"}}


@pytest.mark.parametrize("thinking", [None, False])
def test_thoughts_before_a_demanded_call(thinking: bool | None) -> None:
    """A notation that has thoughts of its own lets them come first, unless they are unwanted."""
    sample = FAMILIES["gpt-oss"]
    tokenizer = tokenizer_of(sample.special, sample.signs)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    prompt = Chat((Turn("user", "Hi"),), TOOLS, thinking=thinking)
    asked = Job(prompt=prompt, must_call=("clock",), parallel_tool_calls=False)
    mask = GrammarCompiler(tokenizer, vocabulary).token_mask(asked, is_thinking=False)
    assert mask is not None
    (channel,) = tokenizer.encode("<|channel|>")
    mask.advance(channel)
    allowed = allowed_tokens([mask], vocabulary.n_logits)[0].nonzero()[0]

    assert {"c"} | ({"a"} if thinking is None else set()) == set(map(tokenizer.decode, allowed))


@pytest.mark.parametrize("name", ["gpt-oss", "Llama 3.1 to 3.3", "functionary 3.2", "Granite 3"])
def test_strict_tools_that_cannot_be_are_refused(name: str) -> None:
    """Also where no mark opens a call, and the model may answer otherwise."""
    tokenizer = tokenizer_of(FAMILIES[name].special, FAMILIES[name].signs)
    compiler = GrammarCompiler(tokenizer, Vocabulary(tokenizer, len(tokenizer)))
    strict = Tool("f", parameters='{"type": "banana"}', strict=True)

    with pytest.raises(UnfitGrammar):
        compiler.token_mask(job((strict,)), is_thinking=False)
    assert compiler.token_mask(job((Tool("f", strict=True),)), is_thinking=False) is not None
