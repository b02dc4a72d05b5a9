"""`cache.machine`: what a process may take, by the files that Linux tells it in."""

from __future__ import annotations

import resource
from pathlib import Path

import mlx.core as mx
import pytest

from service.engine.cache import machine
from service.engine.cache.machine import free_bytes

GB = 1 << 30
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GB available and no groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8388608 kB\n")
    return tmp_path


def group(
    folder: Path, names: tuple[str, str, str], most: int | str, used: int, idle: int = 0
) -> None:
    """Make a control group in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {idle}\n")


def test_machine_without_limits(root: Path) -> None:
    """What is available is had."""
    assert free_bytes(root) == 8 * GB


def test_machine_that_tells_nothing(tmp_path: Path) -> None:
    """There is always a number: that of the system's own call."""
    assert free_bytes(tmp_path) > 0


@pytest.mark.parametrize("path", ["/", "/docker/abc", "/docker/abc/not-mounted-here"])
def test_group_of_version_two(root: Path, path: str) -> None:
    """Its limit less what it uses; files that were read and are idle don't count as used."""
    (root / "proc" / "self" / "cgroup").write_text(f"0::{path}\n")
    mount = root / "sys" / "fs" / "cgroup"
    group(mount, V2, 4 * GB, 2 * GB, idle=GB)
    group(mount / "docker" / "abc", V2, "max", GB)

    assert free_bytes(root) == 3 * GB


def test_smallest_group_on_the_way_counts(root: Path) -> None:
    """A group can't have more than the one that it is in."""
    (root / "proc" / "self" / "cgroup").write_text("0::/a/b\n")
    mount = root / "sys" / "fs" / "cgroup"
    group(mount / "a", V2, 3 * GB, 2 * GB)
    group(mount / "a" / "b", V2, 7 * GB, GB)

    assert free_bytes(root) == GB


def test_group_of_version_one(root: Path) -> None:
    """The same under other names; a limit that is none is far beyond what is available."""
    (root / "proc" / "self" / "cgroup").write_text("5:cpu,cpuacct:/\n4:memory:/x\n")
    mount = root / "sys" / "fs" / "cgroup" / "memory"
    group(mount, V1, 0x7FFFFFFFFFFFF000, GB)
    group(mount / "x", V1, 6 * GB, 5 * GB, idle=GB)

    assert free_bytes(root) == 2 * GB


def test_group_over_its_limit_leaves_nothing(root: Path) -> None:
    """And never less than that."""
    (root / "proc" / "self" / "cgroup").write_text("0::/\n")
    group(root / "sys" / "fs" / "cgroup", V2, GB, 2 * GB)

    assert free_bytes(root) == 0


def test_address_space_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is addressed already is not left."""
    (root / "proc" / "self" / "statm").write_text(f"{GB // resource.getpagesize()} 1 1\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * GB, 3 * GB))

    assert free_bytes(root) == 2 * GB


def test_metal_has_its_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system recommends, less what MLX holds: weights that are loaded already."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(machine, "working_set_bytes", lambda: 12 * GB)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 5 * GB)

    assert machine.usable_bytes() == 7 * GB
