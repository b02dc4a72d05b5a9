"""A chat body into jobs, deltas into chunks or one completion."""

import json
from typing import Any

import pytest

from service import contracts
from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import custom_tools
from service.openai.chat import (
    MAX_MESSAGES,
    NOT_IMPLEMENTED,
    ChatAnswer,
    ChatRequest,
    parse,
)
from service.openai.logprobs import MIN_LOGPROB
from service.openai.usage import Usage
from service.protocol import (
    Candidate,
    Chat,
    Constraint,
    Delta,
    Job,
    ModelCard,
    Spent,
    TokenLogprob,
    Tool,
    ToolCall,
    Turn,
)

CARD = ModelCard("org/m", "gemma", "A model.", 8192, 1, knows_tools=True, knows_thinking=True)
PLAIN_CARD = ModelCard("org/plain", "gemma", "A model.", 8192, 1)
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1}'},
}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
NOW = {"type": "function", "function": {"name": "now", "description": "Tells the time."}}
TOOLS = (Tool("add", parameters='{"type": "object"}'), Tool("now", "Tells the time."))
SUPPORTED = {
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p",
    "max_tokens", "max_completion_tokens", "stop", "seed", "ignore_eos", "n", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "reasoning_effort", "chat_template_kwargs",
    "functions", "function_call", "priority", "json_schema", "min_tokens",
    "add_generation_prompt", "continue_final_message",
}  # fmt: skip
# What changes nothing whatever its value: notes of the client.
IGNORED = {"user", "metadata", "store"}
# What changes nothing but is told, unless it says what holds anyway.
TOLD = {"verbosity"}


def parsed(card: ModelCard = CARD, /, **change: Any) -> ChatRequest:
    """Check a request that differs in *change* as the service does, then parse it."""
    body = HELLO | change
    contracts.check("chat-request", body)
    return parse(body, card)


def job(**change: Any) -> Job:
    """Return the one job that such a request becomes."""
    (found,) = parsed(**change).jobs
    return found


def chat(**change: Any) -> Chat:
    """Return its prompt."""
    prompt = job(**change).prompt
    assert isinstance(prompt, Chat)
    return prompt


def refusal(card: ModelCard = CARD, /, **change: Any) -> InvalidRequest:
    """Return the error that such a request is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(card, **change)
    return caught.value


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    """Return the turns that *messages* become."""
    return chat(messages=list(messages)).turns


def test_request_when_smallest() -> None:
    """What is not asked for is left to the model's own settings and the context."""
    expected = Job(Chat((Turn("user", "Hi"),)))

    assert ChatRequest((expected,), priority=0, is_stream=False, include_usage=False) == parsed()


def test_request_when_everything_is_null() -> None:
    """Null is the same as leaving a field out."""
    fields = contracts.schemas()["chat-request"]["properties"].keys() - {"model", "messages"}

    assert parsed() == parsed(**dict.fromkeys(fields))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 6, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({}, None),
    ],
)
def test_token_limit_under_both_names(change: dict[str, Any], expected: int | None) -> None:
    """Either name works, the newer one wins; to JSON Schema 5.0 is an integer, the engine gets one."""
    found = job(**change).max_tokens

    assert (expected, type(expected)) == (found, type(found))


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False)])
def test_ignore_eos_is_kept(value: bool | None, expected: bool) -> None:
    """A load generator's wish to go on past the end of the turn reaches the engine."""
    assert expected is job(ignore_eos=value).ignore_eos


@pytest.mark.parametrize(
    ("change", "is_stream", "include_usage"),
    [
        ({"stream": True}, True, False),
        ({"stream": False}, False, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": None}, True, False),
    ],
)
def test_stream_options(change: dict[str, Any], is_stream: bool, include_usage: bool) -> None:
    """A stream is given when asked for, the usage chunk when asked for."""
    asked = parsed(**change)

    assert (is_stream, include_usage) == (asked.is_stream, asked.include_usage)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": True, "top_logprobs": 20.0}, 20),
    ],
)
def test_logprobs_as_asked_for(change: dict[str, Any], expected: int | None) -> None:
    """None is no report at all, 0 one of the tokens alone."""
    assert expected == job(**change).top_logprobs


@pytest.mark.parametrize("logprobs", [None, False])
def test_alternatives_without_logprobs(logprobs: bool | None) -> None:
    """Alternatives belong to something: alone they are the client's mistake."""
    error = refusal(logprobs=logprobs, top_logprobs=2)

    assert ("top_logprobs", "invalid_value") == (error.param, error.code)


def test_several_answers_are_several_jobs() -> None:
    """Each answer is a job of its own, told apart by its seed alone."""
    jobs = parsed(n=3, seed=7, temperature=0.5, tools=[ADD]).jobs

    assert [7, 8, 9] == [each.sampling.seed for each in jobs]
    assert 1 == len({each.prompt for each in jobs})
    assert 8 == len(parsed(n=8).jobs)


@pytest.mark.parametrize(
    ("choice", "offered", "must_call"),
    [
        (None, TOOLS, ()),
        ("auto", TOOLS, ()),
        ("none", (), ()),
        ("required", TOOLS, ("add", "now")),
        ({"type": "function", "function": {"name": "now"}}, TOOLS, ("now",)),
    ],
)
def test_tools_by_choice(choice: object, offered: tuple[Tool, ...], must_call: object) -> None:
    """Offered, withheld, demanded, or one of them demanded."""
    found = job(tools=[ADD, NOW], tool_choice=choice)

    assert isinstance(found.prompt, Chat)
    assert (offered, must_call) == (found.prompt.tools, found.must_call)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [ADD]},
         "tool_choice"),
        ({"tools": [ADD, NOW, ADD]}, "tools"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_called(change: dict[str, Any], param: str) -> None:
    """A demand for what is not offered, or for one of two that can't be told apart."""
    assert param == refusal(**change).param


def test_tools_of_a_model_that_takes_none() -> None:
    """Its template would drop them silently, so they are refused; a chat without them is not."""
    error = refusal(PLAIN_CARD, tools=[ADD])

    assert ("unsupported_parameter", "tools") == (error.code, error.param)
    assert parsed(PLAIN_CARD, tools=[ADD], tool_choice="none") == parsed(PLAIN_CARD)


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, True)])
def test_parallel_calls_unless_forbidden(value: bool | None, expected: bool) -> None:
    """Several calls at once are the default, as in OpenAI's interface."""
    assert expected is job(tools=[ADD], parallel_tool_calls=value).parallel_tool_calls


def test_form_of_the_answer_reaches_the_job() -> None:
    """A form is part of what is asked, whatever words it came in."""
    expected = Constraint("choice", '["yes", "no"]', "guided_choice")

    assert expected == job(guided_choice=["yes", "no"]).constraint


def test_every_documented_field_has_its_fate() -> None:
    """No field of the contract is silently ignored: supported, refused, or known to change nothing."""
    fields = contracts.schemas()["chat-request"]["properties"].keys()

    assert set() == fields - SUPPORTED - IGNORED - TOLD - NOT_IMPLEMENTED.keys()
    assert set() == (SUPPORTED | IGNORED | TOLD) & NOT_IMPLEMENTED.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "x", "format": "wav"}),
        ("audio", {}),
        ("grammar", "root ::= x"),
        ("modalities", ["text", "audio"]),
        ("moderation", {"model": "m"}),
        ("web_search_options", {}),
    ],
)
def test_unsupported_field_when_it_would_matter(field: str, value: object) -> None:
    """A documented field that is not implemented and would change the answer is refused by name."""
    with pytest.raises(UnsupportedParameter) as caught:
        parsed(**{field: value})

    assert (400, "unsupported_parameter", field) == (
        caught.value.status, caught.value.code, caught.value.param,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0),
        ("function_call", "none"),
        ("functions", []),
        ("guided_json", None),
        ("logit_bias", {}),
        ("logprobs", False),
        ("modalities", ["text"]),
        ("n", 1),
        ("n", 1.0),
        ("presence_penalty", 0),
        ("response_format", {"type": "text"}),
        ("structured_outputs", {}),
        ("structured_outputs", {"json_object": False, "regex": None}),
        ("chat_template_kwargs", {}),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("tools", []),
        ("top_logprobs", 0),
        ("verbosity", "medium"),
        ("user", "ann"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("parallel_tool_calls", True),
        ("ignore_eos", False),
        ("priority", 0),
        ("min_tokens", 0),
        ("add_generation_prompt", True),
        ("continue_final_message", False),
        ("max_tokens", -1),
        ("stop", []),
        ("service_tier", "auto"),
        ("x_unknown", {"deep": [1]}),
    ],
)
def test_field_when_it_changes_nothing(field: str, value: object) -> None:
    """A value that is the default in other words passes, as does what nobody documented."""
    assert parsed() == parsed(**{field: value})


@pytest.mark.parametrize("field", NOT_IMPLEMENTED)
def test_harmless_values_pass_as_listed(field: str) -> None:
    """Each value in the table of harmless ones is let through by the code that reads it."""
    for value in NOT_IMPLEMENTED[field]:
        assert parsed() == parsed(**{field: value})


def test_messages_when_too_many() -> None:
    """So many turns are nobody's chat; the template is not troubled with them."""
    error = refusal(messages=HELLO["messages"] * (MAX_MESSAGES + 1))

    assert ("messages", 400) == (error.param, error.status)
    assert MAX_MESSAGES == len(chat(messages=HELLO["messages"] * MAX_MESSAGES).turns)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_turn_of_each_role(role: str) -> None:
    """A role is kept, and its text untouched."""
    text = "a {{7*7}} <start_of_turn>\0\u2028\n"

    assert (Turn(role, text),) == turns({"role": role, "content": text})


def test_own_message_is_taken_back() -> None:
    """An answer is a message of the next request as it stands, nulls and empty lists of a dump included."""
    dumped: dict[str, Any] = {
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "name": None,
    }
    said = {"role": "assistant", "content": "Yes.", "tool_calls": None} | dumped
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]} | dumped
    silent = {"role": "assistant", "content": None, "tool_calls": []} | dumped
    calls = (ToolCall("c1", "add", '{"a": 1}'),)
    expected = (Turn("assistant", "Yes."), Turn("assistant", None, tool_calls=calls))

    assert (*expected, Turn("assistant")) == turns(said, called, silent)
    assert (Turn("assistant"),) == turns({"role": "assistant"})
    assert (Turn("assistant", ""),) == turns({"role": "assistant", "content": []})


def test_refusal_is_what_was_said() -> None:
    """What the model declined with is read in place of the content that isn't there."""
    message = {"role": "assistant", "content": None, "refusal": "No."}

    assert (Turn("assistant", "No."),) == turns(message)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_taken_back(name: str) -> None:
    """Under either name that an answer has for them."""
    message = {"role": "assistant", "content": "Yes.", name: "Hm."}

    assert (Turn("assistant", "Yes.", reasoning="Hm."),) == turns(message)


def test_turns_of_functions() -> None:
    """The older form of a round with a tool: no ids, but each result belongs to the call before it."""
    function = {"name": "add", "arguments": '{"a": 1}'}
    call = {"role": "assistant", "content": None, "function_call": function}
    result = {"role": "function", "name": "add", "content": "3"}
    first, three, second, four = turns(call, result, call, result | {"content": "4"})

    assert [("add", '{"a": 1}')] == [(each.name, each.arguments) for each in first.tool_calls]
    assert ("tool", "3", first.tool_calls[0].id) == (three.role, three.content, three.tool_call_id)
    assert ("tool", "4", second.tool_calls[0].id) == (four.role, four.content, four.tool_call_id)
    assert first.tool_calls[0].id != second.tool_calls[0].id


def test_end_of_the_prompt() -> None:
    """The answer is opened by the template, by nothing, or goes on with the final message."""
    final = {"messages": [*HELLO["messages"], {"role": "assistant", "content": "Yes, "}]}
    opened, bare = chat(), chat(add_generation_prompt=False)
    begun = chat(**final, continue_final_message=True)

    assert (True, False) == (opened.add_generation_prompt, opened.continue_final_message)
    assert (False, False) == (bare.add_generation_prompt, bare.continue_final_message)
    assert (False, True) == (begun.add_generation_prompt, begun.continue_final_message)


def test_final_message_that_says_nothing() -> None:
    """Nothing was begun, and so the answer is opened as any other."""
    messages = [*HELLO["messages"], {"role": "assistant", "content": ""}]

    assert chat() == chat(messages=messages, continue_final_message=True)


def test_end_of_the_prompt_that_can_not_be() -> None:
    """A begun answer is not opened, and calls can't be gone on with."""
    both = refusal(continue_final_message=True, add_generation_prompt=True)
    message = {"role": "assistant", "tool_calls": [CALL]}
    called = refusal(messages=[message], continue_final_message=True)

    assert "add_generation_prompt" == both.param
    assert "continue_final_message" == called.param


def test_least_number_of_tokens() -> None:
    """It reaches the job, and may not be more than the largest."""
    assert (5, 5) == ((found := job(min_tokens=5, max_tokens=5)).min_tokens, found.max_tokens)
    assert "min_tokens" == refusal(min_tokens=6, max_tokens=5).param


def test_turn_of_the_developer() -> None:
    """Developer is today's word for system, and templates know the older one."""
    assert (Turn("system", "Be short."),) == turns({"role": "developer", "content": "Be short."})


def test_turn_with_a_name() -> None:
    """A speaker's name comes along."""
    assert (Turn("user", "x", name="ann"),) == turns(
        {"role": "user", "content": "x", "name": "ann"}
    )


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant"])
def test_content_when_a_list(role: str) -> None:
    """Text parts follow each other with nothing between them."""
    parts = [{"type": "text", "text": text} for text in ("a", "", "b\n")]

    assert "ab\n" == turns({"role": role, "content": parts})[0].content


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {}},
    ],
)
def test_content_when_not_text(part: dict[str, Any]) -> None:
    """What this model cannot read is refused at its place, and its address is not repeated."""
    content = [{"type": "text", "text": "x"}, part]
    messages = [HELLO["messages"][0], {"role": "user", "content": content}]
    error = refusal(messages=messages)

    assert ("unsupported_content", "messages.1.content.1.type") == (error.code, error.param)
    assert "169.254" not in error.message


def test_tool_calls_and_results() -> None:
    """A round of calls and results arrives with ids, names and arguments as they were."""
    second = CALL | {"id": "c2", "function": {"name": "now", "arguments": ""}}
    found = turns(
        {"role": "assistant", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}]},
    )
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "now", "{}"))
    expected = (
        Turn("assistant", None, tool_calls=calls),
        Turn("tool", "3", tool_call_id="c1"),
        Turn("tool", "noon", tool_call_id="c2"),
    )

    assert expected == found


def test_tool_calls_when_null() -> None:
    """An answer without calls may say so."""
    message = {"role": "assistant", "content": "x", "tool_calls": None}

    assert (Turn("assistant", "x"),) == turns(message)


@pytest.mark.parametrize(
    "arguments", ["[]", "1", '"x"', "null", "{} x", '{"a": NaN}', "plain", " "]
)
def test_tool_arguments_when_no_object(arguments: str) -> None:
    """A template may parse arguments: what is no JSON object never reaches it."""
    call = CALL | {"function": {"name": "add", "arguments": arguments}}
    messages = [HELLO["messages"][0], {"role": "assistant", "tool_calls": [CALL, call]}]

    assert "messages.1.tool_calls.1.function.arguments" == refusal(messages=messages).param


CUSTOM: dict[str, Any] = {"type": "custom", "custom": {"name": "run", "description": "Runs it."}}
REGEX = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}


def input_of(tool: Tool) -> Any:
    """Return the schema of the one argument that a custom tool has."""
    schema = json.loads(tool.parameters)
    assert ["input"] == schema["required"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    return schema["properties"]["input"]


def test_custom_tool_is_a_function_of_one_text() -> None:
    """The model is told its name and words, and of a regex, which it then keeps to."""
    asked = parsed(
        tools=[CUSTOM, {"type": "custom", "custom": {"name": "g", "format": REGEX}}, ADD]
    )
    assert isinstance(asked.jobs[0].prompt, Chat)
    free, formed, function = asked.jobs[0].prompt.tools

    assert ("run", "Runs it.", False) == (free.name, free.description, free.strict)
    assert "string" == input_of(free)["type"]
    assert "pattern" not in input_of(free)
    assert ("^(?:[a-z]+)$", True) == (input_of(formed)["pattern"], formed.strict)
    assert TOOLS[0] == function
    assert {"run", "g"} == asked.custom_tools


@pytest.mark.parametrize(
    ("cut", "mended"),
    [
        ("{", "{}"),
        ('{"a": ', "{}"),
        ('{"a": 1, "b', '{"a": 1}'),
        ('{"a": 1, "b": tr', '{"a": 1}'),
        ('{"a": 12', '{"a": 12}'),
        ('{"a": "x, {y', '{"a": "x, {y"}'),
        ('{"a": "x\\', '{"a": "x"}'),
        ('{"a": "x\\u00', '{"a": "x"}'),
        ('{"a": "\\\\', '{"a": "\\\\"}'),
        ('{"a": [1, {"b": "c"', '{"a": [1, {"b": "c"}]}'),
        ('{"a": [1, {"b', '{"a": [1, {}]}'),
    ],
)
def test_cut_call_is_taken_back(cut: str, mended: str) -> None:
    """The arguments that a limit of tokens cut are an object again, with all that they said."""
    (turn,) = turns(
        {
            "role": "assistant",
            "tool_calls": [CALL | {"function": {"name": "add", "arguments": cut}}],
        }
    )

    assert (ToolCall("c1", "add", mended),) == turn.tool_calls


FUNCTIONS = [ADD["function"], NOW["function"]]


@pytest.mark.parametrize(
    ("choice", "offered", "demanded"),
    [
        (None, TOOLS, ()),
        ("auto", TOOLS, ()),
        ("none", (), ()),
        ({"name": "now"}, TOOLS, ("now",)),
    ],
)
def test_functions_are_tools(
    choice: Any, offered: tuple[Tool, ...], demanded: tuple[str, ...]
) -> None:
    """The older form of tools, of which a message has but one."""
    asked = parsed(functions=FUNCTIONS, function_call=choice)
    (found,) = asked.jobs
    assert isinstance(found.prompt, Chat)

    assert (offered, demanded) == (found.prompt.tools, found.must_call)
    assert not found.parallel_tool_calls
    assert asked.in_older_form


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"functions": FUNCTIONS, "tools": [ADD]}, "functions"),
        ({"functions": [FUNCTIONS[0]] * 2}, "functions"),
        ({"functions": FUNCTIONS, "function_call": {"name": "f"}}, "function_call"),
        ({"function_call": {"name": "add"}}, "function_call"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"functions": FUNCTIONS, "function_call": "required"}, "function_call"),
    ],
)
def test_functions_that_can_not_be(change: dict[str, Any], param: str) -> None:
    """Both forms at once, one name twice, one that is demanded and not there."""
    assert param == refusal(**change).param


def test_call_in_the_older_form() -> None:
    """It has no id, whole and streamed, and a finish reason of its own."""
    call = ToolCall("c1", "add", '{"a": 1}')
    answer = ChatAnswer("m", Usage(1), in_older_form=True)
    last = Delta(1, "", 1, "tool_calls", tool_calls=(call,))
    whole, chunk = answer.completion([[last]]), answer.chunk(0, last)
    contracts.check("chat-completion", whole)
    contracts.check("chat-completion-chunk", chunk)
    (told,), (piece,) = whole["choices"], chunk["choices"]
    function = {"name": "add", "arguments": '{"a": 1}'}

    assert function == told["message"]["function_call"] == piece["delta"]["function_call"]
    assert "function_call" == told["finish_reason"] == piece["finish_reason"]
    assert "tool_calls" not in told["message"].keys() | piece["delta"].keys()
    assert None is told["message"]["content"]


def test_custom_tool_with_a_grammar() -> None:
    """No JSON Schema can say it, so it is refused by name rather than forgotten."""
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}}
    tool = {"type": "custom", "custom": {"name": "g", "format": grammar}}
    error = refusal(tools=[ADD, tool])

    assert ("unsupported_parameter", "tools.1.custom.format") == (error.code, error.param)


def test_custom_tool_is_called_and_its_call_given_back() -> None:
    """The text comes out of the arguments, whole and streamed, and goes back into them."""
    call = ToolCall("c1", "run", '{"input": "ls -l\\n"}')
    answer = ChatAnswer("m", Usage(1), custom_tools=frozenset({"run"}))
    message = answer.completion([[Delta(1, "", 1, "tool_calls", tool_calls=(call,))]])
    contracts.check("chat-completion", message)
    (told,) = message["choices"][0]["message"]["tool_calls"]
    chunk = answer.chunk(0, Delta(1, "", 1, tool_calls=(call,)))
    contracts.check("chat-completion-chunk", chunk)

    assert {"id": "c1", "type": "custom", "custom": {"name": "run", "input": "ls -l\n"}} == told
    assert [{"index": 0} | told] == chunk["choices"][0]["delta"]["tool_calls"]
    assert (Turn("assistant", None, tool_calls=(call,)),) == turns(
        {"role": "assistant", "tool_calls": [told]}
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": ""}', ""),
        ('{"input": 7}', '{"input": 7}'),
        ("ls", "ls"),
        ("[]", "[]"),
        ('{"input": "ls -', "ls -"),
        ("", ""),
    ],
)
def test_custom_tool_when_the_model_writes_something_else(arguments: str, text: str) -> None:
    """What isn't the one argument is what it said, and so it is told."""
    assert text == custom_tools.text_in(arguments)


@pytest.mark.parametrize(
    ("choice", "offered", "demanded"),
    [
        ({"type": "custom", "custom": {"name": "run"}}, ["add", "run"], ("run",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CUSTOM]}}, ["run"], ()),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [ADD]}}, ["add"],
         ("add",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, [], ()),
    ],
)  # fmt: skip
def test_choice_among_tools(choice: Any, offered: list[str], demanded: tuple[str, ...]) -> None:
    """A custom tool can be demanded like a function; of all tools some may be allowed."""
    asked = parsed(tools=[ADD, CUSTOM], tool_choice=choice).jobs[0]
    assert isinstance(asked.prompt, Chat)

    assert (offered, demanded) == ([tool.name for tool in asked.prompt.tools], asked.must_call)


@pytest.mark.parametrize(("mode", "tools"), [("auto", [NOW]), ("required", [])])
def test_choice_among_tools_that_cannot_be_met(mode: str, tools: list[Any]) -> None:
    """One that isn't offered can't be allowed, and of none at all none can be demanded."""
    allowed = {"mode": mode, "tools": tools}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}

    assert "tool_choice" == refusal(tools=[ADD], tool_choice=choice).param


def test_hints_that_change_nothing_are_told() -> None:
    """A model that doesn't think can't be asked to; none is told how much to say."""
    hints = {"reasoning_effort": "high", "verbosity": "low"}

    assert parsed(PLAIN_CARD).jobs == parsed(PLAIN_CARD, **hints).jobs
    assert ("reasoning_effort", "verbosity") == parsed(PLAIN_CARD, **hints).ignored
    assert ("verbosity",) == parsed(**hints).ignored
    assert () == parsed(verbosity="medium", reasoning_effort="none").ignored


DELTAS = [
    Delta(1, "He", 1),
    Delta(1, "", 2),
    Delta(1, "llo\u2028", 3),
    Delta(1, "!", 4, "stop", spent=Spent(2, 0.1, 0.2, 0.3)),
]
COUNTS = {
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
TIMES = {"queue_s": 0.1, "prefill_s": 0.2, "decode_s": 0.3}
CALLS = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "now", "{}"))


def answering(n: int = 1, **how: Any) -> ChatAnswer:
    """Return an answer of *n* choices to a prompt of seven tokens."""
    return ChatAnswer("org/m", Usage(7, n), **how)


def completed(*deltas: Delta, **how: Any) -> dict[str, Any]:
    """Return the one choice of a completion; the body keeps its contract."""
    body = answering(**how).completion([deltas])
    contracts.check("chat-completion", json.loads(json.dumps(body)))
    choice: dict[str, Any] = body["choices"][0]
    return choice


def streamed(*deltas: Delta, **how: Any) -> list[dict[str, Any]]:
    """Return the chunks of one answer; each keeps its contract."""
    answer = answering(**how)
    chunks = [answer.opening(0), *(answer.chunk(0, delta) for delta in deltas)]
    if answer.include_usage:
        chunks.append(answer.closing())
    for chunk in chunks:
        contracts.check("chat-completion-chunk", json.loads(json.dumps(chunk)))
    return chunks


def test_completion_keeps_its_contract() -> None:
    """The whole answer has text, finish reason, counts that add up, and times."""
    body = answering().completion([DELTAS])
    contracts.check("chat-completion", json.loads(json.dumps(body)))
    message = {"role": "assistant", "content": "Hello\u2028!", "refusal": None}

    assert [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}] == body[
        "choices"
    ]
    assert (COUNTS, TIMES) == (body["usage"], body["timings"])


def test_completion_of_several_answers() -> None:
    """Each choice has its index; the prompt is counted once, the answers together."""
    second = [Delta(2, "Bye", 2, "length", spent=Spent(0, 0.0, 0.5, 0.1))]
    body = answering(2).completion([DELTAS, second])
    found = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]]

    assert [(0, "Hello\u2028!", "stop"), (1, "Bye", "length")] == found
    assert (7, 6, 13) == tuple(body["usage"].values())[:3]


def test_completion_when_empty() -> None:
    """An answer of no text is an empty text."""
    assert "" == completed(Delta(1, "", 0, "stop"))["message"]["content"]


def test_completion_when_cut() -> None:
    """The token limit is told as the reason."""
    assert "length" == completed(Delta(1, "x", 1), Delta(1, "", 2, "length"))["finish_reason"]


def test_completion_with_calls() -> None:
    """Calls alone have null for content; their arguments are text as they came."""
    choice = completed(
        Delta(1, "", 9, tool_calls=CALLS[:1]), Delta(1, "", 12, "tool_calls", tool_calls=CALLS[1:])
    )
    now = CALL | {"id": "c2", "function": {"name": "now", "arguments": "{}"}}

    assert (None, "tool_calls") == (choice["message"]["content"], choice["finish_reason"])
    assert [CALL, now] == choice["message"]["tool_calls"]


def test_completion_with_calls_beside_text() -> None:
    """What was said before a call is kept."""
    choice = completed(Delta(1, "Well.", 2), Delta(1, "", 12, "tool_calls", tool_calls=CALLS))

    assert "Well." == choice["message"]["content"]


def test_completion_without_calls_or_thoughts() -> None:
    """What was not there has no member."""
    assert {"role", "content", "refusal"} == completed(*DELTAS)["message"].keys()


def test_completion_with_thoughts() -> None:
    """They stand beside the answer, under both names that clients look for."""
    deltas = (
        Delta(1, "", 1, reasoning="h"), Delta(1, "", 2, reasoning="m", n_reasoning_tokens=2),
        Delta(1, "x", 3, "stop", n_reasoning_tokens=2),
    )  # fmt: skip
    body = answering().completion([deltas])
    message = body["choices"][0]["message"]

    assert ("x", "hm", "hm") == (
        message["content"], message["reasoning_content"], message["reasoning"],
    )  # fmt: skip
    assert {"reasoning_tokens": 2} == body["usage"]["completion_tokens_details"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_chunks_keep_their_contract(include_usage: bool) -> None:
    """Every chunk is well formed; role first, text in the middle, one finish reason, at the end."""
    chunks = streamed(*DELTAS, include_usage=include_usage)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]

    assert {"role": "assistant", "content": ""} == choices[0]["delta"]
    assert "Hello\u2028!" == "".join(choice["delta"].get("content", "") for choice in choices)
    assert [None] * 4 + ["stop"] == [choice["finish_reason"] for choice in choices]


def test_usage_chunk_when_asked_for() -> None:
    """With usage asked for, it is null in every chunk but the last, which has no choice."""
    *others, closing = streamed(*DELTAS, include_usage=True)

    assert [None] * 5 == [chunk["usage"] for chunk in others]
    assert ([], COUNTS, TIMES) == (closing["choices"], closing["usage"], closing["timings"])
    assert [] == [chunk for chunk in others if "timings" in chunk]


def test_usage_when_not_asked_for() -> None:
    """Without the option no chunk speaks of usage, and the very last one tells the times."""
    *others, last = streamed(*DELTAS)

    assert [] == [chunk for chunk in [*others, last] if "usage" in chunk]
    assert ([], TIMES) == ([chunk for chunk in others if "timings" in chunk], last["timings"])


def test_times_when_several_answers_end() -> None:
    """Only the chunk that ends the last of them has the times, of the slowest each."""
    answer = answering(2)
    first = answer.chunk(1, Delta(2, "b", 1, "stop", spent=Spent(0, 0.4, 0.1, 0.1)))
    last = answer.chunk(0, DELTAS[-1])

    assert "timings" not in first
    assert {"queue_s": 0.4, "prefill_s": 0.2, "decode_s": 0.3} == last["timings"]


def test_chunks_of_several_answers() -> None:
    """Chunks of all answers come through each other, told apart by their index."""
    answer = answering(2)
    chunks = [answer.opening(0), answer.opening(1), answer.chunk(1, Delta(2, "b", 1))]

    assert [0, 1, 1] == [chunk["choices"][0]["index"] for chunk in chunks]


def test_chunks_with_calls() -> None:
    """A call comes whole in one delta; the next one has the next index, in each answer anew."""
    answer = answering(2)
    found = [
        answer.chunk(i, Delta(i, "", 5, tool_calls=calls))["choices"][0]["delta"]["tool_calls"]
        for i, calls in [(0, CALLS), (1, CALLS[:1]), (0, CALLS[:1])]
    ]

    assert [[0, 1], [0], [2]] == [[call["index"] for call in calls] for calls in found]
    assert CALL | {"index": 0} == found[0][0]
    streamed(Delta(1, "", 5, "tool_calls", tool_calls=CALLS))


def test_chunks_with_thoughts() -> None:
    """A thought has both names and no content."""
    _, chunk, _ = streamed(Delta(1, "", 1, reasoning="hm"), Delta(1, "", 1, "stop"))

    assert {"reasoning_content": "hm", "reasoning": "hm"} == chunk["choices"][0]["delta"]


LOGPROBS = (
    TokenLogprob(Candidate(5, b"H", -0.5), (Candidate(5, b"H", -0.5), Candidate(6, b"\xff", -1.5))),
    TokenLogprob(Candidate(7, b"", None), ()),
)


@pytest.mark.parametrize("is_stream", [False, True])
def test_logprobs_of_tokens(is_stream: bool) -> None:
    """Token, bytes and alternatives; bytes that are no character are still told."""
    deltas = Delta(1, "H", 1, logprobs=LOGPROBS[:1]), Delta(1, "", 2, "stop", logprobs=LOGPROBS[1:])
    choices = (
        [chunk["choices"][0] for chunk in streamed(*deltas, with_logprobs=True)[1:]]
        if is_stream
        else [completed(*deltas, with_logprobs=True)]
    )
    first, second = [entry for choice in choices for entry in choice["logprobs"]["content"]]
    known = {"token": "H", "logprob": -0.5, "bytes": [72]}

    assert (
        known | {"top_logprobs": [known, {"token": "\ufffd", "logprob": -1.5, "bytes": [255]}]}
        == first
    )
    assert {"token": "", "logprob": MIN_LOGPROB, "bytes": [], "top_logprobs": []} == second


def test_logprobs_when_there_are_none() -> None:
    """Asked for, an answer of no token has an empty list; not asked for, there is none at all."""
    nothing = Delta(1, "", 0, "stop")

    assert {"content": [], "refusal": None} == completed(nothing, with_logprobs=True)["logprobs"]
    assert completed(nothing)["logprobs"] is None
    assert [None, None] == [
        chunk["choices"][0]["logprobs"] for chunk in streamed(nothing, with_logprobs=True)
    ]


def test_head_is_the_same_in_all_chunks() -> None:
    """Id, time and model tie the chunks of one answer together, and tell answers apart."""
    chunks, (other, *_) = streamed(*DELTAS, include_usage=True), streamed(*DELTAS)
    heads = {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}

    assert 1 == len(heads)
    assert "org/m" == chunks[0]["model"]
    assert chunks[0]["id"] != other["id"]
