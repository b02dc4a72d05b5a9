"""
The real engine, made to fail where the variable FAULT says; started by `tests/faulty_app.py` and nobody else.

FAULT is a word of `FAULTS`, which may have a number behind a colon, or several with commas between. No start
but that one comes by here: the product has no door for faults, only an argument of `create_app` that says
which engine to start.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from service.engine import __main__ as engine
from service.engine import kinds as engine_kinds
from service.engine import start as engine_start
from service.engine.cache import prefix_store
from service.engine.decoding.batch import Batch
from service.engine.prepare import Preparer
from service.protocol import Chat, Job

kinds: Any = engine_kinds  # what is replaced in it is not said to be replaceable
start: Any = engine_start
store: Any = prefix_store
batch_kind: Any = Batch
preparer_kind: Any = Preparer
MARK = "unlucky"  # whose last message is this is who it happens to


def load_slowly(seconds: float) -> None:
    """Take so long to load."""
    load = kinds.load

    def slow(*args: Any) -> Any:
        time.sleep(seconds)
        return load(*args)

    kinds.load = slow


def hang_in_warmup(_: float) -> None:
    """Never be done with the warm-up."""

    def hang(*_: Any) -> None:
        time.sleep(3600)

    start.warm_up = hang


def fill_the_disk(_: float) -> None:
    """Let no file be written."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.save_prompt_cache = refuse


def raise_at_token(n: float) -> None:
    """Let the step break in which such a request has so many tokens."""
    decode = Batch.decode

    def breaking(batch: Batch) -> Any:
        for each in batch.sequences:
            if is_marked(each.job) and len(each.tokens) - len(each.prompt) >= n:
                raise RuntimeError("as FAULT says")
        return decode(batch)

    batch_kind.decode = breaking


def hang_on_a_prompt(_: float) -> None:
    """Never be done with such a prompt."""
    prompt = Preparer.prompt

    def hanging(preparer: Preparer, job: Job) -> Any:
        if is_marked(job):
            time.sleep(3600)
        return prompt(preparer, job)

    preparer_kind.prompt = hanging


def leak(_: float) -> None:
    """Keep a little of each prompt."""
    prompt, kept = Preparer.prompt, []

    def keeping(preparer: Preparer, job: Job) -> Any:
        kept.append(os.urandom(50_000))
        return prompt(preparer, job)

    preparer_kind.prompt = keeping


def jump(_: float) -> None:
    """Set the clock back and forth by an hour, all the time."""
    now_s = time.time
    time.time = lambda: now_s() + (3600 if int(now_s() * 20) % 2 else -3600)


def is_marked(job: Job) -> bool:
    """Tell whether a job is one that it happens to."""
    return isinstance(job.prompt, Chat) and job.prompt.turns[-1].content == MARK


FAULTS: dict[str, Callable[[float], None]] = {
    "slow-load": load_slowly,
    "hung-warm-up": hang_in_warmup,
    "full-disk": fill_the_disk,
    "raise-at-token": raise_at_token,
    "hung-prompt": hang_on_a_prompt,
    "clock": jump,
    "leak": leak,
}


def inject() -> None:
    """Make this process fail as FAULT says."""
    for fault in os.environ["FAULT"].split(","):
        word, _, number = fault.partition(":")
        FAULTS[word](float(number or 0))


if __name__ == "__main__":
    inject()
    engine.main()
