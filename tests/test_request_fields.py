"""What requests of every endpoint have in common, read once and for all of them."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import request_fields
from service.openai.request_fields import MAX_FORM_BYTES, MAX_SCHEMA_DEPTH, MAX_SEED, RESERVED
from service.protocol import Chat, Constraint, Job, ModelCard, Sampling, Text, Tool, Turn

CARD = ModelCard("org/m", "gemma", "A model.", 8192, 1, knows_tools=True, knows_thinking=True)
PLAIN_CARD = replace(CARD, knows_tools=False, knows_thinking=False)
TURNS = (Turn("user", "Hi"),)
TOOLS = (Tool("add"), Tool("now"))
SCHEMA = {"type": "object", "properties": {"b": {}, "a": {"enum": ["é", 1, None]}}}
REMOTE = [
    "http://127.0.0.1:1/x",
    "https://a.example/b#/c",
    "file:///etc/passwd",
    "other.json",
    "//a/b",
    "",
]


def nested(depth: int) -> dict[str, Any]:
    """Return a schema of so many levels."""
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"not": schema}
    return schema


def chat(body: dict[str, Any], card: ModelCard = CARD) -> Chat:
    """Return the prompt that *body* makes of a greeting."""
    return request_fields.chat(TURNS, (), body, card)


def refusal(body: dict[str, Any]) -> tuple[str | None, str]:
    """Return place and code of the error that the form in *body* is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        request_fields.constraint(body)
    return caught.value.param, caught.value.code


# ---------------------------------------------------------------- sampling


def test_sampling_when_nothing_is_asked_for() -> None:
    """All is left to the model's own settings."""
    assert (
        Sampling()
        == request_fields.sampling({})
        == request_fields.sampling(dict.fromkeys(Sampling.__struct_fields__))
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("temperature", 0.7), ("temperature", 2), ("top_p", 0.5), ("top_k", 0),
     ("top_k", 40), ("min_p", 0), ("min_p", 0.1), ("seed", 0), ("seed", 2**64 - 1),
     ("frequency_penalty", -2), ("presence_penalty", 0.5), ("repetition_penalty", 1.1)],
)  # fmt: skip
def test_sampling_is_kept(field: str, value: float) -> None:
    """Each field arrives as it was sent; zero is a value and not an absence."""
    change: dict[str, Any] = {field: value}

    assert Sampling(**change) == request_fields.sampling(change)


def test_numbers_that_stand_for_others() -> None:
    """-1 is no limit, and a negative seed is the number of the same 64 bits."""
    found = request_fields.sampling({"top_k": -1, "seed": -1})

    assert (0, 2**64 - 1) == (found.top_k, found.seed)
    assert [None, None, 7] == [request_fields.limit(each) for each in (None, -1, 7.0)]


@pytest.mark.parametrize("field", ["top_k", "seed"])
def test_whole_number_when_written_as_float(field: str) -> None:
    """To JSON Schema 2.0 is an integer; the engine gets a real one."""
    found = getattr(request_fields.sampling({field: 2.0}), field)

    assert (2, int) == (found, type(found))


def test_bias_by_token() -> None:
    """Keys of JSON are text, tokens are numbers."""
    bias = {"5": -100, "0": 0.5, "1234567890": 100}

    assert ((5, -100), (0, 0.5), (1234567890, 100)) == request_fields.sampling(
        {"logit_bias": bias}
    ).logit_bias


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("\n", ("\n",)), ("END", ("END",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())],
)
def test_stop_as_text_or_list(stop: object, expected: tuple[str, ...]) -> None:
    """One text is a list of one; it is not taken apart."""
    assert expected == request_fields.stops({"stop": stop})
    assert expected == request_fields.stops({"stop_sequences": stop}, "stop_sequences")


@pytest.mark.parametrize(
    ("given", "expected"), [(-1000, -1000), (0, 0), (7, 7), (2.0, 2), (None, 0)]
)
def test_priority_is_a_number(given: float | None, expected: int) -> None:
    """Null is the same as nothing, and that is 0; a whole number is one however it is written."""
    found = request_fields.priority({"priority": given})

    assert (expected, int) == (found, type(found))
    assert 0 == request_fields.priority({})


def test_several_without_a_seed() -> None:
    """Without a seed the jobs are alike; chance tells their answers apart."""
    job = Job(Text("x"))

    assert (job, job, job) == request_fields.several(job, 3)


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED - 1, MAX_SEED])
def test_several_with_a_seed(seed: int) -> None:
    """The first answer is the one that the seed gives alone; each has a seed of its own, in range."""
    job = Job(Text("x"), Sampling(seed=seed))
    seeds = [each.sampling.seed for each in request_fields.several(job, 8)]

    assert seed == seeds[0]
    assert 8 == len(set(seeds))
    assert all(each is not None and 0 <= each <= MAX_SEED for each in seeds)


# ---------------------------------------------------------------- the chat's template


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_template_option_when_reserved(name: str) -> None:
    """Nobody puts something else in the place of what a template gets anyway, nor steers its rendering."""
    with pytest.raises(InvalidRequest) as caught:
        chat({"chat_template_kwargs": {"harmless": 1, name: None}})

    assert (f"chat_template_kwargs.{name}", "template_not_allowed") == (
        caught.value.param, caught.value.code,
    )  # fmt: skip


def test_template_of_the_request() -> None:
    """A template is a program; the model's own is the only one that runs."""
    with pytest.raises(InvalidRequest) as caught:
        chat({"chat_template": "{{7*7}}"})

    assert ("chat_template", "template_not_allowed") == (caught.value.param, caught.value.code)
    assert chat({"chat_template": None}) == chat({})


@pytest.mark.parametrize(
    ("body", "thinking", "options"),
    [
        ({}, None, {}),
        ({"chat_template_kwargs": None}, None, {}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, {}),
        ({"chat_template_kwargs": {"enable_thinking": False, "x": [1]}}, False, {"x": [1]}),
        ({"reasoning_effort": "high"}, True, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, False, {"reasoning_effort": "none"}),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}, True,
         {"reasoning_effort": "low"}),
    ],
)  # fmt: skip
def test_thinking_and_other_options(
    body: dict[str, Any], thinking: bool | None, options: dict[str, Any]
) -> None:
    """The switch is told apart from what only the template understands; effort means the switch, too."""
    found = chat(body)

    assert (thinking, options) == (found.thinking, json.loads(found.template_options))


def test_effort_of_a_model_that_does_not_think() -> None:
    """It changes nothing, and is told; not to think is something that such a model does."""
    assert chat({}, PLAIN_CARD) == chat({"reasoning_effort": "high"}, PLAIN_CARD)
    assert chat({"reasoning_effort": "none"}, PLAIN_CARD).thinking is False
    assert ("x",) == request_fields.ignored_effort("x", "high", PLAIN_CARD)
    assert () == request_fields.ignored_effort("x", "high", CARD)
    assert () == request_fields.ignored_effort("x", "none", PLAIN_CARD)
    assert () == request_fields.ignored_effort("x", None, PLAIN_CARD)


@pytest.mark.parametrize(
    ("verbosity", "expected"), [(None, ()), ("medium", ()), ("low", ("v",)), (["?"], ("v",))]
)
def test_verbosity_is_told_as_ignored(verbosity: Any, expected: tuple[str, ...]) -> None:
    """No template takes it; what stands for saying as much as usual needs no word."""
    assert expected == request_fields.ignored_verbosity("v", verbosity)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": True, "stream_options": {"include_usage": None}}, False),
        ({"stream": True}, False),
        ({"stream_options": None}, False),
        ({}, False),
    ],
)
def test_usage_at_the_end_of_a_stream(body: dict[str, Any], expected: bool) -> None:
    """By an option of streams."""
    assert expected == request_fields.include_usage(body)


@pytest.mark.parametrize("stream", [None, False])
@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
def test_options_of_a_stream_for_a_whole_answer(stream: object, options: object) -> None:
    """As OpenAI has it, they are a mistake there."""
    with pytest.raises(InvalidRequest) as caught:
        request_fields.include_usage({"stream": stream, "stream_options": options})

    assert "stream_options" == caught.value.param


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"response_format": None, "structured_outputs": None, "guided_json": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": {"json": None, "json_object": False}}, None),
        ({"response_format": {"type": "json_object"}}, ("json_object", "", "response_format")),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
         ("json_object", "", "response_format.json_schema.schema")),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
         ("json_object", "", "response_format.json_schema.schema")),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
         ("json_schema", json.dumps(SCHEMA), "response_format.json_schema.schema")),
        ({"structured_outputs": {"json": SCHEMA}},
         ("json_schema", json.dumps(SCHEMA), "structured_outputs.json")),
        ({"structured_outputs": {"json": "{}"}}, ("json_schema", "{}", "structured_outputs.json")),
        ({"structured_outputs": {"json_object": True}},
         ("json_object", "", "structured_outputs.json_object")),
        ({"structured_outputs": {"regex": "a+"}}, ("regex", "a+", "structured_outputs.regex")),
        ({"structured_outputs": {"choice": ["a", ""]}},
         ("choice", '["a", ""]', "structured_outputs.choice")),
        ({"structured_outputs": {"grammar": "start: A"}},
         ("grammar", "start: A", "structured_outputs.grammar")),
        ({"guided_json": json.dumps(SCHEMA)},
         ("json_schema", json.dumps(SCHEMA), "guided_json")),
        ({"guided_json": {}}, ("json_schema", "{}", "guided_json")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}},
         ("json_schema", json.dumps(SCHEMA), "response_format.schema")),
        ({"response_format": {"type": "json_object", "schema": None}},
         ("json_object", "", "response_format")),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, None),
        ({"json_schema": SCHEMA}, ("json_schema", json.dumps(SCHEMA), "json_schema")),
        ({"json_schema": json.dumps(SCHEMA)}, ("json_schema", json.dumps(SCHEMA), "json_schema")),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"},
         ("regex", "a", "structured_outputs.regex")),
        ({"guided_regex": ""}, ("regex", "", "guided_regex")),
        ({"guided_choice": ["a"]}, ("choice", '["a"]', "guided_choice")),
        ({"guided_grammar": "start: A"}, ("grammar", "start: A", "guided_grammar")),
    ],
)  # fmt: skip
def test_form_in_all_words(body: dict[str, Any], expected: tuple[Any, str, str] | None) -> None:
    """OpenAI's words and vLLM's, new and old, lead to one form, whose place in the request is known."""
    assert (Constraint(*expected) if expected else None) == request_fields.constraint(body)


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"regex": "a", "json_object": True}},
        {"structured_outputs": {"regex": "a"}, "guided_regex": "b"},
        {"response_format": {"type": "json_object"}, "json_schema": {}},
        {"response_format": {"type": "json_object"}, "guided_choice": ["a"]},
        {"guided_regex": "a", "guided_json": {}},
    ],
)
def test_form_when_asked_for_twice(body: dict[str, Any]) -> None:
    """Two forms are a contradiction, unless they are the same."""
    param, code = refusal(body)

    assert param
    assert "invalid_value" == code


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "true", "7", '"{}"', "{} {}", '{"a": NaN}', "[" * 100_000]
)
def test_schema_whose_text_is_none(text: str) -> None:
    """A schema may come as text; what is no JSON object is refused at its place."""
    assert ("guided_json", "invalid_json_schema") == refusal({"guided_json": text})


@pytest.mark.parametrize("reference", REMOTE)
def test_schema_that_refers_elsewhere(reference: str) -> None:
    """Nothing is fetched for a schema, from nowhere, however deep the reference lies."""
    schema = {"properties": {"a": {"items": [{"$ref": reference}]}}}

    assert ("guided_json", "invalid_json_schema") == refusal({"guided_json": schema})


def test_schema_that_refers_to_itself() -> None:
    """References inside are the schema's own business, and a property may have that name."""
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"$ref": {"type": "null"}}}}}

    assert request_fields.schema_constraint(schema, "x") == Constraint(
        "json_schema", json.dumps(schema), "x"
    )


def test_schema_at_its_limits() -> None:
    """So deep and so large, and no more."""
    padded = {"description": "x" * (MAX_FORM_BYTES - len('{"description": ""}'))}

    assert request_fields.schema_constraint(nested(MAX_SCHEMA_DEPTH), "x")
    assert request_fields.schema_constraint(padded, "x")
    assert ("guided_json", "invalid_json_schema") == refusal({"guided_json": nested(33)})
    assert ("guided_json", "invalid_json_schema") == refusal({"guided_json": nested(60)})
    padded["description"] += "x"
    assert ("guided_json", "invalid_json_schema") == refusal({"guided_json": padded})


@pytest.mark.parametrize(
    ("name", "fits", "is_over"),
    [
        ("guided_regex", "é" * (MAX_FORM_BYTES // 2), "é" * (MAX_FORM_BYTES // 2) + "a"),
        ("guided_grammar", "x" * MAX_FORM_BYTES, "x" * (MAX_FORM_BYTES + 1)),
        ("guided_choice", ["x" * (MAX_FORM_BYTES - 4)], ["x" * MAX_FORM_BYTES]),
    ],
)
def test_form_at_its_limit(name: str, fits: object, is_over: object) -> None:
    """No form is so large that compiling it would keep the others waiting."""
    assert request_fields.constraint({name: fits})
    assert (name, "invalid_grammar") == refusal({name: is_over})


# ---------------------------------------------------------------- tools


def test_tool_with_all_and_with_nothing() -> None:
    """What a tool doesn't tell is left out; its schema keeps the order of its members."""
    nothing = {"name": "f", "parameters": None, "strict": None}
    everything = {"name": "g", "description": "G.", "parameters": SCHEMA, "strict": True}

    assert Tool("f") == request_fields.tool(nothing, "x")
    assert Tool("g", "G.", json.dumps(SCHEMA), strict=True) == request_fields.tool(everything, "x")


def test_tool_whose_schema_refers_elsewhere() -> None:
    """The place of the schema is told, and nothing is fetched."""
    with pytest.raises(InvalidRequest) as caught:
        request_fields.tool({"name": "f", "parameters": {"$ref": "http://x/"}}, "tools.0.function")

    assert "tools.0.function.parameters" == caught.value.param


def test_tools_that_are_allowed() -> None:
    """A choice of those that are offered, in their order; no others."""
    assert (TOOLS[1],) == request_fields.among(["now"], TOOLS)
    assert TOOLS == request_fields.among(["now", "add"], TOOLS)
    assert () == request_fields.among([], TOOLS)
    with pytest.raises(InvalidRequest) as caught:
        request_fields.among(["now", "x"], TOOLS)
    assert "tool_choice" == caught.value.param


def test_tools_of_one_name() -> None:
    """A call by that name could mean either."""
    with pytest.raises(InvalidRequest) as caught:
        request_fields.distinct([*TOOLS, TOOLS[0]])

    assert "tools" == caught.value.param


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (TOOLS, ())),
        ("auto", (TOOLS, ())),
        ("none", ((), ())),
        ("required", (TOOLS, ("add", "now"))),
        (":now", (TOOLS, ("now",))),
    ],
)
def test_choice_of_tools(choice: str | None, expected: object) -> None:
    """What is offered, and of what one must be called."""
    assert expected == request_fields.chosen(choice, TOOLS)


@pytest.mark.parametrize(("choice", "tools"), [("required", ()), (":x", TOOLS), (":", TOOLS)])
def test_choice_that_cannot_be_met(choice: str, tools: tuple[Tool, ...]) -> None:
    """Nobody can call what is not offered."""
    with pytest.raises(InvalidRequest) as caught:
        request_fields.chosen(choice, tools)

    assert "tool_choice" == caught.value.param


# ---------------------------------------------------------------- what isn't built


@pytest.mark.parametrize("value", [None, [], "a"])
def test_field_not_built_when_harmless(value: object) -> None:
    """Null, nothing, and the values in the table change no answer."""
    request_fields.refuse({"x": value} if value != [] else {}, {"x": ("a", "b")})


@pytest.mark.parametrize("value", ["c", False, 0, [], {}])
def test_field_not_built_when_it_matters(value: object) -> None:
    """Any other value would have changed the answer, and is told by its name."""
    with pytest.raises(UnsupportedParameter) as caught:
        request_fields.refuse({"x": value}, {"x": ("a",)})

    assert ("x", "unsupported_parameter") == (caught.value.param, caught.value.code)
