"""`service.engine.text.chat_template`, with templates that make the demands of real ones."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper, load

from service.engine.text import abilities
from service.engine.text.chat_template import ChatTemplate, LostTurn
from service.protocol import Chat, Tool, ToolCall, Turn
from tests import thinking_model
from tests.engine.demanding_chats import (
    ADD,
    ASK,
    ASK_2,
    CALL,
    CALL_2,
    CALLING,
    CHATS,
    REPLY,
    RESULT,
    RULE,
    missing_words,
)
from tests.engine.demanding_templates import (
    IN_SYSTEM,
    NINE,
    NULLS,
    SINGLE,
    TEMPLATES,
    THINKING,
)

Templates = Callable[[str | dict[str, str]], ChatTemplate]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    """A tokenizer with marks for thoughts."""
    return load(thinking_model.make(tmp_path_factory.mktemp("thinker") / "model"))


@pytest.fixture(scope="module")
def templates(tokenizer: TokenizerWrapper) -> Templates:
    """Make chats of the given template."""

    def make(template: str | dict[str, str]) -> ChatTemplate:
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        return ChatTemplate(own)

    return make


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_said_is_lost(name: str, templates: Templates) -> None:
    """Each word of each message is in the prompt, whatever the template drops or refuses."""
    template = templates(TEMPLATES[name])
    lost = {
        (chat, bool(tools)): missing
        for chat, turns in CHATS.items()
        for tools in ((), (ADD,))
        if (missing := missing_words(turns, template.render(Chat(turns, tools)).text))
    }

    assert {} == lost


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_takes_is_not_touched(name: str, templates: Templates) -> None:
    """Questions and answers in turns are rendered as they are."""
    template = templates(TEMPLATES[name])
    text = template.render(Chat((ASK, REPLY, ASK_2))).text

    assert text.count("Question") == 2
    assert text.count("Answer") == 1
    assert "None" not in text


def test_calls_and_results_go_in_pairs_where_one_call_is_taken_at_a_time(
    templates: Templates,
) -> None:
    """Each call is followed by its own result, though they came the other way round."""
    text = templates(SINGLE).render(Chat(CHATS["text beside calls"], (ADD,))).text
    places = [text.index(word) for word in ("addition", "one is 3", "subtraction", "two is 4")]

    assert places == sorted(places)


def test_results_come_in_the_order_of_the_calls(templates: Templates) -> None:
    """A template that shows no ids can't say otherwise which result is whose."""
    text = templates(THINKING).render(Chat(CHATS["text beside calls"], (ADD,))).text

    assert text.index("Result one") < text.index("Result two")


def test_ids_fit_the_template(templates: Templates) -> None:
    """Ids of nine letters or digits stand for ours, the same for a call and its result, and for good."""
    texts = [templates(NINE).render(Chat(CHATS["text beside calls"])).text for _ in range(2)]
    ids = re.findall(r"[}.]([0-9a-f]{9})(?=[{\[])", texts[0])

    assert texts[0] == texts[1]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]


def test_ids_that_fit_are_kept(templates: Templates) -> None:
    """What the model named is named so."""
    call = ToolCall("abcDEF123", "addition", "{}")
    turns = (ASK, Turn("assistant", tool_calls=(call,)), Turn("tool", "3", tool_call_id=call.id))

    assert templates(NINE).render(Chat(turns)).text.count(call.id) == 2


@pytest.mark.parametrize("template", [NULLS, THINKING, SINGLE, NINE])
def test_arguments_are_json_once(template: str, templates: Templates) -> None:
    """No Python, and no text within a text, whichever form the template takes."""
    text = templates(template).render(Chat((ASK, CALLING, RESULT))).text

    assert '{"alpha": "bravo \\"x\\""}' in text


def test_calls_that_a_template_drops_are_text_in_the_models_own_notation(
    templates: Templates,
) -> None:
    """As a grammar would hold the model to write them, with the marks of its vocabulary."""
    granite = IN_SYSTEM + "{# <|tool_call|> #}"
    turn = Turn("assistant", "Let me see.", tool_calls=(CALL, CALL_2))
    plain, own = (
        templates(template).render(Chat((ASK, turn, RESULT))).text
        for template in (IN_SYSTEM, granite)
    )

    assert 'Let me see.\n<tool_call>\n{"name": "addition", "arguments": {"alpha"' in plain
    assert plain.count("<tool_call>") == plain.count("</tool_call>") == 2
    assert '"name": "addition", "arguments": {"alpha"' in own
    assert own.count("<|tool_call|>") == 1


def test_tools_go_into_the_system_message(templates: Templates) -> None:
    """As JSON text, with the message made where there is none."""
    template = templates(IN_SYSTEM)

    for turns in ((ASK,), (RULE, ASK)):
        text = template.render(Chat(turns, (ADD,))).text
        assert '<tools>[{"name": "add", "description": "Adds."' in text
        assert "Question one?" in text
    assert "tools" not in template.render(Chat((RULE, ASK))).text


@pytest.mark.parametrize("name", ["thinking", "channels", "blocks"])
def test_thoughts_reach_templates_under_their_names(name: str, templates: Templates) -> None:
    """What was thought before a call is there while the model goes on."""
    calling = Turn("assistant", tool_calls=(CALL,), reasoning="Hm, addition.")
    text = templates(TEMPLATES[name]).render(Chat((ASK, calling, RESULT))).text

    assert "Hm, addition." in text


def test_thoughts_that_are_blocks(templates: Templates) -> None:
    """They stand before the text, and no template is given blocks that only shows what a list looks like."""
    said = Turn("assistant", "Answer one.", reasoning="Hm.")
    text = templates(TEMPLATES["blocks"]).render(Chat((ASK, said, ASK_2))).text

    assert "[THINK]Hm.[/THINK]Answer one.</s>" in text
    for name in ("strict", "nine", "single"):
        assert templates(TEMPLATES[name]).abilities().thoughts is None


def test_thoughts_text_and_calls_of_one_turn(templates: Templates) -> None:
    """All three are in the prompt, though the template refuses them together: the text comes first."""
    calling = Turn("assistant", "Let me see.", tool_calls=(CALL,), reasoning="Hm, addition.")
    text = templates(TEMPLATES["channels"]).render(Chat((ASK, calling, RESULT))).text

    assert "<final>Let me see.<analysis>Hm, addition.<to>addition" in text


def test_marked_thoughts_are_thoughts(templates: Templates) -> None:
    """A client that sends marks back within the text gets them read as the model's own."""
    said = Turn("assistant", "<think>\nHm.\n</think>\n\nAnswer one.")
    rendered = templates(THINKING).render(Chat((ASK, said)))

    assert "<assistant><think>Hm.</think>Answer one." in rendered.text
    assert rendered.literals == []


def test_marks_of_thoughts_in_a_text_are_letters(templates: Templates) -> None:
    """A template that looks for them finds none, and cuts nothing."""
    said = Turn("assistant", "Thoughts end with </think>, mind you.")
    rendered = templates(THINKING).render(Chat((ASK, said, ASK_2)))

    assert "Thoughts end with" in rendered.text
    assert rendered.literals == ["</think>"]


@pytest.mark.parametrize("tools", [(), (ADD,)])
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("chat", ["a call", "a system turn last", "an answer last", "neighbours"])
def test_opening_is_what_the_template_puts_behind_the_last_turn(
    chat: str, thinking: bool, tools: tuple[Tool, ...], templates: Templates
) -> None:
    """Whatever was said, and whatever the template tells the model about thoughts before it."""
    question = Turn("user", "What does <think> mean? And <assistant><think>")
    turns = (question, Turn("assistant", "It opens thoughts."), *CHATS[chat])
    opening = templates(THINKING).render(Chat(turns, tools, thinking)).opening

    assert opening == ("<assistant><think>" if thinking else "<assistant>")


def test_there_is_no_opening_without_a_generation_prompt(templates: Templates) -> None:
    """A prompt that ends with what was said has nothing of the template's behind that."""
    rendered = templates(THINKING).render(Chat((ASK,), add_generation_prompt=False))

    assert ("", True) == (rendered.opening, rendered.text.endswith("Question one?"))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", ["Once upon", "Once upon "])
def test_final_message_is_gone_on_with(name: str, text: str, templates: Templates) -> None:
    """The prompt ends where the message does, space included."""
    chat = Chat((ASK, Turn("assistant", text)), continue_final_message=True)
    rendered = templates(TEMPLATES[name]).render(chat)

    assert rendered.opening == ""
    assert rendered.text.endswith(text)
    assert "Question one?" in rendered.text


def test_chat_that_is_refused_anyway_says_nothing_of_the_system(templates: Templates) -> None:
    """Who refuses an answer at the end takes a system turn all the same."""
    refusing = """{%- for message in messages -%}
    {%- if loop.last and message.role == "assistant" -%}{{ raise_exception("an end") }}{%- endif -%}
    {{- "<" + message.role + ">" + message.content -}}
    {%- endfor -%}"""
    template = templates(refusing)

    assert template.abilities().system
    assert template.render(Chat((RULE, ASK))).text.startswith("<system>")


@pytest.mark.parametrize("said", ["Hi /no_think", "/no_think", "/no_think\n"])
def test_switches_that_a_template_takes_out_are_not_lost(said: str, templates: Templates) -> None:
    """They have done what they are for."""
    template = templates(
        "{% for message in messages %}<{{ message.role }}>"
        "{{ message.content.replace('/no_think', '') }}{% endfor %}"
    )

    assert "no_think" not in template.render(Chat((Turn("system", said), ASK))).text


def test_template_that_takes_its_time_is_not_asked_for_long(
    templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wasn't found out is taken for what it can't do, and chats reach it all the same."""
    monkeypatch.setattr(abilities, "PROBE_S", -1.0)
    template = templates(THINKING)

    assert not template.abilities().system
    assert "Rule one" in template.render(Chat((RULE, ASK))).text


def test_template_that_shows_nothing_is_refused(templates: Templates) -> None:
    """What can't be told to the model is refused with the message that would be lost."""
    with pytest.raises(LostTurn) as caught:
        templates("Tell a story.").render(Chat((ASK,)))

    assert "Question one?" == caught.value.turn.content
