"""
How much memory the machine lets this process have.

With Metal it is the working set that the system recommends. Elsewhere it is the least of what is free in
the machine, what the process's control groups leave it (a container's limit), and what is left of its address
space.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

_ROOT = Path("/")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def usable_bytes() -> int:
    """Return how many bytes more this process may take; what MLX holds for reuse is given back first."""
    mx.clear_cache()
    if mx.metal.is_available():
        return max(working_set_bytes() - mx.get_active_memory(), 0)
    return free_bytes()


def working_set_bytes() -> int:
    """Return how much Metal recommends to hold at most, as a whole."""
    return int(mx.device_info()["max_recommended_working_set_size"])


def free_bytes(root: Path = _ROOT) -> int:
    """Return how many bytes more a process may take where there is no Metal, by the files under *root*."""
    return max(min([_available_bytes(root), *_left_by_groups(root), *_left_to_address(root)]), 0)


def _available_bytes(root: Path) -> int:
    """Return what is free in the machine, with what the system could free at once."""
    try:
        for line in (root / "proc" / "meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    names = os.sysconf_names
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in names else "SC_PHYS_PAGES"
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yield what each control group that the process is in leaves to it, those above it included."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    mount = root / "sys" / "fs" / "cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield from _left_on_the_way(mount, path, _V2)
        elif "memory" in controllers.split(","):
            yield from _left_on_the_way(mount / "memory", path, _V1)


def _left_on_the_way(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """Yield what is left in the group at *path*, and in those above it, where they have a limit."""
    relative = Path(path.strip("/"))
    for each in (
        relative,
        *relative.parents,
    ):  # a container may see the path of its host, and not have it
        try:
            yield _left_in_group(mount / each, *names)
        except (OSError, ValueError):  # there is no such group, or "max": no limit
            continue


def _left_in_group(group: Path, limit: str, used: str, idle: str) -> int:
    """Return a group's limit less what it uses; of files that it has read nothing needs to stay."""
    most = int((group / limit).read_text("ascii"))
    now = int((group / used).read_text("ascii"))
    stat = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
    return most - now + int(stat.get(idle, 0))


def _left_to_address(root: Path) -> Iterator[int]:
    """Yield how much more may be addressed, where that is limited (`ulimit -v`)."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return
    try:
        pages = int((root / "proc" / "self" / "statm").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        pages = 0
    yield most - pages * os.sysconf("SC_PAGE_SIZE")
