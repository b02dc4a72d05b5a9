"""A completion body into jobs, deltas into chunks or one completion; tokens and estimates."""

import json
from typing import Any

import pytest

from service import contracts
from service.errors import InvalidRequest, RequestTooLarge, UnsupportedParameter
from service.openai import tokens
from service.openai.completions import (
    DEFAULT_MAX_TOKENS,
    MAX_ANSWERS,
    NOT_IMPLEMENTED,
    CompletionAnswer,
    CompletionRequest,
    parse,
)
from service.openai.usage import Usage
from service.protocol import (
    Candidate,
    Chat,
    Constraint,
    Delta,
    Job,
    ModelCard,
    Prompt,
    Sampling,
    Spent,
    Text,
    Tokenized,
    TokenLogprob,
    Tokens,
    Turn,
)

CARD = ModelCard("org/m", "gemma", "A model.", 100, 1)
HELLO: dict[str, Any] = {"model": "m", "prompt": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def parsed(**change: Any) -> CompletionRequest:
    """Check a request that differs in *change* as the service does, then parse it."""
    body = HELLO | change
    contracts.check("completion-request", body)
    return parse(body)


def job(**change: Any) -> Job:
    """Return the only job of a request."""
    (found,) = parsed(**change).jobs
    return found


def refusal(**change: Any) -> InvalidRequest:
    """Return the error that a request is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        parsed(**change)
    return caught.value


def test_plain_request() -> None:
    """One text brings one answer of at most 16 tokens, drawn as the model's own files say."""
    expected = Job(Text("Hi"), max_tokens=DEFAULT_MAX_TOKENS)

    assert CompletionRequest((expected,), 1, 0, is_stream=False, include_usage=False) == parsed()


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("", [Text("")]),
        (["a"], [Text("a")]),
        (["a", "", "a"], [Text("a"), Text(""), Text("a")]),
        ([1, 2], [Tokens((1, 2))]),
        ([1.0], [Tokens((1,))]),
        ([[1, 2]], [Tokens((1, 2))]),
        ([[1], [2, 3]], [Tokens((1,)), Tokens((2, 3))]),
    ],
)
def test_prompt_in_each_form(given: Any, prompts: list[Prompt]) -> None:
    """A text, token ids, or a list of either, in its order."""
    assert prompts == [each.prompt for each in parsed(prompt=given).jobs]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (7, "prompt"),
        (None, "prompt"),
        ([], "prompt"),
        ([[]], "prompt.0"),
        ([True], "prompt.0"),
        ([[3, False]], "prompt.0.1"),
        ([-1], "prompt.0"),
        ([2**31], "prompt.0"),
        ([10**30], "prompt.0"),
        ([1.5], "prompt.0"),
        ([1, "a"], "prompt.1"),
        (["a"] * 17, "prompt"),
    ],
)
def test_prompt_when_it_can_be_none(given: Any, param: str) -> None:
    """What is no text and no token id is named by its place."""
    assert param == refusal(prompt=given).param


def test_rule_of_another_schema_is_told() -> None:
    """What completions share with chats is written once, and a mistake in it explained all the same."""
    with pytest.raises(InvalidRequest) as caught:
        contracts.check("estimate-request", CHAT | {"messages": [{"content": "Hi"}]})

    assert "temperature breaks the rule: maximum 2." == refusal(temperature=3).message
    assert "messages.0.role is required." == caught.value.message


def test_answers_to_the_same_prompt_stand_side_by_side() -> None:
    """Two prompts with two answers each are four jobs; a seed is another one for each answer."""
    asked = parsed(prompt=["a", "b"], n=2, seed=5)

    assert 2 == asked.n
    assert [("a", 5), ("a", 6), ("b", 5), ("b", 6)] == [
        (each.prompt.text, each.sampling.seed) for each in asked.jobs if isinstance(each.prompt, Text)
    ]  # fmt: skip


def test_answers_when_too_many() -> None:
    """Each list and each n may be all right, and both together too much."""
    assert MAX_ANSWERS == len(parsed(prompt=["a"] * 2, n=8).jobs)
    assert "n" == refusal(prompt=["a"] * 3, n=8).param


def test_every_wish_reaches_the_job() -> None:
    """What chats can ask for, completions can, but for tools."""
    expected = Job(
        Text("Hi"),
        Sampling(0.5, 0.9, 40, 0.1, 3, 1.0, -1.0, 1.1, ((5, -100),)),
        max_tokens=7,
        stop=("x", "y"),
        ignore_eos=True,
        top_logprobs=5,
        constraint=Constraint("regex", "a+", "guided_regex"),
        echo=True,
    )
    found = job(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=3,
        frequency_penalty=1,
        presence_penalty=-1,
        repetition_penalty=1.1,
        logit_bias={"5": -100},
        max_tokens=7,
        stop=["x", "y"],
        ignore_eos=True,
        logprobs=5,
        guided_regex="a+",
        echo=True,
    )

    assert expected == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_of", 1),
        ("best_of", None),
        ("echo", False),
        ("logprobs", None),
        ("max_tokens", None),
        ("max_tokens", 16),
        ("n", 1),
        ("priority", 0),
        ("stream", False),
        ("suffix", ""),
        ("suffix", None),
        ("user", "ann"),
        ("x_unknown", {"deep": [1]}),
    ],
)
def test_field_when_it_changes_nothing(field: str, value: object) -> None:
    """A value that is the default in other words passes, as does what nobody documented."""
    assert parsed() == parsed(**{field: value})


@pytest.mark.parametrize("change", [{"suffix": "x"}, {"best_of": 2}, {"best_of": 2, "n": 3}])
def test_field_when_it_is_not_implemented(change: dict[str, Any]) -> None:
    """A documented field that would change the answer is refused by its name."""
    with pytest.raises(UnsupportedParameter) as caught:
        parsed(**change)

    assert next(iter(change)) == caught.value.param


def test_best_of_when_all_of_them_are_wanted() -> None:
    """As many as are given is a choice among all: none."""
    assert parsed(n=2) == parsed(n=2, best_of=2)


def test_harmless_values_pass_as_listed() -> None:
    """Each value in the table of harmless ones is let through by the code that reads it."""
    for field, values in NOT_IMPLEMENTED.items():
        for value in values:
            assert parsed() == parsed(**{field: value})


def test_no_token_is_wanted_with_an_echo_alone() -> None:
    """To generate nothing makes sense where there is a prompt to score."""
    assert 0 == job(max_tokens=0, echo=True, logprobs=0).max_tokens
    assert "max_tokens" == refusal(max_tokens=0).param


SPENT = Spent(2, 0.5, 0.25, 1.0)


def token(text: str | bytes, logprob: float | None = -1.0, *top: tuple[str, float]) -> TokenLogprob:
    """Return a token and the likeliest ones in its place."""
    piece = text.encode() if isinstance(text, str) else text
    likeliest = tuple(Candidate(i, each.encode(), value) for i, (each, value) in enumerate(top))
    return TokenLogprob(Candidate(9, piece, logprob), likeliest)


def answer(n_answers: int = 1, **how: Any) -> CompletionAnswer:
    """Return an answer, nothing of it said yet."""
    return CompletionAnswer("org/m", Usage(7, n_answers, 0.25), **how)


def checked(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return *body*, which keeps the contract called *name*, as it arrives."""
    found: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
    contracts.check(name, found)
    return found


def test_completion_keeps_its_contract() -> None:
    """Choices in the jobs' order, each with its text and reason; prompts and answers are counted."""
    deltas = [Delta(1, "He", 1), Delta(1, "llo\u2028", 2), Delta(1, "", 3, "stop", spent=SPENT)]
    other = [Delta(2, "Oh", 1, "length", spent=SPENT)]
    body = checked("completion", answer(2).completion([deltas, other]))

    assert [(0, "Hello\u2028", "stop", None), (1, "Oh", "length", None)] == [
        (each["index"], each["text"], each["finish_reason"], each["logprobs"])
        for each in body["choices"]
    ]
    assert (7, 4, 11) == tuple(
        body["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    assert {"queue_s": 0.75, "prefill_s": 0.25, "decode_s": 1.0} == body["timings"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_chunks_keep_their_contract(include_usage: bool) -> None:
    """Pieces of each choice under its index; the counts come in a chunk of their own, if at all."""
    said = answer(2, include_usage=include_usage)
    deltas = [(0, Delta(1, "a", 1)), (1, Delta(2, "b", 1, "stop")), (0, Delta(1, "", 2, "length"))]
    chunks = [said.chunk(i, delta) for i, delta in deltas]
    if include_usage:
        chunks.append(said.closing())
    chunks = [checked("completion-chunk", chunk) for chunk in chunks]

    assert [(0, "a", None), (1, "b", "stop"), (0, "", "length")] == [
        (choice["index"], choice["text"], choice["finish_reason"])
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    assert 1 == len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks})
    assert [i == len(chunks) - 1 for i in range(len(chunks))] == ["timings" in c for c in chunks]
    if include_usage:
        assert [None] * 3 == [chunk["usage"] for chunk in chunks[:-1]]
        assert 10 == chunks[-1]["usage"]["total_tokens"]
    else:
        assert not any("usage" in chunk for chunk in chunks)


def test_logprobs_in_the_older_form() -> None:
    """Four lists; the chosen token stands among the likeliest, which may be one more than asked for."""
    first = token("He", None)
    second = token("llo", -2.0, ("y", -0.5))
    third = token("!", -0.25, ("!", -0.25))
    said = answer(with_logprobs=True)
    deltas = [
        Delta(1, "Hello", 0, logprobs=(first, second)),
        Delta(1, "!", 1, "length", logprobs=(third,)),
    ]
    (choice,) = checked("completion", said.completion([deltas]))["choices"]
    expected = {
        "tokens": ["He", "llo", "!"],
        "token_logprobs": [None, -2.0, -0.25],
        "top_logprobs": [None, {"y": -0.5, "llo": -2.0}, {"!": -0.25}],
        "text_offset": [0, 2, 5],
    }

    assert expected == choice["logprobs"]


def test_logprobs_in_chunks_go_on_where_the_last_ended() -> None:
    """Offsets are places in the whole text of a choice, each choice by itself."""
    said = answer(2, with_logprobs=True)
    chunks = [
        said.chunk(0, Delta(1, "He", 1, logprobs=(token("He"),))),
        said.chunk(1, Delta(2, "Oh", 1, logprobs=(token("Oh"),))),
        said.chunk(0, Delta(1, "llo", 2, "stop", logprobs=(token("llo"),))),
    ]

    assert [[0], [0], [2]] == [
        checked("completion-chunk", chunk)["choices"][0]["logprobs"]["text_offset"]
        for chunk in chunks
    ]


@pytest.mark.parametrize(
    ("pieces", "text", "offsets"),
    [
        (["a", "\u00e9", "\U0001d11e", "b"], "a\u00e9\U0001d11eb", [0, 1, 2, 3]),
        ([b"a", b"\xe2", b"\x80", b"\xa6", b"b"], "a\u2026b", [0, 1, 1, 1, 2]),
        ([b"a", b"\xe2", b"b"], "a\ufffdb", [0, 1, 2]),
        (["<bos>", "Hi", " you"], "Hi you", [0, 0, 2]),
        (["<bos>", "Hi"], "<bos>Hi", [0, 5]),
        (["Hi", "<eos>"], "Hi", [0, 2]),
        (["a", "<eos>", "b", "<eos>", "c"], "abc", [0, 1, 1, 2, 2]),
        ([" Hi", " you"], "Hi you", [0, 2]),
        (["<bos>", " Hi", " you"], "Hi you", [0, 0, 2]),
        (["Hi", " yo"], "Hi y", [0, 2]),
    ],
)
def test_offsets_follow_the_text(pieces: list[str | bytes], text: str, offsets: list[int]) -> None:
    """Characters are counted, not bytes, and a token that the text leaves out takes no room in it."""
    said = answer(with_logprobs=True)
    (choice,) = said.completion([[Delta(1, text, 1, "stop", logprobs=tuple(map(token, pieces)))]])[
        "choices"
    ]

    assert offsets == choice["logprobs"]["text_offset"]


def test_pieces_of_characters_stay_apart() -> None:
    """Tokens that are no whole character are spelled so that each is another one, as OpenAI does."""
    one = TokenLogprob(Candidate(1, b"\xe2\x80", -1.0), (Candidate(2, b"\xe2", -0.5),))
    said = answer(with_logprobs=True)
    (choice,) = said.completion([[Delta(1, "", 1, "length", logprobs=(one,))]])["choices"]

    assert ["bytes:\\xe2\\x80"] == choice["logprobs"]["tokens"]
    assert [{"bytes:\\xe2": -0.5, "bytes:\\xe2\\x80": -1.0}] == choice["logprobs"]["top_logprobs"]


def test_likeliest_of_two_with_the_same_text_is_kept() -> None:
    """Who asks whether the chosen token was the likeliest must not be told so by mistake."""
    one = token("a", -3.0, ("a", -0.5))
    said = answer(with_logprobs=True)
    (choice,) = said.completion([[Delta(1, "a", 1, "length", logprobs=(one,))]])["choices"]

    assert [-3.0] == choice["logprobs"]["token_logprobs"]
    assert [{"a": -0.5}] == choice["logprobs"]["top_logprobs"]


def test_prompt_to_tokenize() -> None:
    """A text as it stands, or a chat as its endpoint would read it."""
    assert Text("Hi") == tokens.prompt(HELLO | {"add_special_tokens": True}, CARD)
    assert Chat((Turn("user", "Hi"),)) == tokens.prompt(
        CHAT | {"add_generation_prompt": True, "add_special_tokens": False}, CARD
    )
    assert Chat((Turn("user", "Hi"),), add_generation_prompt=False) == tokens.prompt(
        CHAT | {"add_generation_prompt": False}, CARD
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (HELLO | {"add_special_tokens": False}, "add_special_tokens"),
        (CHAT | {"add_special_tokens": True}, "add_special_tokens"),
        (CHAT | {"chat_template": "{{ 1 }}"}, "chat_template"),
        (CHAT | HELLO, "prompt"),
    ],
)
def test_prompt_to_tokenize_when_it_would_be_another(body: dict[str, Any], param: str) -> None:
    """What would change the tokens and is not built is refused by its name."""
    with pytest.raises(InvalidRequest) as caught:
        tokens.prompt(body, CARD)

    assert param == caught.value.param


def test_prompt_when_far_too_large() -> None:
    """A text that would keep the tokenizer busy for seconds is refused; token ids need none."""
    huge = "x" * (tokens.MAX_BYTES + 1)
    messages = {"messages": [{"role": "user", "content": huge}]}
    with pytest.raises(RequestTooLarge) as text:
        tokens.check_size(tokens.prompt(HELLO | {"prompt": huge}, CARD), CARD)
    with pytest.raises(RequestTooLarge) as chat:
        tokens.check_size(tokens.planned(CHAT | messages, CARD)[0].prompt, CARD)
    large = ModelCard("org/m", "gemma", "A model.", 2 * tokens.MAX_BYTES, 1)

    assert ("prompt", "messages") == (text.value.param, chat.value.param)
    tokens.check_size(Text(huge), large)
    tokens.check_size(Tokens((2**31 - 1,) * 300_000), CARD)


def test_token_bodies_keep_their_contracts() -> None:
    """Ids with and without their texts, and a text."""
    found = Tokenized(1, (5, 6), (b"a", b"\xe2"))
    plain = checked("token-list", tokens.token_list(CARD, found, with_texts=False))
    told = checked("token-list", tokens.token_list(CARD, found, with_texts=True))

    assert ([5, 6], 2, 100, None) == (
        plain["tokens"], plain["count"], plain["max_model_len"], plain["token_strs"],
    )  # fmt: skip
    assert ["a", "\ufffd"] == told["token_strs"]
    assert "Hi" == checked("token-text", tokens.token_text(CARD, "Hi"))["prompt"]


@pytest.mark.parametrize(
    ("max_tokens", "lengths", "most", "fits"),
    [
        (None, [99], 1, True),
        (None, [100], 0, False),
        (None, [101], 0, False),
        (10, [90], 10, True),
        (10, [91], 10, False),
        (0, [100], 0, True),
        (0, [101], 0, False),
        (16, [84, 10], 16, True),
        (16, [10, 85], 16, False),
    ],
)
def test_estimate(max_tokens: int | None, lengths: list[int], most: int, fits: bool) -> None:
    """Of 100 tokens each prompt must leave room for what is wanted, one at least."""
    body = checked("estimate", tokens.estimate(CARD, max_tokens, lengths))

    assert (sum(lengths), most, 100, fits) == (
        body["prompt_tokens"],
        body["max_completion_tokens"],
        body["context_length"],
        body["fits"],
    )


def test_planned_prompts() -> None:
    """Each prompt once, however many answers it gets."""
    found = tokens.planned(HELLO | {"prompt": ["a", "b"], "n": 3}, CARD)
    (chat,) = tokens.planned(CHAT | {"n": 3, "max_tokens": 5}, CARD)

    assert [Text("a"), Text("b")] == [each.prompt for each in found]
    assert 5 == chat.max_tokens
