"""`service.engine.cache.prefix_store`: prefixes outlive the process, and nothing damaged comes back."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from service.engine.cache.kv import Caches
from service.engine.cache.prefix_cache import Entry, PrefixCache
from service.engine.cache.prefix_store import DiskStore, fingerprint
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Scheduler
from tests.engine.conftest import run
from tests.engine.random_models import dressed
from tests.engine.test_prefix_cache import (
    KINDS,
    PLENTY,
    add,
    cache_of,
    ids,
    n_cached,
    some,
    tokens,
    wish,
)


def entry(seed: int, n: int = 200) -> Entry:
    """Return an entry of *n* tokens."""
    found = Entry(ids(*some(n, seed)), cache_of(n))
    mx.eval([part.state for part in found.cache])
    return found


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_is_found_after_a_restart(
    kind: str, kv_bits: int | None, loaded: LoadedModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Another process begins with it, and answers as if it had read everything itself."""
    model = dressed(kind, loaded)
    shared = some(300, 1)
    answers = []
    for _ in range(2):
        files = DiskStore(tmp_path, PLENTY)
        prefixes = PrefixCache(PLENTY)
        prefixes.keep_on(files)
        caches = Caches(model.model, kv_bits, None)
        scheduler = Scheduler(model, vocabulary, 4, caches=caches, prefixes=prefixes)
        add(scheduler, 1, wish(shared))
        answers.append(run(scheduler)[1])
        files.close()

    assert [n_cached(deltas) for deltas in answers] == [0, 299]
    assert tokens(answers[0]) == tokens(answers[1])


def test_damaged_files_are_deleted(tmp_path: Path) -> None:
    """Cut, changed or renamed: a file that isn't what its name says is none."""
    files = DiskStore(tmp_path, PLENTY)
    for seed in range(4):
        files.save(entry(seed))
    files.close()
    cut, changed, renamed, whole = sorted(tmp_path.iterdir())
    cut.write_bytes(cut.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    renamed.rename(tmp_path / f"{'0' * 64}.safetensors")

    assert len(list(DiskStore(tmp_path, PLENTY).load(PLENTY))) == 1
    assert list(tmp_path.iterdir()) == [whole]


def test_oldest_files_go_first(tmp_path: Path) -> None:
    """The folder stays below its limit, and so does what is read of it."""
    size = 2 * 200 * 8 * 4
    files = DiskStore(tmp_path, 3 * size)
    for seed in range(4):
        files.save(entry(seed))
    files.close()
    found = [each.ids.tolist() for each in DiskStore(tmp_path, PLENTY).load(PLENTY)]

    assert found == [some(200, seed) for seed in (2, 3)]
    (newest,) = DiskStore(tmp_path, PLENTY).load(2 * size)
    assert newest.ids.tolist() == some(200, 3)


def test_replaced_entries_leave_the_disk(tmp_path: Path) -> None:
    """A chat that grows has one file."""
    files = DiskStore(tmp_path, PLENTY)
    prefixes = PrefixCache(PLENTY)
    prefixes.keep_on(files)
    for n in (200, 250, 300):
        prefixes.keep(np.array(some(n, 1), dtype=np.uint32), cache_of(n))
    files.close()

    assert len(list(tmp_path.iterdir())) == 1


def test_disk_that_takes_nothing_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The fault is logged, and nothing half-written is left."""
    files = DiskStore(tmp_path / "gone", PLENTY)
    (tmp_path / "gone").rmdir()
    files.save(entry(1))
    files.close()

    assert "could not be written" in caplog.text


@pytest.mark.parametrize("odd", ["dangling link", "folder", "unfinished folder", "unreadable"])
def test_folder_with_odd_entries_is_used_all_the_same(odd: str, tmp_path: Path) -> None:
    """What is there by such a name and isn't ours is left alone; nobody stays down for it."""
    files = DiskStore(tmp_path, PLENTY)
    files.save(entry(1))
    files.close()
    (ours,) = tmp_path.iterdir()
    name = tmp_path / f"{'a' * 64}.safetensors"
    match odd:
        case "dangling link":
            name.symlink_to(tmp_path / "nowhere")
        case "folder":
            name.mkdir()
        case "unfinished folder":
            (tmp_path / "unfinished-1.safetensors").mkdir()
        case "unreadable":
            name.write_bytes(b"no such thing")
    faults: list[str] = []
    again = DiskStore(tmp_path, PLENTY, faults.append)
    found = [each.path for each in again.load(PLENTY)]
    again.save(entry(2))
    again.close()

    assert [ours] == found
    assert (odd == "unreadable") == bool(faults)
    assert 2 == sum(path.is_file() for path in tmp_path.iterdir())


def test_folder_that_has_gone_is_told(tmp_path: Path) -> None:
    """Reading it finds nothing, writing it is a fault, and neither ends anything."""
    faults: list[str] = []
    files = DiskStore(tmp_path / "gone", PLENTY, faults.append)
    (tmp_path / "gone").rmdir()

    assert [] == list(files.load(PLENTY))
    files.save(entry(1))
    files.close()
    assert 1 == len(faults)
    assert "could not be written" in faults[0]


def test_folder_is_private(tmp_path: Path) -> None:
    """It holds what users wrote."""
    DiskStore(tmp_path / "prefixes", PLENTY)

    assert os.stat(tmp_path / "prefixes").st_mode & 0o077 == 0


def test_fingerprint_tells_models_and_settings_apart(tmp_path: Path) -> None:
    """Any change of a model's files or of a setting is another model's cache."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = fingerprint(tmp_path, None)
    seen = {first, fingerprint(tmp_path, 8)}
    weights.write_bytes(b"two")
    seen.add(fingerprint(tmp_path, None))
    (tmp_path / "config.json").write_text("{}")
    seen.add(fingerprint(tmp_path, None))

    assert len(seen) == 4
    weights.write_bytes(b"one")
    (tmp_path / "config.json").unlink()
    assert fingerprint(tmp_path, None) == first
