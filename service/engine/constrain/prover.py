"""Has each grammar tried in a process of its own, before it may cost the engine anything."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys

import msgspec
from llguidance import LLTokenizer

from service.engine.constrain.prover_process import Vocabulary, read_frame, write_frame

COMMAND = (sys.executable, "-m", "service.engine.constrain.prover_process")
PATIENCE_S = 20.0  # taste: wall-clock time for a second's work, on the busiest of machines


class TooComplex(Exception):
    """A grammar took more time or memory than it may."""


class Prover:
    """
    Tries grammars, one at a time; the process is started when it is first needed. For one thread.

    Args:
        tokenizer: the model's own, in llguidance's form.
    """

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[bytes] | None = None

    def prove(self, grammar: str) -> None:
        """
        Return when *grammar* has been compiled elsewhere, within bounds.

        Raises:
            TooComplex: it could not be; the process is gone, and the next grammar gets another.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_frame(self._process.stdin, grammar.encode())
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
            is_proven = bool(ready) and read_frame(self._process.stdout) is not None
        except OSError:
            is_proven = False
        if not is_proven:
            self.close()
            raise TooComplex

    def close(self) -> None:
        """End the process, if there is one. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died at once, which its first grammar finds out
            write_frame(process.stdin, msgspec.msgpack.encode(_vocabulary(self._tokenizer)))
        return process


def _vocabulary(tokenizer: LLTokenizer) -> Vocabulary:
    ids = range(tokenizer.vocab_size)
    return Vocabulary(
        tuple(tokenizer.decode_bytes([i]) for i in ids),
        tuple(i for i in ids if tokenizer.is_special_token(i)),
        tuple(tokenizer.eos_tokens),
    )
