"""A response body into a job, deltas into items and events, and what the `openai` package makes of them."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

from service import contracts
from service.errors import EngineDied, InvalidRequest, UnsupportedParameter
from service.openai import response_items, responses
from service.openai.chat import MAX_MESSAGES
from service.openai.response_events import ResponseAnswer, replay
from service.openai.response_items import Item
from service.openai.responses import NOT_IMPLEMENTED, ResponseRequest
from service.openai.usage import Usage
from service.protocol import (
    Candidate,
    Chat,
    Constraint,
    Delta,
    Job,
    ModelCard,
    Sampling,
    Spent,
    TokenLogprob,
    Tool,
    ToolCall,
    Turn,
)

HI: dict[str, Any] = {"model": "m", "input": "Hi"}
CARD = ModelCard("org/m", "gemma", "", 4096, 1, knows_tools=True, knows_thinking=True)
PLAIN = ModelCard("org/m", "gemma", "", 4096, 1)
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "3"}
RUN: dict[str, Any] = {"type": "custom", "name": "run", "description": "Runs it."}
GROUP: dict[str, Any] = {
    "type": "namespace", "name": "crm", "description": "Customers.", "tools": [ADD, RUN],
}  # fmt: skip
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
SPENT = Spent(2, 0.0, 0.0, 0.0)
events_adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

SUPPORTED = {
    "model", "input", "instructions", "previous_response_id", "store", "stream", "max_output_tokens",
    "temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "top_logprobs", "include", "text", "tools", "tool_choice",
    "parallel_tool_calls", "reasoning", "metadata", "user", "safety_identifier", "prompt_cache_key",
    "priority",
}  # fmt: skip
# One bounds calls of the server's own tools, and there are none; the other can ask for nothing we would add.
IGNORED = {"max_tool_calls", "stream_options"}


class Past:
    """A memory of one response and one item."""

    def conversation(self, response_id: str) -> list[Item] | None:
        """Return what is remembered as `resp_1`."""
        said = {"type": "message", "id": "msg_1", "role": "assistant", "content": [
            {"type": "output_text", "text": "Hello", "annotations": []}]}  # fmt: skip
        asked = {"type": "message", "id": "msg_0", "role": "user", "content": "Hi"}
        return [asked, said] if response_id == "resp_1" else None

    def item(self, item_id: str) -> Item | None:
        """Return the item that is remembered as `fc_1`."""
        return CALL | {"id": "fc_1"} if item_id == "fc_1" else None


def parsed(card: ModelCard = CARD, /, **change: Any) -> ResponseRequest:
    """Check a request that differs in *change* as the service does, then parse it."""
    body = HI | change
    contracts.check("response-request", body)
    with responses.own_names():
        return responses.parse(body, card, Past())


def refusal(card: ModelCard = CARD, /, **change: Any) -> InvalidRequest:
    """Return what a request that differs in *change* is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(card, **change)
    return caught.value


def chat(asked: ResponseRequest) -> Chat:
    """Return the prompt of a request."""
    assert isinstance(asked.job.prompt, Chat)
    return asked.job.prompt


def turns(*items: Item, **change: Any) -> tuple[Turn, ...]:
    """Return the turns that *items* become."""
    return chat(parsed(input=list(items), **change)).turns


def user(content: Any) -> Item:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def test_request_when_smallest() -> None:
    """A text is the user's message; what is not asked for is left to the model; it is kept."""
    asked = parsed()

    assert Job(Chat((Turn("user", "Hi"),))) == asked.job
    assert (False, True) == (asked.is_stream, asked.is_kept)


def test_request_when_everything_is_null() -> None:
    """Null is the same as leaving a field out."""
    fields = contracts.schemas()["response-request"]["properties"].keys() - {"model", "input"}
    nothing, null = parsed(), parsed(**dict.fromkeys(fields))

    assert (nothing.job, nothing.settings) == (null.job, null.settings)


def test_settings_arrive() -> None:
    """Each setting reaches the job, zeros included."""
    asked = parsed(
        max_output_tokens=16.0, temperature=0, top_p=0.5, top_k=3, seed=7, parallel_tool_calls=False,
        store=False, stream=True,
    )  # fmt: skip

    assert Sampling(temperature=0, top_p=0.5, top_k=3, seed=7) == asked.job.sampling
    assert (16, False) == (asked.job.max_tokens, asked.job.parallel_tool_calls)
    assert (True, False) == (asked.is_stream, asked.is_kept)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"include": ["reasoning.encrypted_content"]}, None),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
        ({"top_logprobs": 0}, None),
    ],
)
def test_logprobs_when_included_or_counted(change: dict[str, Any], expected: int | None) -> None:
    """Log-probabilities are reported where they are included, or the likeliest ones wanted."""
    assert expected == parsed(**change).job.top_logprobs


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint("json_object", "", "text.format")),
        ({"type": "json_schema", "name": "f", "schema": {"type": "object"}},
         Constraint("json_schema", '{"type": "object"}', "text.format.schema")),
    ],
)  # fmt: skip
def test_form_of_the_text(form: Any, expected: Constraint | None) -> None:
    """A form becomes a constraint that blames the field it came from."""
    assert expected == parsed(text={"format": form}).job.constraint


def test_tools_and_choices() -> None:
    """Functions in their flat form are offered, and demanded by name or all of them."""
    asked = parsed(tools=[ADD], tool_choice={"type": "function", "name": "add"})

    assert (Tool("add", None, '{"type": "object"}'),) == chat(asked).tools
    assert ("add",) == asked.job.must_call
    assert ("add",) == parsed(tools=[ADD], tool_choice="required").job.must_call
    assert () == parsed(tools=[ADD]).job.must_call
    assert () == chat(parsed(tools=[ADD], tool_choice="none")).tools


@pytest.mark.parametrize("effort", ["low", "none"])
def test_effort_reaches_the_template(effort: str) -> None:
    """Effort switches thinking on or off, and the template is told the word."""
    prompt = chat(parsed(reasoning={"effort": effort, "summary": "auto"}))

    assert (effort != "none") == prompt.thinking
    assert {"reasoning_effort": effort} == json.loads(prompt.template_options)


def test_every_documented_field_has_its_fate() -> None:
    """No field of the contract is silently ignored: supported, refused, or known to change nothing."""
    fields = contracts.schemas()["response-request"]["properties"].keys()

    assert set() == fields - SUPPORTED - IGNORED - NOT_IMPLEMENTED.keys()
    assert set() == (SUPPORTED | IGNORED) & NOT_IMPLEMENTED.keys()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"background": True}, "background"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "custom", "name": "f", "format": LARK}]}, "tools.0.format"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [
            ADD, {"type": "custom", "name": "f", "format": LARK}]}]}, "tools.0.tools.1.format"),
        ({"tools": [ADD, {"type": "web_search"}], "tool_choice": {"type": "web_search"}},
         "tool_choice.type"),
        ({"input": [user("Hi"), {"type": "web_search_call", "id": "w"}]}, "input.1.type"),
    ],
)  # fmt: skip
def test_unsupported_field_when_it_would_matter(change: dict[str, Any], param: str) -> None:
    """What is documented, not implemented and would change the answer is refused by name."""
    error = refusal(**change)

    assert isinstance(error, UnsupportedParameter)
    assert (400, "unsupported_parameter", param) == (error.status, error.code, error.param)


def test_tools_when_the_model_takes_none() -> None:
    """What this model can't do is refused in the words of the request."""
    error = refusal(PLAIN, tools=[ADD])

    assert ("unsupported_parameter", "tools") == (error.code, error.param)


def test_what_changes_nothing_is_told() -> None:
    """Hints that the model can't follow, and tools that OpenAI would run; the answer is the same."""
    hints = {"reasoning": {"effort": "high"}, "text": {"verbosity": "low"}}
    hosted = [{"type": "web_search"}, {"type": "local_shell"}]

    assert parsed(PLAIN).job == parsed(PLAIN, **hints, tools=hosted).job
    assert ("reasoning.effort", "text.verbosity", "tools.0", "tools.1") == parsed(
        PLAIN, **hints, tools=hosted
    ).ignored
    assert () == parsed(reasoning={"effort": "high"}, tools=[ADD, RUN, GROUP]).ignored


def test_tools_that_openai_would_run_are_left_out() -> None:
    """The client's own are offered and repeated in the response, the others in neither."""
    asked = parsed(tools=[{"type": "web_search"}, ADD, {"type": "tool_search"}])

    assert ["add"] == [tool.name for tool in chat(asked).tools]
    assert ["add"] == [tool["name"] for tool in asked.settings["tools"]]
    with pytest.raises(InvalidRequest) as caught:
        parsed(tools=[{"type": "web_search"}], tool_choice="required")
    assert "tool_choice" == caught.value.param


def test_tools_of_all_kinds() -> None:
    """A custom tool and those of a namespace are functions to the model, by names that differ."""
    asked = parsed(tools=[ADD, RUN, GROUP])

    assert ["add", "run", "crm__add", "crm__run"] == [tool.name for tool in chat(asked).tools]
    assert [ADD["type"], "custom", "namespace"] == [t["type"] for t in asked.settings["tools"]]
    assert GROUP["tools"] == asked.settings["tools"][2]["tools"]


@pytest.mark.parametrize(
    ("choice", "offered", "demanded"),
    [
        ({"type": "custom", "name": "run"}, 4, ("run",)),
        ({"type": "function", "name": "add", "namespace": "crm"}, 4, ("crm__add",)),
        ({"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "function", "name": "add"}, {"type": "mcp", "server_label": "x"}]}, 1, ("add",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "run"}]}, 1,
         ()),
    ],
)  # fmt: skip
def test_choice_among_tools(choice: Any, offered: int, demanded: tuple[str, ...]) -> None:
    """Any tool of the client's can be demanded or allowed, one of a namespace by both its names."""
    asked = parsed(tools=[ADD, RUN, GROUP], tool_choice=choice)

    assert (offered, demanded) == (len(chat(asked).tools), asked.job.must_call)


def test_choice_of_a_tool_whose_namespace_goes_without_saying() -> None:
    """Where only one has that name, its namespace may be left out."""
    assert ("crm__add",) == parsed(
        tools=[GROUP], tool_choice={"type": "function", "name": "add"}
    ).job.must_call


def test_calls_of_all_kinds_go_round() -> None:
    """Each call is named as the client knows the tool, and given back it is the call that was made."""
    calls = (
        ToolCall("c1", "run", '{"input": "ls"}'),
        ToolCall("c2", "crm__add", '{"a": 1}'),
        ToolCall("c3", "crm__run", '{"input": "x"}'),
    )
    body, events = answered(
        [Delta(1, "", 1, "tool_calls", tool_calls=calls, spent=SPENT)], tools=[ADD, RUN, GROUP]
    )
    told = [
        (
            item["type"],
            item.get("namespace"),
            item["name"],
            item.get("input", item.get("arguments")),
        )
        for item in body["output"]
    ]
    (turn,) = turns(*body["output"])

    assert [
        ("custom_tool_call", None, "run", "ls"),
        ("function_call", "crm", "add", '{"a": 1}'),
        ("custom_tool_call", "crm", "run", "x"),
    ] == told
    assert calls == turn.tool_calls
    assert ["ls", "x"] == [
        event["input"]
        for event in events
        if event["type"] == "response.custom_tool_call_input.done"
    ]
    assert (turn, Turn("tool", "ok", tool_call_id="c1")) == turns(
        *body["output"], {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}
    )


@pytest.mark.parametrize("how", ["HELLO", "THOUGHT", "CALLED", "SILENT", "CUT", "CUSTOM", "LIKELY"])
def test_response_is_told_once_more(how: str) -> None:
    """The events of a kept response are those that told of it, to the letter, numbers included."""
    told: dict[str, tuple[list[Delta], dict[str, Any]]] = {
        "HELLO": (HELLO, {}),
        "THOUGHT": (THOUGHT, {}),
        "CALLED": (CALLED, {"tools": [ADD]}),
        "SILENT": (SILENT, {}),
        "CUT": ([Delta(1, "Hel", 1), Delta(1, "", 2, "length", spent=SPENT)], {}),
        "CUSTOM": (
            [Delta(1, "", 1, "tool_calls", spent=SPENT,
                   tool_calls=(ToolCall("c", "crm__run", '{"input": "ls"}'),))],
            {"tools": [GROUP]},
        ),
        "LIKELY": (
            [
                Delta(1, "", 1, logprobs=(logprob(b"\xc3", b"x"),)),
                Delta(1, "\xe9", 2, logprobs=(logprob(b"\xa9"),)),
                Delta(1, "", 3, "stop", logprobs=(logprob(b"\xc3"),), spent=SPENT),
            ],
            {"top_logprobs": 1},
        ),
    }  # fmt: skip
    deltas, change = told[how]
    made = answer(**change)
    events = [*made.opening(), *(event for delta in deltas for event in made.add(delta))]
    kept = json.loads(json.dumps(made.body()))

    assert events == list(replay(kept, made.pieces))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (False, -1)),
        ({"stream": "false"}, (False, -1)),
        ({"stream": "true"}, (True, -1)),
        ({"stream": "True", "starting_after": "0"}, (True, 0)),
        ({"stream": "true", "include": "message.output_text.logprobs"}, (True, -1)),
        ({"include_obfuscation": "false"}, (False, -1)),
    ],
)
def test_response_is_asked_for(query: dict[str, str], expected: tuple[bool, int]) -> None:
    """Whole, or by its events from one on."""
    found = responses.retrieval(query)

    assert expected == (found.is_stream, found.starting_after)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"stream": "1"}, "stream"),
        ({"stream": "true", "starting_after": "-1"}, "starting_after"),
        ({"stream": "true", "starting_after": "x"}, "starting_after"),
        ({"stream": "true", "starting_after": "9" * 10}, "starting_after"),
        ({"starting_after": "3"}, "starting_after"),
    ],
)
def test_response_is_asked_for_in_vain(query: dict[str, str], param: str) -> None:
    """What is no switch or number is refused by name, and so is a number that would change nothing."""
    with pytest.raises(InvalidRequest) as caught:
        responses.retrieval(query)

    assert param == caught.value.param


@pytest.mark.parametrize(
    "change",
    [
        {"background": False},
        {"priority": 0},
        {"truncation": "disabled"},
        {"context_management": []},
        {"max_tool_calls": 3},
        {"text": {"verbosity": "medium"}},
        {"text": {"format": {"type": "text"}}},
        {"tool_choice": "auto"},
        {"reasoning": {"summary": "auto"}},
        {"service_tier": "flex"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
        {"x_unknown": {"deep": [1]}},
    ],
    ids=str,
)
def test_field_when_it_changes_nothing(change: dict[str, Any]) -> None:
    """A value that is the default in other words passes, as does what nobody documented."""
    assert parsed().job == parsed(**change).job


def test_items_become_turns() -> None:
    """A round of messages, calls and outputs arrives in order; a call belongs to what was said with it."""
    found = turns(
        {"type": "message", "role": "developer", "content": "Be brief."},
        user([{"type": "input_text", "text": "1 + "}, {"type": "input_text", "text": "2?"}]),
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        CALL,
        CALL | {"call_id": "c2", "arguments": ""},
        OUTPUT,
        OUTPUT | {"call_id": "c2", "output": [{"type": "input_text", "text": "4"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    )
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", "{}"))
    expected = (
        Turn("system", "Be brief."),
        Turn("user", "1 + 2?"),
        Turn("assistant", "Let me see.", tool_calls=calls, reasoning="Hm."),
        Turn("tool", "3", tool_call_id="c1"),
        Turn("tool", "4", tool_call_id="c2"),
        Turn("assistant", "No."),
    )

    assert expected == found


def test_thoughts_belong_to_what_comes_next() -> None:
    """To the call behind them, which is then no part of the turn before; thoughts at the end are nobody's."""
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    said = {"role": "assistant", "content": "Let me see."}
    call = ToolCall("c1", "add", '{"a": 1}')

    assert (
        Turn("assistant", "Let me see."),
        Turn("assistant", tool_calls=(call,), reasoning="Hm."),
    ) == turns(said, thought, CALL, thought)


def test_call_without_words_before_it() -> None:
    """A call that comes first is a turn of its own."""
    call = ToolCall("c1", "add", '{"a": 1}')

    assert (Turn("assistant", tool_calls=(call,)), Turn("tool", "3", tool_call_id="c1")) == turns(
        CALL, OUTPUT
    )


def test_instructions_come_first() -> None:
    """Instructions are the system's turn, and share it with one that is there: templates may take one."""
    system = {"role": "system", "content": "Be kind."}

    assert (Turn("system", "Be brief."), Turn("user", "Hi")) == turns(
        user("Hi"), instructions="Be brief."
    )
    assert (Turn("system", "Be brief.\n\nBe kind."), Turn("user", "Hi")) == turns(
        system, user("Hi"), instructions="Be brief."
    )


def test_previous_response_is_continued() -> None:
    """All that was asked and said before comes first; only the new items are the request's own."""
    asked = parsed(previous_response_id="resp_1", input="And you?")
    expected = (Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "And you?"))

    assert expected == chat(asked).turns
    assert ["user"] == [item["role"] for item in asked.items]


def test_item_is_referred_to() -> None:
    """A reference stands for the item that is kept under its id."""
    asked = parsed(input=[{"type": "item_reference", "id": "fc_1"}, OUTPUT])

    assert "add" == chat(asked).turns[0].tool_calls[0].name
    assert "fc_1" == asked.items[0]["id"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"previous_response_id": "x"}, "previous_response_id", "previous_response_not_found"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.id", "item_not_found"),
        ({"input": [user([{"type": "input_image", "image_url": "http://169.254.169.254/"}])]},
         "input.0.content.0.type", "unsupported_content"),
        ({"input": [CALL, OUTPUT | {"output": [{"type": "input_file"}]}]},
         "input.1.output.0.type", "unsupported_content"),
        ({"input": [CALL | {"arguments": "[]"}]}, "input.0.arguments", "invalid_value"),
        ({"previous_response_id": "resp_1", "input": [user("Hi"), CALL | {"arguments": "[1]"}]},
         "input.1.arguments", "invalid_value"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "invalid_prompt"),
        ({"input": [user("Hi")] * (MAX_MESSAGES + 1)}, "input", "invalid_value"),
        ({"tools": [ADD, ADD]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "f",
                              "schema": {"$ref": "http://x/"}}}},
         "text.format.schema", "invalid_json_schema"),
    ],
)  # fmt: skip
def test_request_when_it_cannot_be(change: dict[str, Any], param: str, code: str) -> None:
    """What can't be done is refused at its place, and addresses are not repeated."""
    error = refusal(**change)

    assert (400, param, code) == (error.status, error.param, error.code)
    assert "169.254" not in error.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"content": "Hi"}]}, "input.0.role"),
        ({"input": [{"role": "tool", "content": "Hi"}]}, "input.0.role"),
        ({"input": [user([{"type": "input_text"}])]}, "input.0.content.0.text"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input.0.name"),
        ({"input": [{"type": "item_reference"}]}, "input.0.id"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"text": {"format": {"type": "json_schema", "name": "f"}}}, "text.format.schema"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ],
)
def test_request_when_it_breaks_the_contract(change: dict[str, Any], param: str) -> None:
    """The contract names the place, in the words of the request."""
    assert param == refusal(**change).param


def test_items_of_a_request_are_whole() -> None:
    """Items get the id, state and parts that they lack, and are then what the `openai` package lists."""
    thoughts = {"type": "reasoning", "id": "rs_9", "summary": []}
    said = {"role": "assistant", "content": "Yes?", "id": None}
    asked = parsed(input=[user("Hi"), said, thoughts, CALL, OUTPUT])
    listed = response_items.page(asked.items, {"order": "asc"})
    found = ResponseItemList.model_validate(listed)

    assert "rs_9" == asked.items[2]["id"]
    assert 5 == len({item["id"] for item in asked.items})
    assert [type(item).__name__ for item in found.data] == [
        "ResponseInputMessageItem", "ResponseOutputMessage", "ResponseReasoningItem",
        "ResponseFunctionToolCallItem", "ResponseFunctionToolCallOutputItem",
    ]  # fmt: skip


def test_page_of_items() -> None:
    """Lists begin with the newest, go on after an item, and say whether there is more."""
    items = [{"id": f"msg_{i}"} for i in range(5)]

    def shown(**query: str) -> tuple[list[str], bool]:
        page = response_items.page(items, query)
        return [item["id"][-1] for item in page["data"]], page["has_more"]

    assert (["4", "3", "2", "1", "0"], False) == shown()
    assert (["0", "1"], True) == shown(order="asc", limit="2")
    assert (["2", "1"], True) == shown(after="msg_3", limit="2")
    assert ([], False) == shown(after="msg_0")
    assert response_items.page([], {})["first_id"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "101"), ("limit", "-1"), ("limit", "x"), ("limit", "9" * 5000),
     ("order", "up"), ("after", "msg_9")],
)  # fmt: skip
def test_page_when_the_query_cannot_be(name: str, value: str) -> None:
    """A bad query is refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        response_items.page([{"id": "msg_0"}], {name: value})

    assert name == caught.value.param


def logprob(piece: bytes, top: bytes = b"") -> TokenLogprob:
    """Return a token with, if given, one likelier in its place."""
    return TokenLogprob(Candidate(1, piece, -0.5), (Candidate(2, top, -0.25),) if top else ())


HELLO = [Delta(1, "He", 1), Delta(1, "", 2), Delta(1, "llo\u2028", 3), Delta(1, "!", 4, "stop")]
CUT = [Delta(1, "He", 1), Delta(1, "", 2, "length")]
SILENT = [Delta(1, "", 0, "stop")]
THOUGHT = [
    Delta(1, "", 1, reasoning="hm", n_reasoning_tokens=1),
    Delta(1, "", 2, reasoning=" yes", n_reasoning_tokens=2),
    Delta(1, "Yes.", 3, "stop", n_reasoning_tokens=2, spent=SPENT),
]
CALLED = [
    Delta(1, "Wait. ", 1),
    Delta(1, "", 9, tool_calls=(ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", "{}"))),
    Delta(1, "", 9, "tool_calls"),
]
ANSWERS = {
    "hello": HELLO, "cut": CUT, "silent": SILENT, "thought": THOUGHT, "called": CALLED,
    "cut thoughts": [Delta(1, "", 1, "length", reasoning="hm", n_reasoning_tokens=1)],
}  # fmt: skip


def answer(**change: Any) -> ResponseAnswer:
    """Return a response to a request that differs in *change*, nothing said yet."""
    return ResponseAnswer("org/m", parsed(**change), Usage(7))


def answered(deltas: list[Delta], **change: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the response that *deltas* make and the events that tell of it, as they are sent."""
    made = answer(**change)
    events = made.opening()
    for delta in deltas:
        events = json.loads(json.dumps(events)) + made.add(delta)
    return json.loads(json.dumps(made.body())), json.loads(json.dumps(events))


@pytest.mark.parametrize("deltas", ANSWERS.values(), ids=ANSWERS)
def test_response_is_what_is_promised(deltas: list[Delta]) -> None:
    """A response and each of its events keep the contract and are what the `openai` package reads."""
    body, events = answered(deltas, tools=[ADD], text={"format": {"type": "json_object"}})
    contracts.check("response", body)
    for event in events:
        contracts.check("response-event", event)
        events_adapter.validate_python(event)
    found = Response.model_validate(body)

    assert list(range(len(events))) == [event["sequence_number"] for event in events]
    assert events[-1]["response"] == body
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens


@pytest.mark.parametrize("deltas", ANSWERS.values(), ids=ANSWERS)
def test_events_tell_the_whole_response(deltas: list[Delta]) -> None:
    """Who follows the events has the output at the end: items open and close in order, parts inside."""
    body, events = answered(deltas)
    output: list[Item] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert len(output) == event["output_index"]
                assert "in_progress" == event["item"]["status"]
                output.append(event["item"])
            case "content_part.added":
                assert output[-1]["content"] == []
                output[-1]["content"] = [event["part"]]
            case "output_text.delta" | "reasoning_text.delta":
                output[-1]["content"][0]["text"] += event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert output[-1]["content"][0]["text"] == event["text"]
            case "content_part.done":
                assert output[-1]["content"] == [event["part"]]
            case "function_call_arguments.delta":
                output[-1]["arguments"] += event["delta"]
            case "function_call_arguments.done":
                assert output[-1]["arguments"] == event["arguments"]
            case "output_item.done":
                assert output[-1] | {"status": event["item"]["status"]} == event["item"]
                output[-1] = event["item"]
        if "item_id" in event:
            assert output[event["output_index"]]["id"] == event["item_id"]

    assert body["output"] == output
    assert len({item["id"] for item in output}) == len(output)


def test_events_of_a_text() -> None:
    """The events of a plain answer come in the documented order."""
    _, events = answered(HELLO)

    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [[], "in_progress", None] == [
        events[0]["response"][name] for name in ("output", "status", "usage")
    ]


def test_response_when_whole() -> None:
    """Text, state, times and counts are there; what was asked for is repeated."""
    change: dict[str, Any] = {
        "instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"}, "user": "ann",
        "max_output_tokens": 16, "store": False, "tools": [ADD], "tool_choice": "none",
    }  # fmt: skip
    body, _ = answered(HELLO, **change)

    assert ("completed", None) == (body["status"], body["incomplete_details"])
    assert body["completed_at"] >= body["created_at"]
    assert "Hello\u2028!" == body["output"][0]["content"][0]["text"]
    assert (7, 4, 11) == tuple(body["usage"][f"{n}_tokens"] for n in ("input", "output", "total"))
    assert change | {"tools": [ADD | {"description": None, "strict": None}]} == {
        name: body[name] for name in change
    }


def test_response_while_it_is_made() -> None:
    """What was said until now is there, in an item that says that it goes on."""
    made = answer()
    made.add(HELLO[0])
    body = made.body()
    contracts.check("response", body)

    assert ("in_progress", None) == (body["status"], body["usage"])
    assert ("in_progress", "He") == (
        body["output"][0]["status"], body["output"][0]["content"][0]["text"],
    )  # fmt: skip


def test_response_when_cut() -> None:
    """At the token limit the response says so, and so does the item that was cut."""
    body, events = answered(CUT)

    assert ("incomplete", {"reason": "max_output_tokens"}, None) == (
        body["status"], body["incomplete_details"], body["completed_at"],
    )  # fmt: skip
    assert "incomplete" == body["output"][0]["status"]
    assert "response.incomplete" == events[-1]["type"]


def test_response_when_thought_about() -> None:
    """Thoughts are an item of their own before the message, and are counted."""
    body, _ = answered(THOUGHT)
    thoughts, message = body["output"]

    assert [{"type": "reasoning_text", "text": "hm yes"}] == thoughts["content"]
    assert ([], "completed") == (thoughts["summary"], thoughts["status"])
    assert "Yes." == message["content"][0]["text"]
    assert 2 == body["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert 2 == body["usage"]["input_tokens_details"]["cached_tokens"]


def test_response_when_functions_are_called() -> None:
    """Each call is an item after what was said, with an id of its own and the call's."""
    body, _ = answered(CALLED, tools=[ADD])
    message, first, second = body["output"]

    assert "Wait. " == message["content"][0]["text"]
    assert ("c1", "add", '{"a": 1}') == (first["call_id"], first["name"], first["arguments"])
    assert first["id"].startswith("fc_")
    assert ("c2", "completed") == (second["call_id"], second["status"])


def test_response_when_a_call_is_cut() -> None:
    """The item holds as much of the arguments as there is, and says that it isn't complete."""
    cut = (ToolCall("c1", "add", '{"a":', is_cut=True),)
    body, _ = answered([Delta(1, "", 9, tool_calls=cut), Delta(1, "", 9, "length")])
    (item,) = body["output"]

    assert ("incomplete", "incomplete", '{"a":') == (
        body["status"], item["status"], item["arguments"]
    )  # fmt: skip


def test_response_when_nothing_is_said() -> None:
    """An answer of no text is a message with an empty text."""
    body, _ = answered(SILENT)

    assert ["message"] == [item["type"] for item in body["output"]]
    assert "" == body["output"][0]["content"][0]["text"]


def test_logprobs_when_asked_for() -> None:
    """Tokens are told with the text that they are part of; one inside of a character waits for it."""
    deltas = [
        Delta(1, "", 1, logprobs=(logprob(b"\xc3", b"x"),)),
        Delta(1, "\xe9", 2, logprobs=(logprob(b"\xa9"),)),
        Delta(1, "", 3, "stop", logprobs=(logprob(b"\xc3"),)),
    ]
    body, events = answered(deltas, top_logprobs=1)
    (delta,) = (event for event in events if event["type"] == "response.output_text.delta")
    found = body["output"][0]["content"][0]["logprobs"]

    assert [[0xC3], [0xA9]] == [each["bytes"] for each in delta["logprobs"]]
    assert [[0xC3], [0xA9], [0xC3]] == [each["bytes"] for each in found]
    assert [{"token": "x", "logprob": -0.25, "bytes": [120]}] == found[0]["top_logprobs"]
    Response.model_validate(body)


def test_logprobs_of_the_mark_before_a_call() -> None:
    """A token that only begins a call makes no message."""
    deltas = [Delta(1, "", 1, logprobs=(logprob(b"<"),)), *CALLED[1:]]
    body, _ = answered(deltas, top_logprobs=1)

    assert ["function_call"] * 2 == [item["type"] for item in body["output"]]


def test_response_when_it_breaks() -> None:
    """An error is told twice: as the event that clients raise, and as the response's own end."""
    made = answer()
    made.add(HELLO[0])
    error = EngineDied("The engine process ended.")
    events = [made.trouble(error), made.failed(error)]
    for event in events:
        contracts.check("response-event", event)
        events_adapter.validate_python(event)

    assert ["error", "response.failed"] == [event["type"] for event in events]
    assert "engine_died" == events[0]["code"]
    assert {"code": "server_error", "message": error.message} == events[1]["response"]["error"]
    assert "incomplete" == events[1]["response"]["output"][0]["status"]


def test_response_when_cancelled() -> None:
    """What was being said is closed where it was, and the response says that it was cancelled."""
    made = answer()
    made.add(HELLO[0])
    events = made.end("cancelled")
    contracts.check("response", made.body())

    assert "response.incomplete" == events[-1]["type"]
    assert ("cancelled", None) == (made.body()["status"], made.body()["incomplete_details"])
    assert "incomplete" == made.output[0]["status"]


@pytest.mark.parametrize(
    "form",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "name": "f", "schema": {}, "description": None, "strict": True},
    ],
)
def test_form_is_repeated(form: dict[str, Any]) -> None:
    """The response repeats the form of its text with all of its members."""
    asked = {name: value for name, value in form.items() if name not in {"description", "strict"}}

    assert form == parsed(text={"format": asked}).settings["text"]["format"]
