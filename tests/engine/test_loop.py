"""`service.engine.loop`, over a socket pair."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest

from service.catalog.card import EMBEDDED_FOLDER
from service.engine import loop, start
from service.engine.channel import Channel
from service.engine.scheduler.scheduler import Batching
from service.protocol import (
    Accepted,
    Cancel,
    Cancelled,
    Chat,
    Delta,
    FrameSplitter,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Rejected,
    Step,
    Submit,
    Text,
    ToEngine,
    Turn,
    WarmedUp,
    frame,
    from_engine_decoder,
)
from tests.engine.conftest import job
from tests.models import small


class Peer:
    """The API process's end, blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(20)
        self._splitter = FrameSplitter()
        self._heard: list[FromEngine] = []

    def say(self, *messages: ToEngine) -> None:
        """Send *messages*."""
        self._connection.sendall(b"".join(map(frame, messages)))

    def hear(self) -> FromEngine:
        """Return the next message."""
        while not self._heard:
            bodies = self._splitter.feed(self._connection.recv(1 << 16))
            self._heard += map(from_engine_decoder.decode, bodies)
        return self._heard.pop(0)


@contextmanager
def served(model_path: Path | None = None) -> Iterator[Peer]:
    """Serve on a thread of this process; the end of the conversation must not end the process."""
    has_left = threading.Event()
    ours, theirs = socket.socketpair()
    path = None if model_path is None else str(model_path)
    order = Load(path, None, max_concurrency=2, warmup=True, log_level="INFO")
    with ours, theirs:
        server = (Channel(theirs), order, lambda _status: has_left.set())
        threading.Thread(target=loop.serve, args=server, daemon=True).start()
        yield Peer(ours)
        ours.shutdown(socket.SHUT_RDWR)
        assert has_left.wait(20)


def test_life_of_an_engine() -> None:
    """Loaded, warmed up, then: an answer, a refusal, and a cancel that is acknowledged."""
    with served() as peer:
        assert isinstance(peer.hear(), Loaded)
        assert peer.hear() == WarmedUp(None)
        peer.say(Submit(1, job(max_tokens=3)))
        accepted = peer.hear()
        deltas: list[Delta] = []
        while not deltas or deltas[-1].finish_reason is None:
            step = peer.hear()
            assert isinstance(step, Step)
            deltas += step.deltas
        peer.say(Submit(2, job(prompt=Chat((Turn("narrator", "x"),)))))
        refused = peer.hear()
        peer.say(Submit(3, job(ignore_eos=True)), Cancel(3))
        heard = [peer.hear()]
        while not isinstance(heard[-1], Cancelled):
            heard.append(peer.hear())
        peer.say(Cancel(99))
        last = peer.hear()
        if isinstance(last, Accepted):  # the prompt was ready only after its cancel
            last = peer.hear()

        assert isinstance(accepted, Accepted)
        assert deltas[-1].n_completion_tokens == 3
        assert isinstance(refused, Rejected)
        assert heard[-1] == Cancelled(3)
        assert last == Cancelled(99)


def test_model_that_computes_no_numbers_is_refused(tmp_path: Path) -> None:
    """Weights that are whole on disk and yet give NaN are no model."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "nan")
    file = str(folder / "model.safetensors")
    weights = dict(mx.load(file).items())  # type: ignore[union-attr]
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    mx.save_safetensors(file, weights, metadata={"format": "mlx"})
    with served(folder) as peer:
        heard = peer.hear()

        assert isinstance(heard, LoadFailed)
        assert "model.norm.weight holds what is no number" in heard.reason


def test_template_that_refuses_everything_still_lets_the_model_load(tmp_path: Path) -> None:
    """A model that cannot chat is loaded and warmed up; its refusal is each request's own."""
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "mute")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with served(folder) as peer:
        assert isinstance(peer.hear(), Loaded)
        assert peer.hear() == WarmedUp(None)
        peer.say(Submit(1, job()))

        assert isinstance(peer.hear(), Rejected)


def test_model_that_no_batch_can_have_answers_one_at_a_time(tmp_path: Path) -> None:
    """It is warmed up and says how it answers; who asks beside another waits, and fails no more."""
    small.make("llama4", tmp_path / "chunks")
    with served(tmp_path / "chunks") as peer:
        assert isinstance(peer.hear(), Loaded)
        assert peer.hear() == WarmedUp(None, (Batching.ALONE.value,))
        peer.say(
            *(Submit(i, job(prompt=Text("Hello"), max_tokens=3, ignore_eos=True)) for i in (1, 2))
        )
        ended: set[int] = set()
        while ended != {1, 2}:
            heard = peer.hear()
            assert isinstance(heard, Accepted | Step)
            if isinstance(heard, Step):
                ended |= {delta.ticket for delta in heard.deltas if delta.finish_reason}


def test_model_that_does_not_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks before the first answer is a sentence, and not the end of a process."""

    def broken(*_: object) -> None:
        raise AttributeError("no such cache")

    monkeypatch.setattr(start, "plan", broken)
    with served() as peer:
        assert peer.hear() == LoadFailed(
            "it does not run in this engine (AttributeError); see the log"
        )
