"""
The process in which grammars are tried first: `python -m service.engine.constrain.prover_process`.

It reads frames from its standard input, the vocabulary first and then one grammar after the other, and
says of each how that went. Over a grammar that takes too long or too much memory the system ends the
process, whatever llguidance is at; nobody has to watch it, and nothing of it is left where the engine is
gone.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import struct
import sys
from typing import IO

import llguidance
import msgspec
from llguidance import LLMatcher, LLTokenizer

CPU_S = 0.5  # taste: llguidance itself goes on for up to a second, which the next grammar would wait for
MEMORY_BYTES = 1 << 30  # taste; beside what it has when it is ready


class Vocabulary(msgspec.Struct, frozen=True, array_like=True):
    """
    A model's tokens, as llguidance asks for them.

    Attributes:
        pieces: the text of each as bytes.
        specials: ids of those that are no text.
        ends: ids of those that end a turn, at least one.
    """

    pieces: tuple[bytes, ...]
    specials: tuple[int, ...]
    ends: tuple[int, ...]


class _Tokenizer:
    """Tells the tokens; which of them a text becomes doesn't matter to what a grammar costs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.ends[0]
        self.bos_token_id = None
        self.tokens = vocabulary.pieces
        self.special_token_ids = vocabulary.specials
        self._ids = {piece: i for i, piece in reversed([*enumerate(vocabulary.pieces)])}

    def __call__(self, text: bytes) -> list[int]:
        """Return one token for each byte that is one."""
        return [self._ids[byte] for byte in (bytes([b]) for b in text) if byte in self._ids]


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """Write *body* behind its length."""
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return the next body; None: the other end is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (n_bytes,) = struct.unpack(">I", head)
    body = stream.read(n_bytes)
    return body if len(body) == n_bytes else None


def main() -> None:
    """Try grammars until there are no more."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    first = read_frame(sys.stdin.buffer)
    if first is None:
        return
    vocabulary = msgspec.msgpack.decode(first, type=Vocabulary)
    tokenizer = LLTokenizer(
        llguidance.TokenizerWrapper(_Tokenizer(vocabulary)),
        n_vocab=len(vocabulary.pieces),
        eos_token=list(vocabulary.ends),
    )
    _limit_memory()
    while (grammar := read_frame(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        _try(tokenizer, grammar.decode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(sys.stdout.buffer, b"")


def _try(tokenizer: LLTokenizer, grammar: str) -> None:
    """Compile *grammar* and look at its first token; whether it is right is the engine's own question."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()


def _limit_memory() -> None:
    """Bound what this process holds, where the system does that at all; a Mac does not."""
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MEMORY_BYTES
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main()
