"""
Servers that others made and users would pick: what each is started with, and where it is installed.

mlx_lm.server is in this project's own environment. Every other has one of its own, with its newest release,
in the folder that `--rivals` names; it is made when it isn't there yet, which takes minutes and the network.
`tox` by itself never does that.

Each is installed by pip as its users have it, and takes some 7 GB on Linux: both ask for torchvision, so
torch comes, with its CUDA libraries. Linux needs MLX's CPU build besides, and makes one exception necessary:
mlx-openai-server can't be installed there as it comes. It wants mflux, to make pictures, and mflux wants
`mlx[cuda13]` below 0.32 on Linux. pip finds no such MLX for mlx-openai-server 1.8.1 ("ResolutionImpossible");
for 1.7.1 it does, but then the CUDA build takes the place of the CPU's, and MLX can't be imported
("libcublasLt.so.13: cannot open shared object file"). The server works without mflux, which it looks for only
to serve pictures; so on Linux all that it requires is installed but mflux.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import environments

INSTALL_TIMEOUT_S = 1800
MLX_ON_LINUX = "mlx[cpu]; sys_platform == 'linux'"
# What tells how a rival generates.
ENGINE = ("mlx", "mlx-lm")


class NotInstalled(Exception):
    """A rival has no environment; the message says why."""


@dataclass(frozen=True)
class Rival:
    """
    A server that others made.

    Attributes:
        name: how tables call it; for one in an environment of its own, its package, too.
        command: what its interpreter is given, with `{model}`, `{port}` and `{rows}` to be filled in.
        is_here: whether it is in this project's own environment.
        not_on_linux: packages that it requires, is installed without on Linux, and works without.
        start_s: how long a start may take.
    """

    name: str
    command: tuple[str, ...]
    is_here: bool = False
    not_on_linux: tuple[str, ...] = ()
    start_s: float = 120.0

    def words(self, model: Path, port: int, rows: int) -> list[str]:
        """Return its command for a start."""
        return [word.format(model=model, port=port, rows=rows) for word in self.command]

    def python(self, folder: Path | None) -> str:
        """Return its interpreter, where rivals are installed in *folder*."""
        if self.is_here:
            return sys.executable
        assert folder is not None
        return environments.python(folder / self.name)


# Caches and prompts per batch are left as each has them. All have 32 rows by themselves, and are given as
# many as a workload wants if that is more.
RIVALS = {
    rival.name: rival
    for rival in (
        Rival(
            "mlx_lm",
            (
                *("-m", "mlx_lm", "server", "--model", "{model}"),
                *("--port", "{port}", "--decode-concurrency", "{rows}"),
            ),
            is_here=True,
            start_s=60.0,
        ),
        # Without its switch it serves one request after the other.
        Rival(
            "vllm-mlx",
            (
                *("-m", "vllm_mlx.cli", "serve", "{model}", "--host", "127.0.0.1"),
                *("--port", "{port}", "--continuous-batching", "--completion-batch-size", "{rows}"),
            ),
        ),
        # It warns of each field of a request that it doesn't know, and would be slower for writing that down.
        Rival(
            "mlx-openai-server",
            (
                *("-m", "app.main", "launch", "--model-path", "{model}", "--host", "127.0.0.1"),
                *("--port", "{port}", "--decode-concurrency", "{rows}"),
                *("--no-log-file", "--log-level", "ERROR"),
            ),
            not_on_linux=("mflux",),
        ),
    )
}


def set_up(rival: Rival, folder: Path | None) -> None:
    """
    See to it that *rival* has its environment in *folder*.

    Raises:
        NotInstalled: no folder is named, or an installer failed.
    """
    if rival.is_here:
        return
    if folder is None:
        raise NotInstalled("not installed: --rivals names no folder for it")
    home = folder.resolve() / rival.name
    mark, wanted = home / "installed.json", json.dumps([rival.name, *_left_out(rival)])
    if mark.exists() and mark.read_text("utf-8") == wanted:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        environments.make(home, INSTALL_TIMEOUT_S)
        if _left_out(rival):
            environments.install(home, ["--no-deps", rival.name], INSTALL_TIMEOUT_S)
            environments.install(
                home, [*_requirements(rival, home), MLX_ON_LINUX], INSTALL_TIMEOUT_S
            )
        else:
            environments.install(home, [rival.name, MLX_ON_LINUX], INSTALL_TIMEOUT_S)
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"can't be installed here: {last_line(str(error))}") from error
    mark.write_text(wanted, "utf-8")


def versions(rival: Rival, folder: Path | None) -> dict[str, str]:
    """Return the versions of *rival* and of the engine's packages in its own environment."""
    if rival.is_here or folder is None:
        return {}
    found = {
        name: environments.installed(folder / rival.name, name) for name in (rival.name, *ENGINE)
    }
    return {name: package.version for name, package in found.items() if package}


def last_line(said: str) -> str:
    """Return the last line of what a program said, where it says what was wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _left_out(rival: Rival) -> tuple[str, ...]:
    return rival.not_on_linux if sys.platform == "linux" else ()


def _requirements(rival: Rival, home: Path) -> list[str]:
    """Return what the package of *rival*, installed in *home*, requires here and doesn't work without."""
    package = environments.installed(home, rival.name)
    wanted = [Requirement(line) for line in (package and package.requires) or ()]
    return [
        str(each)
        for each in wanted
        if canonicalize_name(each.name) not in _left_out(rival)
        and (each.marker is None or each.marker.evaluate({"extra": ""}))
    ]
