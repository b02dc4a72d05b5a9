"""
Both wheels, built and installed as users have them, each in an environment of its own.

They are tried in a folder that has packages of the same names. `tox -e packages` does it, over the network.
"""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.live import ROOT, LiveServer, clean_environment, free_port

HELLO = {"messages": [{"role": "user", "content": "What does /health mean?"}]}


@pytest.fixture(scope="session")
def folder() -> Path:
    """Return where `tox -e packages` has the wheels installed."""
    named = os.environ.get("PACKAGES_FOLDER")
    if not named:
        pytest.skip("wheels are installed over the network, which tox -e packages does")
    return Path(named)


@pytest.fixture(scope="session")
def server_bin(folder: Path) -> Path:
    """The folder of commands of an environment with the server's wheel."""
    return installed(folder / "server", ROOT)


@pytest.fixture(scope="session")
def suite_bin(folder: Path) -> Path:
    """The folder of commands of an environment with the suite's wheel and nothing of the server's."""
    return installed(folder / "suite", ROOT / "conformance")


def installed(place: Path, project: Path) -> Path:
    """Build the wheel of *project*, and install it in a fresh environment at *place*."""
    commands = place / "bin"
    if not commands.is_dir():
        venv.create(place, with_pip=True)
    wheels = place / "wheels"
    pip = [str(commands / "python"), "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), str(project)], check=True)
    constraints = ("-c", str(ROOT / ".constraints.txt"))
    found = [str(each) for each in wheels.glob("*.whl")]
    subprocess.run([*pip, "install", "-q", *constraints, "--force-reinstall", *found], check=True)
    return commands


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    """A folder with packages of our names, which must never be imported."""
    for module in ("service", "contracts", "conformance"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    return tmp_path


@contextmanager
def serving(commands: Path, folder: Path) -> Iterator[LiveServer]:
    """Run `tier3a serve` in *folder*."""
    port = free_port()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(commands / "tier3a"), "serve", "--port", str(port)],
            cwd=folder, env=clean_environment({}), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield LiveServer(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(10)


def test_server_s_wheel_serves_and_the_suite_s_finds_it_conformant(
    server_bin: Path, suite_bin: Path, strange_folder: Path
) -> None:
    """Both work in a folder with packages of their names, and neither needs the other installed."""
    with serving(server_bin, strange_folder) as server:
        server.wait_until("/readyz", 200, 120)
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO, timeout=60)
        form = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO | {
            "response_format": {"type": "json_object"}, "max_tokens": 30}, timeout=60)  # fmt: skip
        judged = run(suite_bin, strange_folder, "tier3a-conformance", "--base-url", server.url)
        measured = run(server_bin, strange_folder, "tier3a", "bench", server.url, "--tokens", "16")
        without = run(server_bin, strange_folder, "tier3a", "conformance", server.url)

    assert 200 == answer.status_code == form.status_code
    assert "conformant" in judged.stdout.splitlines()[-1]
    assert 0 == judged.returncode, judged.stdout
    assert 3 == len(measured.stdout.splitlines()), measured.stderr
    assert "pip install ./conformance" in without.stderr


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("check",), ("models",)])
def test_other_commands_of_the_wheel(
    words: tuple[str, ...], server_bin: Path, strange_folder: Path
) -> None:
    """Each ends well, wherever it is called."""
    done = run(server_bin, strange_folder, "tier3a", *words)

    assert 0 == done.returncode, done.stderr


def test_suite_s_wheel_brings_no_mlx(suite_bin: Path) -> None:
    """Its environment has the suite and its short list, and nothing of the server's."""
    listed = subprocess.run(
        [suite_bin / "python", "-m", "pip", "list", "--format", "freeze"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert "tier3a-conformance==" in listed
    assert "mlx" not in listed.replace("mlx-tier3a", "")


def run(commands: Path, folder: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of an environment in *folder*."""
    return subprocess.run(
        [str(commands / name), *words],
        cwd=folder, env=clean_environment({}), capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
