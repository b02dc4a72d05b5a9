"""`service.engine.constrain.compile`: answers that are right by construction, from random weights too."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import mlx.core as mx
import pytest
from llguidance import LLMatcher

from service.engine.constrain import compile
from service.engine.constrain.token_mask import allowed_tokens
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Chat, Constraint, Delta, Job, Sampling, Tool, Turn
from tests.engine.conftest import job, run

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Tells the weather.", json.dumps(CITY))
ZONE = {
    "properties": {"zone": {"$ref": "#/$defs/zone"}},
    "additionalProperties": False,
    "$defs": {"zone": {"enum": ["UTC", "CET"]}},
}
CLOCK = Tool("clock", parameters=json.dumps(ZONE))
SCHEMAS: list[Any] = [
    CITY,
    {"type": "boolean"},
    {"enum": ["a", 2, None]},
    {"type": "integer", "minimum": -3},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    {"type": "string", "maxLength": 12},
    {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-c]{2,4}$"}]},
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
    {"type": "string", "format": "date"},
    {"const": {"x": [1, 2]}},
]


@pytest.fixture
def wild(loaded: LoadedModel, vocabulary: Vocabulary) -> Scheduler:
    """A batch whose model makes noise of every prompt."""

    def noise(inputs: mx.array, cache: Any = None) -> mx.array:
        loaded.model(inputs, cache=cache)
        return mx.random.normal((*inputs.shape, vocabulary.n_logits)) * 4

    model: Any = type("Noise", (), {"__call__": lambda _, *a, **k: noise(*a, **k)})()
    model.layers, model.make_cache = loaded.model.layers, loaded.model.make_cache
    model.parameters = loaded.model.parameters
    noisy = LoadedModel(model, loaded.tokenizer, loaded.card, loaded.sampling)
    return Scheduler(noisy, vocabulary, max_rows=8)


def answers(scheduler: Scheduler, preparer: Preparer, jobs: list[Job]) -> list[list[Delta]]:
    """Run *jobs* together; return the deltas of each."""
    for ticket, each in enumerate(jobs):
        scheduler.add(ticket, preparer.prepare(each), each)
    seen = run(scheduler)
    return [seen[ticket] for ticket in range(len(jobs))]


def text(deltas: list[Delta]) -> str:
    """Return the whole answer."""
    return "".join(delta.text for delta in deltas)


def held(kind: Any, source: str, **fields: Any) -> Job:
    """Return a job whose answer is held to a form; its text is drawn at a high temperature."""
    return job(
        constraint=Constraint(kind, source, "response_format"),
        sampling=Sampling(temperature=1.5),
        max_tokens=fields.pop("max_tokens", 400),
        **fields,
    )


def chat(*tools: Tool) -> Chat:
    """Return a chat in which *tools* are offered."""
    return Chat((Turn("user", "Weather?"),), tools)


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_answer_follows_its_schema(schema: Any, wild: Scheduler, preparer: Preparer) -> None:
    """Every finished answer validates, whatever the model would have said."""
    jobs = [held("json_schema", json.dumps(schema))] * 8
    finished = [each for each in answers(wild, preparer, jobs) if each[-1].finish_reason == "stop"]

    assert finished
    for deltas in finished:
        jsonschema.validate(json.loads(text(deltas)), schema)


def test_other_forms(wild: Scheduler, preparer: Preparer) -> None:
    """Expressions, choices and grammars hold, side by side in one batch with what is free."""
    jobs = [
        held("regex", "[0-9]{3}-[a-f]+", max_tokens=60),
        held("choice", json.dumps(["yes", 'n"o\n'])),
        held("grammar", 'start: "a" B "c"\nB: /b{2,5}/'),
        job(max_tokens=20, ignore_eos=True),
        held("json_object", "", max_tokens=30),
    ]
    regex, choice, grammar, free, _ = answers(wild, preparer, jobs)

    assert set(text(regex)) <= set("0123456789-abcdef")
    assert text(choice) in {"yes", 'n"o\n'}
    assert text(grammar).strip("b") == "ac" or text(grammar).replace("b", "") == "ac"
    assert free[-1].n_completion_tokens > 0


@pytest.mark.parametrize("n_tools", [1, 2])
def test_demanded_call_comes(n_tools: int, wild: Scheduler, preparer: Preparer) -> None:
    """One of the demanded tools is called, with arguments after its schema, and nothing is said."""
    tools = (WEATHER, CLOCK)[:n_tools]
    names = tuple(tool.name for tool in tools)
    wanted = job(
        prompt=chat(*tools), must_call=names, sampling=Sampling(temperature=1.5), max_tokens=300
    )
    for deltas in answers(wild, preparer, [wanted] * 4):
        if deltas[-1].finish_reason == "length":
            continue
        calls = [call for delta in deltas for call in delta.tool_calls]

        assert deltas[-1].finish_reason == "tool_calls"
        assert calls
        assert {call.name for call in calls} <= set(names)
        for call in calls:
            if call.name == "weather":
                jsonschema.validate(json.loads(call.arguments), CITY)
        assert len({call.id for call in calls}) == len(calls)
        assert text(deltas).strip() == ""


def test_one_call_where_only_one_is_wanted(wild: Scheduler, preparer: Preparer) -> None:
    """Without parallel calls there is exactly one."""
    wanted = job(
        prompt=chat(WEATHER), must_call=("weather",), parallel_tool_calls=False, max_tokens=300
    )
    for deltas in answers(wild, preparer, [wanted] * 4):
        assert sum(len(delta.tool_calls) for delta in deltas) == 1
        assert deltas[-1].finish_reason == "tool_calls"


def test_call_that_is_cut_is_no_text(wild: Scheduler, preparer: Preparer) -> None:
    """Cut by the token limit before it has a name, a call is nothing yet, and the reason says so."""
    wanted = job(prompt=chat(WEATHER), must_call=("weather",), max_tokens=9)
    (deltas,) = answers(wild, preparer, [wanted])

    assert deltas[-1].finish_reason == "length"
    assert text(deltas) == ""
    assert not any(delta.tool_calls for delta in deltas)


def test_form_holds_beside_tools(wild: Scheduler, preparer: Preparer) -> None:
    """With tools and a form the answer is either calls or of that form."""
    jobs = [held("json_schema", json.dumps(CITY), prompt=chat(WEATHER))] * 6
    for deltas in answers(wild, preparer, jobs):
        calls = [call for delta in deltas for call in delta.tool_calls]
        if deltas[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text(deltas)), CITY)
        assert bool(calls) == (deltas[-1].finish_reason == "tool_calls")


def test_strict_tools_leave_text_free(scheduler: Scheduler, preparer: Preparer) -> None:
    """A model that doesn't call answers as it does without a grammar."""
    strict = Tool("weather", None, json.dumps(CITY), strict=True)
    wanted = job(prompt=chat(strict), max_tokens=24)
    free = job(prompt=chat(WEATHER), max_tokens=24)
    held_text, free_text = map(text, answers(scheduler, preparer, [wanted, free]))

    assert held_text == free_text


@pytest.mark.parametrize(
    ("kind", "source", "code", "word"),
    [
        ("json_schema", '{"not": {"type": "null"}}', "invalid_json_schema", "not"),
        ("json_schema", '{"type": "frob"}', "invalid_json_schema", "frob"),
        ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "invalid_json_schema", "look"),
        ("regex", "[", "invalid_grammar", "["),
        ("grammar", "start: missing", "invalid_grammar", "missing"),
        ("grammar", 'start: /a*/ start | "a"', "invalid_grammar", "empty"),
        ("grammar", 'start: A start | "b"\nA: "a"*', "invalid_grammar", "empty"),
    ],
)
def test_form_that_cannot_be_followed_is_refused(
    kind: Any, source: str, code: str, word: str, preparer: Preparer
) -> None:
    """The refusal says what in it, and which field asked for it."""
    with pytest.raises(RefusedPrompt) as caught:
        preparer.prepare(held(kind, source))

    assert (caught.value.param, caught.value.code) == ("response_format", code)
    assert word in caught.value.message


def test_compiled_forms_are_kept(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same schema again costs no compiling, and the masks of two answers do not share their places."""
    n_compiled = 0

    def counted(*args: Any, **options: Any) -> LLMatcher:
        nonlocal n_compiled
        n_compiled += 1
        return LLMatcher(*args, **options)

    monkeypatch.setattr(compile, "LLMatcher", counted)
    compiler = compile.GrammarCompiler(loaded.tokenizer, vocabulary)
    wanted = held("json_schema", json.dumps(CITY))
    first, second = (compiler.token_mask(wanted, is_thinking=False) for _ in "ab")
    assert first is not None
    assert second is not None
    first.advance(int(allowed_tokens([first], 1280)[0].argmax()))
    after, at_first = allowed_tokens([first, second], 1280)

    assert n_compiled == 1
    assert not (after == at_first).all()


def test_form_too_complex_to_follow_costs_one_row(scheduler: Scheduler, preparer: Preparer) -> None:
    """The grammar is given up amid the answer: that row fails, its neighbour goes on as ever."""
    vast = {"properties": {f"p{i}": {"type": "string", "maxLength": 10**6} for i in range(800)}}
    free = job(max_tokens=20)
    scheduler.add(1, preparer.prepare(free), free)
    alone = text(run(scheduler)[1])
    wanted = held("json_schema", json.dumps(vast | {"type": "object"}))
    scheduler.add(1, preparer.prepare(free), free)
    scheduler.add(2, preparer.prepare(wanted), wanted)
    broken: list[tuple[int, str]] = []
    said = ""
    while scheduler.tickets:
        output = scheduler.step()
        said += text([delta for delta in output.deltas if delta.ticket == 1])
        broken += [(each.ticket, each.param) for each in output.refusals]

    assert broken == [(2, "response_format")]
    assert said == alone


def test_objects_hold_what_they_name(wild: Scheduler, preparer: Preparer) -> None:
    """Nothing is invented beside named properties, unless the schema asks for it or composes them."""
    named: Any = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    composed: Any = {
        "allOf": [named, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
        "type": "object",
    }
    jobs = [
        held("json_schema", json.dumps(schema)) for schema in (named, named, composed, composed)
    ]
    for schema, deltas in zip(
        (named, named, composed, composed), answers(wild, preparer, jobs), strict=True
    ):
        if deltas[-1].finish_reason == "stop":
            found = json.loads(text(deltas))
            jsonschema.validate(found, schema)
            assert schema is composed or found.keys() == {"a"}


def test_grammars_are_off_unless_they_are_let_in(
    loaded: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Some would never let the engine go on; expressions, choices and schemas can't."""
    guarded = Preparer(loaded.tokenizer, loaded.card.context_length, vocabulary)
    guarded.prepare(held("regex", "a+"))
    with pytest.raises(RefusedPrompt) as caught:
        guarded.prepare(held("grammar", 'start: /a+/ "a"'))

    assert "ALLOW_GRAMMARS" in caught.value.message
