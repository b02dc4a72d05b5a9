"""
An engine without a model: it speaks the protocol, and fails where it is told to.

    python fake_engine.py WORD JOURNAL FD

FD is the number of its socket, as the supervisor appends it. JOURNAL is a file to which it adds one
line for its birth (`born PID`) and one for each message that it got, by name and ticket. WORD says how
this engine behaves as a process, see `BEHAVIOURS`. How it behaves towards one job, or a question about
tokens, is said by the prompt's text, see `JOBS`; a text that is in neither table is answered word by word.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from service.protocol import (
    Accepted,
    Budget,
    Cancel,
    Cancelled,
    Chat,
    Delta,
    Detokenize,
    Detokenized,
    Downloading,
    Embed,
    Embedded,
    Failed,
    FrameSplitter,
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    ModelCard,
    Prompt,
    Rejected,
    Score,
    Scored,
    Step,
    Submit,
    Text,
    ToEngine,
    Tokenize,
    Tokenized,
    WarmedUp,
    frame,
    to_engine_decoder,
)

CARD = ModelCard("fake/engine", "fake", "An engine without a model.", 4096, 1_700_000_000)
BUDGET = Budget(1_000_000, 8_000_000, 4096, 8192, 2)
REASON = "config.json cannot be read"
MEMORY_BYTES = 100_000_000


class Engine:
    """One life."""

    def __init__(self, word: str, journal: Path, connection: socket.socket) -> None:
        self.word = word
        self._journal = journal
        self._connection = connection
        self._splitter = FrameSplitter()
        self.n_turns = 0
        self.stuck_at: int | None = None
        self._sending = threading.Lock()
        self.note(f"born {os.getpid()}")

    def beat(self) -> None:
        """Tell of each turn; one of each is a prompt that was made and a step that was taken."""
        while True:
            is_stuck = self.stuck_at is not None
            n_texts = self.stuck_at if self.stuck_at is not None else self.n_turns
            self.send(Heartbeat(self.n_turns, n_texts, is_stuck, 0, False, MEMORY_BYTES))
            time.sleep(0.02)

    def note(self, line: str) -> None:
        """Add *line* to the journal."""
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def send(self, *messages: FromEngine) -> None:
        """Send *messages* in one piece; nothing happens if nobody listens any more."""
        self.send_raw(b"".join(map(frame, messages)))

    def send_raw(self, data: bytes) -> None:
        """Send bytes that need not be a message."""
        with self._sending:
            try:
                self._connection.sendall(data)
            except OSError:
                return

    def hang_up(self) -> None:
        """End the conversation, and live on for a while."""
        self._connection.shutdown(socket.SHUT_WR)
        time.sleep(60)

    def messages(self) -> Iterator[ToEngine]:
        """Yield what the other side says, until its end closes."""
        while True:
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            for body in self._splitter.feed(data):
                message = to_engine_decoder.decode(body)
                ticket = getattr(message, "ticket", "")
                self.note(f"{type(message).__name__} {ticket}".strip())
                yield message

    def live(self) -> None:
        """Load, warm up, and answer until the other side is gone."""
        inbound = self.messages()
        order = next(inbound, None)
        assert isinstance(order, Load)
        if self.word != "mute":
            threading.Thread(target=self.beat, daemon=True).start()
        BEHAVIOURS.get(self.word, loaded_and_warm)(self)
        for message in inbound:
            self.n_turns += 1
            match message:
                case Submit(ticket, job):
                    text = text_of(job.prompt)
                    JOBS.get(text, answer)(self, ticket, text)
                case Tokenize(ticket, prompt):
                    text = text_of(prompt)
                    JOBS.get(text, tokenize)(self, ticket, text)
                case Detokenize(ticket, ids):
                    self.send(Detokenized(ticket, bytes(ids).decode()))
                case Embed(ticket, inputs):
                    text = text_of(inputs[0])
                    JOBS.get(text, embed)(self, ticket, text)
                case Score(ticket, documents=documents):
                    scores = tuple(float(len(each)) for each in documents)
                    self.send(Accepted(ticket, 1), Scored(ticket, scores, 1))
                case Cancel(ticket):
                    self.send(Cancelled(ticket))


def text_of(prompt: Prompt) -> str:
    """Return the last turn of a chat, or the text; token ids are none."""
    match prompt:
        case Chat(turns):
            return turns[-1].content or ""
        case Text(text):
            return text
    return ""


def loaded_and_warm(engine: Engine) -> None:
    """Load and warm up at once."""
    engine.send(Loaded(CARD, BUDGET), WarmedUp())


def fail_to_load(engine: Engine) -> None:
    """Say why the model cannot be served, and end."""
    engine.send(LoadFailed(REASON))
    sys.exit(0)


def fail_to_reach_the_hub(engine: Engine) -> None:
    """Say that there is no model now, and end."""
    engine.send(LoadFailed(REASON, may_pass=True))
    sys.exit(0)


def exit_while_loading(engine: Engine) -> None:
    """End without a word."""
    os._exit(3)


def die_while_loading(engine: Engine) -> None:
    """End as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def load_for_ever(engine: Engine) -> None:
    """Never finish loading, but notice when the other side is gone."""
    for _ in engine.messages():
        pass


def die_warming(engine: Engine) -> None:
    """Load, then crash in warm-up."""
    engine.send(Loaded(CARD, BUDGET))
    os.kill(os.getpid(), signal.SIGKILL)


def fail_to_warm_up(engine: Engine) -> None:
    """Load, and say that warm-up failed."""
    engine.send(Loaded(CARD, BUDGET), WarmedUp("RuntimeError"))


def download(engine: Engine) -> None:
    """Download for a while, then load for ever."""
    engine.send(Downloading(False, 1_200_000_000, 2_400_000_000, 30_000_000))
    time.sleep(0.6)
    engine.send(Downloading(is_over=True))
    load_for_ever(engine)


def warm_up_for_ever(engine: Engine) -> None:
    """Load, and never say another word."""
    engine.send(Loaded(CARD, BUDGET))
    time.sleep(60)


def speak_nonsense(engine: Engine) -> None:
    """Send a frame that is no msgpack."""
    engine.send(Loaded(CARD, BUDGET), WarmedUp())
    engine.send_raw(struct.pack(">I", 3) + b"\xc1\xc1\xc1")


def speak_strangely(engine: Engine) -> None:
    """Send a frame that is msgpack and no message."""
    engine.send(Loaded(CARD, BUDGET), WarmedUp())
    engine.send_raw(struct.pack(">I", 5) + b"\x91\xa3Foo")


def speak_endlessly(engine: Engine) -> None:
    """Announce a frame that is over the limit."""
    engine.send(Loaded(CARD, BUDGET), WarmedUp())
    engine.send_raw(b"\xff\xff\xff\xff")


def speak_nonsense_and_hang(engine: Engine) -> None:
    """Send a frame that is no msgpack, and go on when the other side closes."""
    speak_nonsense(engine)
    time.sleep(60)


def ignore_the_end(engine: Engine) -> None:
    """Be ready, and go on when the other side is gone."""
    loaded_and_warm(engine)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def hang_up_loading(engine: Engine) -> None:
    """Say no more, before anything is loaded, and go on as a process."""
    engine.hang_up()


def hang_up_warming(engine: Engine) -> None:
    """Load, then say no more and go on as a process."""
    engine.send(Loaded(CARD, BUDGET))
    engine.hang_up()


def answer(engine: Engine, ticket: int, text: str) -> None:
    """Answer word by word, all in one piece."""
    words = text.split()
    engine.send(Accepted(ticket, len(words)))
    for i, word in enumerate(words, 1):
        last = i == len(words)
        engine.send(Step((Delta(ticket, word, i, "stop" if last else None),)))


def tokenize(engine: Engine, ticket: int, text: str) -> None:
    """Say that each byte is a token."""
    raw = text.encode()
    pieces = tuple(raw[i : i + 1] for i in range(len(raw)))
    engine.send(Tokenized(ticket, tuple(raw), pieces))


def embed(engine: Engine, ticket: int, text: str) -> None:
    """Say that its bytes are its vector."""
    engine.send(Accepted(ticket, 1), Embedded(ticket, (text.encode(),), 1))


def reject(engine: Engine, ticket: int, text: str) -> None:
    """Refuse the job."""
    overflow = (5000, CARD.context_length - 1)
    engine.send(Rejected(ticket, "Too long.", "messages", "context_length_exceeded", overflow))


def fail(engine: Engine, ticket: int, text: str) -> None:
    """Break on the job, after it had begun."""
    engine.send(Accepted(ticket, 1), Step((Delta(ticket, "x", 1),)), Failed(ticket))


def begin(engine: Engine, ticket: int, text: str) -> None:
    """Begin, and say no more."""
    engine.send(Accepted(ticket, 1), Step((Delta(ticket, "x", 1),)))


def stay_silent(engine: Engine, ticket: int, text: str) -> None:
    """Not even accept."""


def stick(engine: Engine, ticket: int, text: str) -> None:
    """Never be done with the text, and serve all others."""
    engine.stuck_at = engine.stuck_at or engine.n_turns


def hang(engine: Engine, ticket: int, text: str) -> None:
    """Accept, then stop listening."""
    engine.send(Accepted(ticket, 1))
    time.sleep(60)


def toil(engine: Engine, ticket: int, text: str) -> None:
    """Take long, step by step, then answer."""
    engine.send(Accepted(ticket, 1))
    for _ in range(20):
        time.sleep(0.05)
        engine.n_turns += 1
    engine.send(Step((Delta(ticket, "done", 1, "stop"),)))


def die(engine: Engine, ticket: int, text: str) -> None:
    """Crash after the first word."""
    engine.send(Accepted(ticket, 1), Step((Delta(ticket, "x", 1),)))
    os.kill(os.getpid(), signal.SIGKILL)


def hang_up(engine: Engine, ticket: int, text: str) -> None:
    """End the conversation after the first word, and live on."""
    begin(engine, ticket, text)
    engine.hang_up()


def babble(engine: Engine, ticket: int, text: str) -> None:
    """Say what is no message after the first word, and live on."""
    begin(engine, ticket, text)
    engine.send_raw(struct.pack(">I", 3) + b"\xc1\xc1\xc1")
    time.sleep(60)


def leave_an_heir(engine: Engine, ticket: int, text: str) -> None:
    """Crash after the first word, while a child of this process still holds the socket."""
    begin(engine, ticket, text)
    heir = os.fork()
    if not heir:
        time.sleep(60)
        os._exit(0)
    engine.note(f"heir {heir}")
    os.kill(os.getpid(), signal.SIGKILL)


BEHAVIOURS: dict[str, Callable[[Engine], None]] = {
    "normal": loaded_and_warm,
    "load-failed": fail_to_load,
    "load-failed-for-now": fail_to_reach_the_hub,
    "exits-while-loading": exit_while_loading,
    "dies-while-loading": die_while_loading,
    "slow-load": load_for_ever,
    "downloads": download,
    "dies-warming": die_warming,
    "warmup-fails": fail_to_warm_up,
    "warmup-hangs": warm_up_for_ever,
    "garbage-frame": speak_nonsense,
    "garbage-then-hangs": speak_nonsense_and_hang,
    "unknown-message": speak_strangely,
    "over-large-frame": speak_endlessly,
    "ignores-eof": ignore_the_end,
    "hangs-up-loading": hang_up_loading,
    "hangs-up-warming": hang_up_warming,
}
JOBS: dict[str, Callable[[Engine, int, str], None]] = {
    "REJECT": reject,
    "FAIL": fail,
    "BEGIN": begin,
    "SILENT": stay_silent,
    "HANG": hang,
    "STICK": stick,
    "TOIL": toil,
    "DIE": die,
    "HANG UP": hang_up,
    "BABBLE": babble,
    "HEIR": leave_an_heir,
}

if __name__ == "__main__":
    word, journal, fd = sys.argv[1:]
    Engine(word, Path(journal), socket.socket(fileno=int(fd))).live()
