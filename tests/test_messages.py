"""Anthropic's messages: a body into a job, deltas into events or one message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from service import contracts
from service.anthropic.answer import PING, MessageAnswer
from service.anthropic.errors import envelope
from service.anthropic.messages import HARMLESS_EDITS, NOT_IMPLEMENTED, parse, prompt
from service.errors import (
    EngineDied,
    InvalidRequest,
    ModelNotFound,
    PromptTooLong,
    UnsupportedParameter,
)
from service.openai.chat import MAX_MESSAGES
from service.openai.usage import Usage
from service.protocol import (
    Chat,
    Constraint,
    Delta,
    Job,
    ModelCard,
    Sampling,
    Spent,
    Tool,
    ToolCall,
    Turn,
)

HELLO: dict[str, Any] = {
    "model": "m",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Hi"}],
}
THINKER = ModelCard("org/m", "f", "d", 4096, 1, knows_tools=True, knows_thinking=True)
PLAIN = replace(THINKER, knows_thinking=False)
TEXT = {"type": "text", "text": "Hi"}
CALL = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
ADD = {"name": "add", "input_schema": {"type": "object"}}
# What the job itself is made of, and what changes nothing whatever its value.
READ = {
    "model", "messages", "max_tokens", "system", "stop_sequences", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "thinking", "output_config", "stream", "context_management",
    "priority",
}  # fmt: skip
IGNORED = {"metadata", "service_tier"}


def asked(card: ModelCard = THINKER, /, **change: Any) -> Job:
    """Check a request that differs in *change* as the service does, then parse it."""
    body = HELLO | change
    contracts.check("messages-request", body)
    return parse(body, card).job


def turns(*messages: tuple[str, Any], **change: Any) -> tuple[Turn, ...]:
    """Return the turns that *messages*, roles with contents, become."""
    told = [{"role": role, "content": content} for role, content in messages]
    return chat(messages=told, **change).turns


def chat(**change: Any) -> Chat:
    """Return the prompt of a request that differs in *change*."""
    found = asked(**change).prompt
    assert isinstance(found, Chat)
    return found


def refusal(card: ModelCard = THINKER, /, **change: Any) -> InvalidRequest:
    """Return the error that a well-formed request that differs in *change* is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        asked(card, **change)
    return caught.value


def test_request_when_smallest() -> None:
    """What is not asked for is left to the model's own settings."""
    assert Job(Chat((Turn("user", "Hi"),)), max_tokens=8) == asked()
    assert not parse(HELLO, PLAIN).is_stream


def test_request_when_everything_is_null() -> None:
    """Null is the same as leaving a field out."""
    schema = contracts.schemas()["messages-request"]
    fields = {*schema["properties"], *schema["$defs"]["prompt"]["properties"]}

    assert asked() == asked(**dict.fromkeys(fields - {"model", "messages", "max_tokens"}))


def test_every_documented_field_has_its_fate() -> None:
    """No field of the contract is silently ignored: read, refused, or known to change nothing."""
    schema = contracts.schemas()["messages-request"]
    fields = {*schema["properties"], *schema["$defs"]["prompt"]["properties"]}

    assert READ | IGNORED == fields
    assert not fields & NOT_IMPLEMENTED.keys()


def test_sampling_is_kept() -> None:
    """Each field arrives as it was sent, zeros included; to JSON Schema, 4.0 is an integer."""
    found = asked(temperature=0, top_p=0.5, top_k=4.0, max_tokens=5.0, stop_sequences=["a", "b"])

    assert Sampling(temperature=0, top_p=0.5, top_k=4) == found.sampling
    assert (5, ("a", "b")) == (found.max_tokens, found.stop)
    assert {int} == {type(found.max_tokens), type(found.sampling.top_k)}


def test_field_of_another_interface_does_nothing() -> None:
    """What only OpenAI's interface knows is not looked at, whatever it is."""
    assert asked() == asked(
        seed="x", logit_bias=7, chat_template_kwargs=[], reasoning_effort=1, n=2
    )


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief.", (Turn("system", "Be brief."),)),
        ([TEXT, {"type": "text", "text": "Ho"}], (Turn("system", "Hi\n\nHo"),)),
        ("", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_system_text_comes_first(system: Any, expected: tuple[Turn, ...]) -> None:
    """It is a turn of its own, if there is any of it."""
    assert (*expected, Turn("user", "Hi")) == turns(("user", "Hi"), system=system)


@pytest.mark.parametrize("text", ["", "a {{7*7}} <start_of_turn>\0\u2028\n"])
def test_text_is_untouched(text: str) -> None:
    """Text is text, alone or in a block."""
    expected = (Turn("user", text),)

    assert expected == turns(("user", text)) == turns(("user", [TEXT | {"text": text}]))


def test_blocks_and_messages_of_one_role_are_one_turn() -> None:
    """Templates want roles that alternate; each block stays a paragraph."""
    found = turns(
        ("user", [TEXT, TEXT | {"text": "there"}]),
        ("user", "and"),
        ("assistant", "Yes?"),
        ("assistant", [TEXT, CALL, CALL | {"id": "t2"}]),
        ("user", [TEXT]),
    )
    calls = (ToolCall("t1", "add", '{"a": 1}'), ToolCall("t2", "add", '{"a": 1}'))
    expected = (
        Turn("user", "Hi\n\nthere\n\nand"),
        Turn("assistant", "Yes?\n\nHi", tool_calls=calls),
        Turn("user", "Hi"),
    )

    assert expected == found


def test_system_message_between_others_stays_there() -> None:
    """Instructions may come late."""
    expected = (Turn("user", "a"), Turn("system", "Be brief."), Turn("user", "b"))

    assert expected == turns(("user", "a"), ("system", "Be brief."), ("user", "b"))


def test_calls_and_results() -> None:
    """Each result is a turn, in its place between what else the user says."""
    result = {"type": "tool_result", "tool_use_id": "t1"}
    found = turns(
        ("assistant", [CALL]),
        (
            "user",
            [
                result,
                result | {"content": "3"},
                result | {"content": [TEXT, TEXT]},
                result | {"content": "No.", "is_error": True},
                TEXT,
            ],
        ),
    )
    expected = (
        Turn("assistant", tool_calls=(ToolCall("t1", "add", '{"a": 1}'),)),
        Turn("tool", "", tool_call_id="t1"),
        Turn("tool", "3", tool_call_id="t1"),
        Turn("tool", "Hi\n\nHi", tool_call_id="t1"),
        Turn("tool", "Error: No.", tool_call_id="t1"),
        Turn("user", "Hi"),
    )

    assert expected == found


def test_thoughts_belong_to_their_turn() -> None:
    """What the model thought is kept apart from what it said; what is redacted is nothing to read."""
    thought = {"type": "thinking", "thinking": "s3cret", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    found = turns(("assistant", [thought, hidden, TEXT]), ("assistant", [thought]), ("user", "x"))

    expected = Turn("assistant", "Hi", reasoning="s3cret\n\ns3cret")

    assert (expected, Turn("user", "x")) == found


def test_own_empty_answer_is_taken_back() -> None:
    """An answer without a block says nothing, and doesn't stand between what the user says."""
    found = turns(("user", "Hi"), ("assistant", []), ("user", "You there?"))

    assert (Turn("user", "Hi\n\nYou there?"),) == found


def test_messages_when_nothing_is_left() -> None:
    """Thoughts alone are no conversation."""
    body = HELLO | {
        "messages": [
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": ""}]},
        ]
    }
    contracts.check("message-tokens-request", body)
    with pytest.raises(InvalidRequest) as caught:
        prompt(body, THINKER)

    assert "messages" == caught.value.param


def test_messages_when_too_many() -> None:
    """Their number is limited."""
    assert "messages" == refusal(messages=HELLO["messages"] * (MAX_MESSAGES + 1)).param


@pytest.mark.parametrize(
    ("role", "block", "where"),
    [
        ("user", {"type": "image", "source": {"type": "url", "url": "http://10.0.0.1"}}, ""),
        ("user", {"type": "document", "source": {}}, ""),
        ("user", {"type": "search_result"}, ""),
        ("user", CALL, ""),
        ("user", {"type": "thinking", "thinking": "", "signature": ""}, ""),
        ("system", {"type": "tool_result", "tool_use_id": "t"}, ""),
        ("assistant", {"type": "tool_result", "tool_use_id": "t"}, ""),
        ("user", {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, {"type": "image"}]},
         ".content.1"),
    ],
)  # fmt: skip
def test_block_when_it_can_t_be_read(role: str, block: dict[str, Any], where: str) -> None:
    """It is refused at its place, by the name of its kind, and nothing of it is repeated."""
    messages = [{"role": role, "content": [TEXT, block]}, *HELLO["messages"]]
    error = refusal(messages=messages)
    kind = "image" if where else block["type"]

    assert ("unsupported_content", f"messages.0.content.1{where}.type") == (error.code, error.param)
    assert f"type {kind} " in error.message
    assert "10.0" not in error.message


def test_answer_that_was_begun_is_gone_on_with() -> None:
    """The client's first words are the answer's, also where tokens are counted."""
    messages = [*HELLO["messages"], {"role": "assistant", "content": "{"}]
    expected = Chat(
        (Turn("user", "Hi"), Turn("assistant", "{")),
        add_generation_prompt=False,
        continue_final_message=True,
    )

    assert expected == asked(messages=messages).prompt
    assert expected == prompt({"model": "m", "messages": messages}, THINKER)


def test_calls_without_results_are_no_answer_to_go_on_with() -> None:
    """Who called tools has ended its turn."""
    error = refusal(messages=[*HELLO["messages"], {"role": "assistant", "content": [CALL]}])

    assert ("messages", 400) == (error.param, error.status)


def test_prompt_is_all_that_is_counted() -> None:
    """Where tokens are counted, what only an answer needs is not looked at, whatever it is."""
    body = HELLO | {"max_tokens": "x", "top_k": "x", "stop_sequences": 7, "container": "c"}
    contracts.check("message-tokens-request", body)

    assert asked().prompt == prompt(body, THINKER)


def test_tools_are_offered() -> None:
    """Name, description, schema and strictness arrive; examples join the schema."""
    rich = {
        "name": "f",
        "type": "custom",
        "description": "d",
        "input_schema": {"type": "object"},
        "input_examples": [{"a": 1}],
        "strict": True,
        "cache_control": {"type": "ephemeral"},
    }
    found = chat(tools=[ADD, rich]).tools
    schema = json.dumps({"type": "object", "examples": [{"a": 1}]})

    assert (Tool("add", None, '{"type": "object"}'), Tool("f", "d", schema, strict=True)) == found


@pytest.mark.parametrize(
    ("choice", "n_offered", "must_call", "is_parallel"),
    [
        ({"type": "auto"}, 2, (), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, 2, (), False),
        ({"type": "any"}, 2, ("add", "sub"), True),
        ({"type": "any", "disable_parallel_tool_use": True}, 2, ("add", "sub"), False),
        ({"type": "tool", "name": "sub", "disable_parallel_tool_use": False}, 2, ("sub",), True),
        ({"type": "none"}, 0, (), True),
        (None, 2, (), True),
    ],
)
def test_tool_choice(
    choice: Any, n_offered: int, must_call: tuple[str, ...], is_parallel: bool
) -> None:
    """Which tools are offered, which must be called, and whether several may be at once."""
    found = asked(tools=[ADD, ADD | {"name": "sub"}], tool_choice=choice)

    assert isinstance(found.prompt, Chat)
    assert n_offered == len(found.prompt.tools)
    assert (must_call, is_parallel) == (found.must_call, found.parallel_tool_calls)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "unsupported_parameter", "tools.0.type"),
        ({"tools": [ADD, ADD]}, "invalid_value", "tools"),
        ({"tools": [ADD | {"input_schema": {"$ref": "http://x/"}}]}, "invalid_json_schema",
         "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "invalid_value", "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "sub"}}, "invalid_value", "tool_choice"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "file:///x"}}}},
         "invalid_json_schema", "output_config.format.schema"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"},
                                           {"type": "clear_tool_uses_20250919"}]}},
         "unsupported_parameter", "context_management.edits.1.type"),
        ({"container": "c"}, "unsupported_parameter", "container"),
        ({"mcp_servers": [{"url": "http://10.0.0.1"}]}, "unsupported_parameter", "mcp_servers"),
    ],
)  # fmt: skip
def test_wish_when_it_can_t_be_met(change: dict[str, Any], code: str, param: str) -> None:
    """What is not implemented and would change the answer, or can't be, is refused at its place."""
    error = refusal(**change)

    assert (400, code, param) == (error.status, error.code, error.param)


@pytest.mark.parametrize("field", NOT_IMPLEMENTED)
def test_field_that_is_not_implemented(field: str) -> None:
    """It is refused by name, but for the values that change nothing."""
    assert field == refusal(**{field: {"x": 1}}).param
    for harmless in (None, *NOT_IMPLEMENTED[field]):
        assert asked() == asked(**{field: harmless})


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "standard_only"},
        {"cache_control": {"type": "ephemeral"}},
        {"system": None, "tools": [], "stop_sequences": [], "output_config": {}},
        {"context_management": {"edits": [{"type": edit} for edit in HARMLESS_EDITS]}},
        {"thinking": {"type": "adaptive"}},
        {
            "messages": [
                {"role": "user", "content": [TEXT | {"cache_control": {"type": "ephemeral"}}]}
            ]
        },
        {"x_unknown": {"deep": [1]}},
    ],
)
def test_field_when_it_changes_nothing(change: dict[str, Any]) -> None:
    """What is here no matter, and what nobody documented, passes."""
    assert asked(PLAIN) == asked(PLAIN, **change)


@pytest.mark.parametrize(
    ("change", "thinking", "options"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True, {}),
        ({"thinking": {"type": "disabled"}}, False, {}),
        ({"thinking": {"type": "adaptive"}}, None, {}),
        ({"output_config": {"effort": "low"}}, None, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, False,
         {"reasoning_effort": "low"}),
    ],
)  # fmt: skip
def test_thinking(change: dict[str, Any], thinking: bool | None, options: dict[str, Any]) -> None:
    """It must, it must not, or the model decides; how hard is for the template to know."""
    found = chat(**change)

    assert (thinking, options) == (found.thinking, json.loads(found.template_options))


def test_thinking_when_the_model_does_not() -> None:
    """A model without thoughts answers as it would anyhow, and says so; not to think is no trouble to it."""
    body = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    wanted = {"thinking": {"type": "enabled", "budget_tokens": 1024}}

    assert ("thinking",) == parse(body | wanted, PLAIN).ignored
    assert parse(body, PLAIN).job == parse(body | wanted, PLAIN).job
    assert () == parse(body | wanted, THINKER).ignored
    assert () == parse(body | {"thinking": {"type": "disabled"}}, PLAIN).ignored


def test_effort_when_the_model_does_not_think() -> None:
    """Agents send it by default: it changes nothing, and they are told."""
    body = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    plain = parse(body, PLAIN)
    hard = parse(body | {"output_config": {"effort": "high"}}, PLAIN)

    assert plain.job == hard.job
    assert ((), ("output_config.effort",)) == (plain.ignored, hard.ignored)
    assert () == parse(body | {"output_config": {"effort": "high"}}, THINKER).ignored


def test_prompt_that_is_too_long_is_told_in_anthropic_s_words() -> None:
    """Agents read the two numbers from this very sentence, to shorten what they send."""
    error = PromptTooLong("The prompt has 9 tokens.", 9, 7, param="messages")
    told = envelope(error, "r")["error"]

    assert "prompt is too long: 9 tokens > 7 maximum" == told["message"]
    assert ("invalid_request_error", "context_length_exceeded") == (told["type"], told["code"])


def test_form_of_the_answer() -> None:
    """A JSON Schema for the text becomes the engine's constraint."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    found = asked(output_config={"format": {"type": "json_schema", "schema": schema}})
    expected = Constraint("json_schema", json.dumps(schema), "output_config.format.schema")

    assert expected == found.constraint


SPENT = Spent(4, 0.0, 0.1, 0.2)
SAID = [
    Delta(1, "", 1, reasoning="Hm"),
    Delta(1, "", 2, reasoning="m."),
    Delta(1, "He", 3),
    Delta(1, "", 4),
    Delta(1, "llo\u2028", 5),
    Delta(1, "", 6, tool_calls=(ToolCall("c1", "add", '{"a": "é"}'), ToolCall("c2", "now", "{}"))),
    Delta(1, "!", 7),
    Delta(1, "", 7, "tool_calls", spent=SPENT),
]
CONTENT = [
    {"type": "thinking", "thinking": "Hmm.", "signature": ""},
    {"type": "text", "text": "Hello\u2028"},
    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": "é"}},
    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
    {"type": "text", "text": "!"},
]


def answer() -> MessageAnswer:
    """Return an answer, nothing of it said yet."""
    return MessageAnswer("org/m", Usage(7))


def streamed(*deltas: Delta) -> list[dict[str, Any]]:
    """Return all events of an answer, in their contract."""
    found = answer()
    events = [found.opening(), *(event for delta in deltas for event in found.events(delta))]
    for event in events:
        contracts.check("message-event", event)
    return events


def test_message_keeps_its_contract() -> None:
    """Blocks stand in the order in which the model made them; what was cached is no input."""
    body = answer().message(SAID)
    contracts.check("message", body)
    counts = {"input_tokens": 3, "output_tokens": 7, "cache_read_input_tokens": 4,
              "cache_creation_input_tokens": 0}  # fmt: skip

    assert body["id"].startswith("msg_")
    assert ("message", "assistant", "org/m") == (body["type"], body["role"], body["model"])
    assert CONTENT == body["content"]
    assert counts == body["usage"]


def test_message_when_empty() -> None:
    """An answer of nothing has no block."""
    body = answer().message([Delta(1, "", 0, "stop")])
    contracts.check("message", body)

    assert ([], "end_turn") == (body["content"], body["stop_reason"])


def test_call_that_was_cut_has_no_block() -> None:
    """A block holds an object, and half a one is none; the end says that something was cut."""
    cut = (ToolCall("c1", "add", '{"a":', is_cut=True),)
    deltas = [Delta(1, "Well.", 2), Delta(1, "", 9, tool_calls=cut), Delta(1, "", 9, "length")]
    kinds = [event["type"] for event in streamed(*deltas)]
    body = answer().message(deltas)

    assert [{"type": "text", "text": "Well."}] == body["content"]
    assert "max_tokens" == body["stop_reason"]
    assert 1 == kinds.count("content_block_start")


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (Delta(1, "", 1, "stop"), "end_turn", None),
        (Delta(1, "", 1, "stop", stop_text="END"), "stop_sequence", "END"),
        (Delta(1, "", 1, "length"), "max_tokens", None),
        (Delta(1, "", 1, "tool_calls"), "tool_use", None),
        (Delta(1, "", 1, "tool_calls", stop_text="END"), "tool_use", None),
    ],
)
def test_reason_of_the_end(last: Delta, reason: str, sequence: str | None) -> None:
    """Whole or streamed, it is told why the answer ended, and by which text."""
    body = answer().message([last])
    contracts.check("message", body)
    *_, ending, _ = streamed(last)
    expected = {"stop_reason": reason, "stop_sequence": sequence}

    assert expected == ending["delta"]
    assert expected == {name: body[name] for name in expected}


def test_events_make_the_same_message() -> None:
    """Put together as clients do, the events are the whole answer."""
    events = streamed(*SAID)
    message: dict[str, Any] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = dict(event["message"])
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block = message["content"][event["index"]]
                kind, value = (value for value in event["delta"].values())
                if kind == "input_json_delta":
                    block["input"] = json.loads(value)
                else:
                    block[block["type"]] += value
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    whole = answer().message(SAID)

    assert whole | {"id": ""} == message | {"id": ""}


def test_events_open_and_close_one_block_after_the_other() -> None:
    """Each block is begun, filled and ended under its own index before the next begins."""
    events = streamed(*SAID)
    found = [(event["type"].removeprefix("content_block_"), event.get("index")) for event in events]
    expected = [
        ("message_start", None),
        ("start", 0), ("delta", 0), ("delta", 0), ("stop", 0),
        ("start", 1), ("delta", 1), ("delta", 1), ("stop", 1),
        ("start", 2), ("delta", 2), ("stop", 2),
        ("start", 3), ("delta", 3), ("stop", 3),
        ("start", 4), ("delta", 4), ("stop", 4),
        ("message_delta", None),
        ("message_stop", None),
    ]  # fmt: skip

    assert expected == found
    begun = [event["content_block"] for event in events if "content_block" in event]
    assert [{}, {}] == [block["input"] for block in begun if block["type"] == "tool_use"]


def test_beginning_tells_the_prompt_s_tokens() -> None:
    """The first event counts what was read, and says nothing of an end."""
    message = streamed()[0]["message"]

    assert ([], None, None) == (
        message["content"],
        message["stop_reason"],
        message["stop_sequence"],
    )
    assert (7, 0) == (message["usage"]["input_tokens"], message["usage"]["output_tokens"])


def test_ping_is_an_event() -> None:
    """What is sent into silence is well formed as well."""
    contracts.check("message-event", PING)


def test_answers_are_told_apart() -> None:
    """Each message has an id of its own."""
    assert answer().id != answer().id


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnsupportedParameter("No.", param="n"), "invalid_request_error"),
        (ModelNotFound("No such model."), "not_found_error"),
        (EngineDied("It died."), "api_error"),
    ],
)
def test_error_is_a_body_and_an_event(error: Any, kind: str) -> None:
    """One form does for both; param and code are ours."""
    body = envelope(error, "r")
    contracts.check("messages-error", body)
    contracts.check("message-event", body)

    assert (kind, "r") == (body["error"]["type"], body["request_id"])
    assert (error.param, error.code) == (body["error"]["param"], body["error"]["code"])


def test_unknown_blocks_never_reach_the_translation() -> None:
    """A kind that nobody documented breaks the contract already."""
    with pytest.raises(InvalidRequest) as caught:
        asked(messages=[{"role": "user", "content": [{"type": "hologram"}]}])

    assert "messages.0.content.0.type" == caught.value.param


def test_contract_names_the_place_also_through_references() -> None:
    """The counting request is held to the same rules, with the same words."""
    with pytest.raises(InvalidRequest) as caught:
        contracts.check("message-tokens-request", {"model": "m", "messages": [{"content": ""}]})

    assert "messages.0.role is required." == caught.value.message
