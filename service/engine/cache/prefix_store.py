"""
Prefixes on disk, so that a restarted server has read them already.

    PREFIX_CACHE_PATH / fingerprint of model and settings / SHA-256 of the file .safetensors

A file is written whole under another name first, and named by what is in it: one that was cut or changed is
seen by its name. Writing happens on a thread of its own; what it writes has been computed before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

from service.engine.cache.kv import arrays
from service.engine.cache.prefix_cache import Entry

_log = logging.getLogger(__name__)

VERSION = "1"  # of what is in a file; another one is another folder
MIN_TOKENS = 128  # taste: fewer are soon read again
MAX_PENDING = 16  # taste: what waits to be written stays in memory, beyond the cache's own bound
WHOLE_BYTES = (
    64 << 20
)  # taste, 0.1 s; larger files of weights are known by their head, size and time
HEAD_BYTES = 1 << 20  # more than the header of any file of weights
SUFFIX = ".safetensors"
N_DIGITS = 64  # of a SHA-256 in hexadecimal
UNFINISHED_S = 3600  # taste: no file takes that long to write


class DiskStore:
    """
    One model's prefixes in a folder: a `PrefixStore` of files.

    Args:
        folder: theirs alone; made if it isn't there.
        max_bytes: of all files; the oldest go first.
        on_fault: told in words for an operator what could not be read or written; from any thread.

    Raises:
        OSError: the folder can't be made.
    """

    def __init__(
        self, folder: Path, max_bytes: int, on_fault: Callable[[str], None] = lambda _: None
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._on_fault = on_fault
        for path in folder.glob(f"unfinished-*{SUFFIX}"):  # by one that was killed
            if path.is_file() and time.time() - path.stat().st_mtime > UNFINISHED_S:
                _unlink(path)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefixes")
        self._pending = threading.BoundedSemaphore(MAX_PENDING)

    def load(self, max_bytes: int) -> Iterator[Entry]:
        """Yield what the newest files hold, up to *max_bytes*, oldest first; damaged ones are deleted."""
        for path in self._newest(max_bytes):
            try:
                yield _read(path)
            except Exception as error:  # whatever a broken file makes of the libraries that read it
                self._tell("a prefix is damaged and deleted", error)
                _unlink(path)

    def save(self, entry: Entry) -> None:
        """
        Write *entry* soon; not at all where too many wait already.

        Args:
            entry: computed to the end, as another thread writes it.
        """
        if len(entry.ids) >= MIN_TOKENS and self._pending.acquire(blocking=False):
            self._writer.submit(self._save, entry)

    def delete(self, entry: Entry) -> None:
        """Delete the file of *entry*, if it has one by then."""
        self._writer.submit(_delete, entry)

    def close(self) -> None:
        """Write what waits, and take no more."""
        self._writer.shutdown()

    def _save(self, entry: Entry) -> None:
        unfinished = self._folder / f"unfinished-{os.getpid()}{SUFFIX}"
        tokens = " ".join(map(str, entry.ids.tolist()))
        try:
            save_prompt_cache(str(unfinished), entry.cache, {"tokens": tokens})
            entry.path = unfinished.replace(self._folder / f"{_digest(unfinished)}{SUFFIX}")
            self._make_room()
        except Exception as error:  # a full disk, mostly; who asked has the answer all the same
            self._tell("a prefix could not be written", error)
            _unlink(unfinished)
        finally:
            self._pending.release()

    def _make_room(self) -> None:
        """Delete the oldest files until the rest is small enough."""
        paths = self._paths()
        total_bytes = sum(path.stat().st_size for path in paths)
        for path in paths:
            if total_bytes <= self._max_bytes:
                return
            total_bytes -= path.stat().st_size
            _unlink(path)

    def _newest(self, max_bytes: int) -> list[Path]:
        """Return the newest files, up to *max_bytes* together, oldest first."""
        chosen: list[Path] = []
        try:
            for path in reversed(self._paths()):
                max_bytes -= path.stat().st_size
                if max_bytes < 0:
                    break
                chosen.insert(0, path)
        except OSError as error:
            self._tell("its folder cannot be read", error)
        return chosen

    def _paths(self) -> list[Path]:
        """Return all finished files, oldest first; what else is there by such a name is none of ours."""
        found = [
            path
            for path in self._folder.glob(f"*{SUFFIX}")
            if len(path.stem) == N_DIGITS and path.is_file()
        ]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def _tell(self, what: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        _log.warning("%s: %s", what, reason)
        self._on_fault(f"{what}: {reason}")


def fingerprint(model: Path, *settings: object) -> str:
    """Return what stands for a model's files and all else that a cache's content depends on."""
    found = hashlib.sha256(repr((VERSION, mlx_lm.__version__, settings)).encode())
    for path in sorted([*model.glob("*.json"), *model.glob(f"*{SUFFIX}")]):
        size_bytes = path.stat().st_size
        found.update(f"{path.name} {size_bytes}".encode())
        with path.open("rb") as stream:
            if size_bytes <= WHOLE_BYTES:
                found.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                found.update(stream.read(HEAD_BYTES))
                found.update(str(path.stat().st_mtime_ns).encode())
    return found.hexdigest()[:32]


def _read(path: Path) -> Entry:
    """Return what a file holds; its name says what it must be."""
    if _digest(path) != path.stem:
        raise ValueError("its content is not what was written")
    cache, metadata = load_prompt_cache(str(path), return_metadata=True)
    mx.eval(arrays(cache))
    ids = np.array(metadata["tokens"].split(), dtype=np.uint32)
    return Entry(ids, cache, path)


def _delete(entry: Entry) -> None:
    if entry.path:
        _unlink(entry.path)


def _unlink(path: Path) -> None:
    """Delete a file, if that can be done."""
    with contextlib.suppress(OSError):
        path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
