"""Virtual environments for what has packages of its own: made where a folder is named, kept between runs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

# What holds this project's own environment is not for others.
OURS = {"PIP_CONSTRAINT", "PYTHONWARNINGS", "PYTHONPATH"}


def make(folder: Path, timeout_s: float) -> None:
    """
    Make an empty environment in *folder*.

    Raises:
        AssertionError: that failed; carries the end of what was said.
    """
    call([sys.executable, "-m", "venv", str(folder)], folder, timeout_s)


def install(folder: Path, words: Sequence[str], timeout_s: float) -> None:
    """
    Let pip install into the environment in *folder* what *words* say.

    Raises:
        AssertionError: it failed; carries the end of what it said.
    """
    call([python(folder), "-m", "pip", "install", "--quiet", *words], folder, timeout_s)


def python(folder: Path) -> str:
    """Return the interpreter of the environment in *folder*."""
    return str(folder / "bin" / "python")


def installed(folder: Path, name: str) -> Distribution | None:
    """Return the package *name* of the environment in *folder*, if it is there."""
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    found: Iterator[Distribution] = iter(distributions(name=name, path=[packages]))
    return next(found, None)


def clean() -> dict[str, str]:
    """Return this process's environment variables without what is meant for our own packages."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def call(command: Sequence[str], folder: Path, timeout_s: float) -> str:
    """
    Return what *command*, run in *folder*, prints.

    Raises:
        AssertionError: it ended badly; carries the end of what it said.
    """
    ended = subprocess.run(
        command,
        cwd=folder,
        env=clean(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
    )
    said = ended.stdout[-2000:] + ended.stderr[-4000:]
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{said}"
    return ended.stdout
