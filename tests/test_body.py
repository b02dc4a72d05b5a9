"""Bytes into JSON, strictly."""

import pytest

from service import contracts
from service.errors import InvalidRequest
from service.openai.body import MAX_DEPTH, MAX_TEXTS, decode


def refusal(raw: bytes) -> InvalidRequest:
    """Return the error that *raw* is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        decode(raw)
    return caught.value


def nested(depth: int) -> bytes:
    """Return an object that nests *depth* levels, itself included."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def nested_lists(depth: int) -> bytes:
    """Return an object that holds lists down to *depth* levels, itself included."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, null, true, "x"]}\r\n', {"a": [1, 2.5, None, True, "x"]}),
        (b'{"a": "\\u0000\xe2\x80\xa8\\ud83d\\ude00"}', {"a": "\0\u2028\U0001f600"}),
        (b'{"a": -9223372036854775808}', {"a": -(2**63)}),
        (b'{"a": 1e2}', {"a": 100.0}),
    ],
)
def test_body_when_good(raw: bytes, expected: object) -> None:
    """Strict JSON comes out as it is, a NUL in a text included."""
    assert expected == decode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"  \n", id="blank"),
        pytest.param(b'{"a": ', id="truncated"),
        pytest.param(b'{"a": "x', id="truncated text"),
        pytest.param(b"{} x", id="trailing junk"),
        pytest.param(b"{}{}", id="two bodies"),
        pytest.param(b"{}\0", id="trailing NUL"),
        pytest.param(b"\xef\xbb\xbf{}", id="BOM"),
        pytest.param("{}".encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": Infinity}', id="Infinity"),
        pytest.param(b'{"a": -Infinity}', id="-Infinity"),
        pytest.param(b'{"a": 1e999}', id="1e999"),
        pytest.param(b'{"a": -1e999}', id="-1e999"),
        pytest.param(b'{"a": ' + b"9" * 4301 + b"}", id="4301 digits"),
        pytest.param(b'{"a": -' + b"9" * 4301 + b"}", id="-4301 digits"),
        pytest.param(b'{"a": "\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"\xff": 1}', id="invalid UTF-8 in a key"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b'{"a": "\\ud800"}', id="lone high surrogate"),
        pytest.param(b'{"a": "\\udc00"}', id="lone low surrogate"),
        pytest.param(b'{"a": "\\udc00\\ud800"}', id="surrogates swapped"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b'{"a": 1,}', id="trailing comma"),
        pytest.param(b'{"a": 01}', id="leading zero"),
        pytest.param(b'{"a": "\n"}', id="raw line break"),
        pytest.param(b"--boundary\r\nContent-Disposition: form-data", id="a form"),
    ],
)
def test_body_when_not_strict_json(raw: bytes) -> None:
    """What is not strict JSON is refused as such, shortly, and with no field to blame."""
    error = refusal(raw)

    assert (400, "invalid_json", None) == (error.status, error.code, error.param)
    assert len(error.message) <= 200


@pytest.mark.parametrize("raw", [b"[]", b"[{}]", b'"x"', b"null", b"1", b"true"])
def test_body_when_not_an_object(raw: bytes) -> None:
    """JSON with anything but an object at its top is of the wrong type."""
    error = refusal(raw)

    assert (400, "invalid_type") == (error.status, error.code)


@pytest.mark.parametrize("raw", [nested(MAX_DEPTH), nested_lists(MAX_DEPTH)])
def test_body_when_as_deep_as_allowed(raw: bytes) -> None:
    """Sixty-four levels are fine."""
    assert ["a"] == list(decode(raw))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(nested(MAX_DEPTH + 1), id="one too many"),
        pytest.param(nested_lists(MAX_DEPTH + 1), id="one too many lists"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="100000 objects"),
        pytest.param(b"[" * 100_000, id="100000 open brackets"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100000 brackets"),
    ],
)
def test_body_when_nested_too_deep(raw: bytes) -> None:
    """One level more is refused by its own name, and a hundred thousand do no harm."""
    assert (400, "json_too_deep") == (refusal(raw).status, refusal(raw).code)


@pytest.mark.parametrize("field", ["seed", "max_tokens", "top_k"])
@pytest.mark.parametrize("digits", [20, 40, 4301])
def test_body_when_an_integer_is_huge(field: str, digits: int) -> None:
    """A number of twenty or more digits is refused, by the decoder or by the contract behind it."""
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"%s":-%s}' % (
        field.encode(),
        b"9" * digits,
    )

    with pytest.raises(InvalidRequest):
        contracts.check("chat-request", decode(raw))


def keys(n: int, ending: bytes = b"") -> bytes:
    """Return an object of *n* keys, each with *ending*."""
    return b"{%s}" % b",".join(b'"%d%s":1' % (i, ending) for i in range(n))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(keys(MAX_TEXTS + 1), id="keys"),
        pytest.param(keys(2 * MAX_TEXTS + 1, b"\\\\"), id="keys that end in backslashes"),
        pytest.param(b'{"a":[%s""]}' % (b'"",' * MAX_TEXTS), id="texts"),
        pytest.param(b'"' * (2 * MAX_TEXTS + 2), id="no JSON at all"),
    ],
)
def test_body_when_it_holds_too_much(raw: bytes) -> None:
    """A million keys would keep everybody waiting; they are counted before they are read."""
    assert (400, "json_too_large") == (refusal(raw).status, refusal(raw).code)


def test_body_when_it_holds_as_much_as_allowed() -> None:
    """So many keys are read, and quotes inside a text are no keys."""
    quotes = b'{"a":"%s"}' % (b'\\"' * 3 * MAX_TEXTS)

    assert MAX_TEXTS == len(decode(keys(MAX_TEXTS)))
    assert 3 * MAX_TEXTS == len(decode(quotes)["a"])


def test_message_never_repeats_the_body() -> None:
    """What was sent may be secret: the refusal tells the place at most."""
    for raw in (b's3cret {"a": 1}', b'{"s3cret": 1e999}', b'{"a": "s3cret\xff"}', b'{"a": s3cret}'):
        assert "s3cret" not in refusal(raw).message
