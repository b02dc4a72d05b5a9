"""Messages survive the wire, and frames survive whatever the socket makes of them."""

import random
import struct
from typing import get_args

import msgspec
import pytest

from service import protocol
from service.protocol import (
    Accepted,
    Budget,
    CacheFault,
    Cancel,
    Cancelled,
    Candidate,
    Chat,
    Constraint,
    Delta,
    Detokenize,
    Detokenized,
    Downloading,
    Embed,
    Embedded,
    Failed,
    Figures,
    FrameSplitter,
    FromEngine,
    Generation,
    Heartbeat,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Message,
    ModelCard,
    Rejected,
    Sampling,
    Score,
    Scored,
    Spent,
    Step,
    Submit,
    Text,
    ToEngine,
    Tokenize,
    Tokenized,
    TokenLogprob,
    Tokens,
    Tool,
    ToolCall,
    Turn,
    WarmedUp,
    frame,
    from_engine_decoder,
    to_engine_decoder,
)

FULL_CHAT = Chat(
    turns=(
        Turn("system", "Be short."),
        Turn("user", "line\u2028\x00 \U0001f600", name="ann"),
        Turn("assistant", None, tool_calls=(ToolCall("c1", "add", '{"a": 1}'),)),
        Turn("tool", "3", tool_call_id="c1"),
    ),
    tools=(Tool("now"), Tool("add", "Adds.", '{"type": "object"}', strict=True)),
    thinking=False,
    template_options='{"x": [1, null]}',
)
FULL_JOB = Job(
    prompt=FULL_CHAT,
    sampling=Sampling(
        temperature=0.0, top_p=1.0, top_k=0, min_p=0.5, seed=2**63 - 1, frequency_penalty=-2.0,
        presence_penalty=0.5, repetition_penalty=1.1, logit_bias=((5, -100.0), (2**33, 0.5)),
    ),
    max_tokens=7,
    stop=("\n", "END"),
    ignore_eos=True,
    top_logprobs=20,
    constraint=Constraint("regex", "[0-9]+", "guided_regex"),
    must_call=("add",),
    parallel_tool_calls=False,
    echo=True,
)  # fmt: skip
FULL_DELTA = Delta(
    ticket=4,
    text="a",
    n_completion_tokens=9,
    finish_reason="tool_calls",
    reasoning="hm",
    n_reasoning_tokens=2,
    tool_calls=(ToolCall("c1", "add", "{}"),),
    logprobs=(
        TokenLogprob(
            Candidate(5, b"a", -0.5), (Candidate(5, b"a", -0.5), Candidate(6, b"\xff", -1.0))
        ),
        TokenLogprob(Candidate(7, b"", None), ()),
    ),
    spent=Spent(3, 0.1, 0.25, 1.5),
)
CARD = ModelCard("a/b", "gemma", "A model.", 8192, 1_700_000_000, 4, True, True, False)

TO_ENGINE: list[ToEngine] = [
    Load(None, None, 8, True, "INFO"),
    Load("org/model", 4096, 1, False, "DEBUG"),
    Load(None, None, 8, True, "INFO", kv_bits=8, max_kv_size=4096),
    Load(None, None, 8, True, "INFO", num_draft_tokens=8, draft_model="org/draft"),
    Load(None, None, 8, True, "INFO", adapter_path="org/adapter", trust_remote_code=True),
    Submit(1, Job(Chat((Turn("user", ""),)))),
    Submit(2, Job(Text("Once\x00"), max_tokens=0)),
    Submit(3, Job(Tokens((0, 1, 2**31)))),
    Submit(2**40, FULL_JOB),
    Cancel(3),
    Tokenize(5, FULL_CHAT),
    Tokenize(5, Text("")),
    Detokenize(6, (5, 7)),
    Detokenize(6, ()),
    Embed(7, (Text("a"), Tokens((5,))), "query", 64),
    Score(8, ("a",), ("b", ""), ("query", "documents")),
]
FROM_ENGINE: list[FromEngine] = [
    Loaded(CARD, Budget(1, 2, 3, 4, 5)),
    LoadFailed("no config.json"),
    WarmedUp(),
    WarmedUp("RuntimeError"),
    WarmedUp(None, ("it answers one request at a time",)),
    Accepted(1, 12),
    Rejected(2, "too long", "messages", "context_length_exceeded", (9, 8)),
    Rejected(2, "no", None, "invalid_value"),
    Cancelled(3),
    Failed(3),
    Failed(3, is_numerical=True),
    Heartbeat(1, 2, True, 3, False, 4),
    Heartbeat(1, 2, True, 3, False, 4, Figures(5, 6, 7, (0, 1), 0.5)),
    Heartbeat(1, 2, True, 3, False, 4, Figures(5, 6, 7, (0, 1), 0.5, Generation(*range(10)))),
    Downloading(False),
    CacheFault("no space left on device"),
    Step(()),
    Step((Delta(1, "a", 1), Delta(2, "", 9, "length"), Delta(3, "\n\ndata:", 2, "stop"))),
    Step((FULL_DELTA,)),
    Tokenized(5, (5, 7), (b"a", b"\xff")),
    Detokenized(6, "a\ufffd"),
    Embedded(7, (b"\x00\xff", b""), 3),
    Scored(8, (0.5, -1.0), 4),
]


def bodies(splitter: FrameSplitter, data: bytes) -> list[bytes]:
    """Feed *data* and return the frames that became complete."""
    return list(splitter.feed(data))


def test_every_message_type_is_tested() -> None:
    """The two lists above leave no message type out, and neither union does."""
    defined = {
        kind
        for kind in vars(protocol).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
    }

    assert set(get_args(ToEngine)) | set(get_args(FromEngine)) == defined
    assert set(get_args(ToEngine)) == {type(message) for message in TO_ENGINE}
    assert set(get_args(FromEngine)) == {type(message) for message in FROM_ENGINE}


@pytest.mark.parametrize("message", TO_ENGINE, ids=repr)
def test_message_to_the_engine_comes_back_equal(message: ToEngine) -> None:
    """What the engine decodes is what the API process sent."""
    (body,) = bodies(FrameSplitter(), frame(message))

    assert message == to_engine_decoder.decode(body)


@pytest.mark.parametrize("message", FROM_ENGINE, ids=repr)
def test_message_from_the_engine_comes_back_equal(message: FromEngine) -> None:
    """What the API process decodes is what the engine sent."""
    (body,) = bodies(FrameSplitter(), frame(message))

    assert message == from_engine_decoder.decode(body)


def test_message_in_the_wrong_direction() -> None:
    """Neither side takes its own words from the other."""
    with pytest.raises(msgspec.ValidationError):
        to_engine_decoder.decode(frame(Failed(1))[4:])
    with pytest.raises(msgspec.ValidationError):
        from_engine_decoder.decode(frame(Cancel(1))[4:])


def test_finish_reason_when_unknown() -> None:
    """Only the finish reasons of the protocol decode."""
    raw = msgspec.msgpack.encode(["Step", [[1, "x", 1, "error"]]])

    with pytest.raises(msgspec.ValidationError):
        from_engine_decoder.decode(raw)


def test_frame_has_its_length_ahead() -> None:
    """Four big-endian bytes tell the length of what follows."""
    data = frame(Cancel(3))

    assert struct.pack(">I", len(data) - 4) == data[:4]


def test_frames_when_fed_byte_by_byte() -> None:
    """Each frame appears with its last byte and not before."""
    stream = b"".join(frame(message) for message in FROM_ENGINE)
    splitter, found, ends, position = FrameSplitter(), [], [], 0
    for message in FROM_ENGINE:
        position += len(frame(message))
        ends.append(position)
    for i in range(len(stream)):
        for body in splitter.feed(stream[i : i + 1]):
            found.append((i + 1, from_engine_decoder.decode(body)))

    assert list(zip(ends, FROM_ENGINE, strict=True)) == found


def test_frames_when_many_come_at_once() -> None:
    """One read may hold many frames and the beginning of the next."""
    data = b"".join(frame(message) for message in TO_ENGINE)
    splitter = FrameSplitter()

    first = [to_engine_decoder.decode(body) for body in splitter.feed(data + data[:3])]
    rest = [to_engine_decoder.decode(body) for body in splitter.feed(data[3:])]

    assert [TO_ENGINE, TO_ENGINE] == [first, rest]


@pytest.mark.parametrize("seed", range(5))
def test_frames_when_chopped_at_random(seed: int) -> None:
    """However the stream is cut, the same frames come out in the same order."""
    chance = random.Random(seed)
    stream = b"".join(frame(message) for message in FROM_ENGINE * 5)
    splitter, found = FrameSplitter(), []
    while stream:
        size = chance.choice((0, 1, 2, 3, 5, 17, 64))
        found += [from_engine_decoder.decode(body) for body in splitter.feed(stream[:size])]
        stream = stream[size:]

    assert FROM_ENGINE * 5 == found


def test_frame_when_empty() -> None:
    """A frame of no bytes is a frame; that it is no message is for the decoder to say."""
    assert [b"", b"x"] == bodies(FrameSplitter(), b"\0\0\0\0" + b"\0\0\0\1x")


def test_frame_when_over_the_limit() -> None:
    """A claimed length over the limit is refused from its four bytes alone."""
    too_long = struct.pack(">I", protocol.MAX_FRAME_BYTES + 1)

    with pytest.raises(ValueError, match="frame of"):
        bodies(FrameSplitter(), too_long)


def test_frame_when_at_the_limit() -> None:
    """The longest frame allowed is waited for."""
    assert [] == bodies(FrameSplitter(), struct.pack(">I", protocol.MAX_FRAME_BYTES))
