"""What the suite sends and reads, apart from any check."""

import errno
import os

import pytest

from conformance import client, sse
from conformance.answers import GREETING
from conformance.client import CHAT, Exchange, Journal, NoAnswer, Server, chat_body
from conformance.contracts import breach, texts_under
from conformance.reports.document import curl


def server() -> Server:
    """Return a client that never connects."""
    return Server("http://localhost:1", timeout_s=1, journal=Journal(), api_key="s3cret")


def test_key_is_sent_and_never_shown() -> None:
    """The API key travels, and stands in no message."""
    request = server().request("GET", "/health")

    assert b"Authorization: Bearer s3cret\r\n" in request.to_bytes()
    assert str(request) == "GET /health | Authorization: <redacted>"


def test_curl_line_repeats_the_request() -> None:
    """It is what a person would type: the key from the environment, all else as it was sent."""
    asked = server()
    health = asked.request("HEAD", "/health")
    post = asked.request("POST", "/v1/x", [("X-Request-ID", b"a\x1b'b")], b'{"max_tokens": 1}')

    assert curl(health, "http://h:1") == (
        'curl -sS -i --path-as-is --head -H "Authorization: Bearer $TIER3A_API_KEY" http://h:1/health'
    )
    assert curl(post, "http://h:1") == (
        'curl -sS -i --path-as-is -H "Authorization: Bearer $TIER3A_API_KEY" '
        "-H $'X-Request-ID: a\\x1b\\x27b' -H 'Content-Type:' --data-raw '{\"max_tokens\": 1}' "
        "http://h:1/v1/x"
    )


class HungUp:
    """A socket whose other end hung up: one call of it tells, by an error or by the end of all."""

    def __init__(self, call: str, number: int) -> None:
        self._call = call
        self._number = number

    def settimeout(self, timeout_s: float) -> None:
        """Be as patient as you like."""

    def close(self) -> None:
        """Have nothing to close."""

    def sendall(self, _data: bytes) -> None:
        """Write into the void, or be told."""
        self._tell("send")

    def recv(self, _size: int) -> bytes:
        """Be told, or read the end."""
        self._tell("receive")
        return b""

    def _tell(self, call: str) -> None:
        if call == self._call:
            raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("connect", errno.ECONNRESET),
        ("send", errno.EPIPE),
        ("send", errno.ECONNRESET),
        ("receive", errno.ECONNRESET),
        ("receive", errno.ECONNABORTED),
        ("nothing", 0),
    ],
)
def test_server_that_hangs_up_is_told_in_the_same_words(
    call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which call finds out is chance; what is said of it is not."""

    def connect(*_: object) -> HungUp:
        if call == "connect":
            raise OSError(number, os.strerror(number))
        return HungUp(call, number)

    monkeypatch.setattr(client, "_connect", connect)

    with pytest.raises(NoAnswer, match=r"^connection closed without a response$"):
        server().get("/health")


def test_events_are_read_as_the_standard_says() -> None:
    """Comments, other fields and unfinished events are no data; data lines are joined."""
    body = b": ping\n\ndata: one\r\n\r\nevent: x\ndata:two\ndata: lines \xe2\x80\xa8\n\ndata: cut\n"

    assert sse.data_of(body) == ["one", "two\nlines \u2028"]
    assert [event.name for event in sse.events_of(body)] == ["", "x"]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gemma"},
        {"model": "gemma", "max_tokens": 64, "temperature": 0},
        {"model": "gemma", "stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_requests_of_the_suite_keep_the_contract(fields: dict[str, object]) -> None:
    """What the suite sends as good is good by the contract that servers read."""
    assert breach("chat-request", chat_body(GREETING, **fields)) == ""


def answered(target: str, body: bytes, media_type: str = "application/json") -> Exchange:
    """Return an exchange that was never made."""
    request = server().request("GET", target)
    headers = (("Content-Type", media_type.encode()),)
    return Exchange(request, 200, headers, body, "http://localhost:1", 0, 0, 0)


def test_stream_falls_under_two_contracts() -> None:
    """Its chunks are held against one, an error in it against the other, its end against none."""
    body = b'data: {"id": 1}\n\ndata: {"error": {}}\n\ndata: [DONE]\n\n'
    stream = answered(CHAT, body, "text/event-stream")

    assert texts_under("chat-completion-chunk", stream) == ['{"id": 1}']
    assert texts_under("error", stream) == ['{"error": {}}']
    assert texts_under("chat-completion", stream) == []


@pytest.mark.parametrize(
    ("target", "contract"),
    [
        ("/health", "health"),
        ("/v1/models", "model-list"),
        ("/v1/models/a/b", "model"),
        (CHAT, "chat-completion"),
    ],
)
def test_answer_falls_under_one_contract(target: str, contract: str) -> None:
    """Its route says which, whatever comes before that or after it."""
    answer = answered(f"/prefix{target}?a=b", b"{}")

    assert texts_under(contract, answer) == [b"{}"]
    assert texts_under("error", answer) == []
