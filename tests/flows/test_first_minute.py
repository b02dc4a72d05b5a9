"""The first minute with `tier3a serve`: in a strange folder, with a model to download, at a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.catalog.card import EMBEDDED_FOLDER
from tests import fake_hub
from tests.live import PLAIN, ROOT, UVICORN, clean_environment, free_port, running

TIER3A = (sys.executable, "-P", "-c", "from service.command.main import main; main()")
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    """A folder whose own `service` must never be imported."""
    for module in ("service", "contracts", "conformance", "mlx_lm"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    return tmp_path


@contextmanager
def at_a_terminal(folder: Path, *words: str, **environment: str) -> Iterator[list[bytes]]:
    """Run `tier3a` in *folder*, its standard error a terminal; yield what is seen there, as it comes."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                seen.append(data)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    process = subprocess.Popen(
        [*TIER3A, *words],
        cwd=folder,
        env=clean_environment({"PYTHONPATH": str(ROOT), **environment}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield seen
    finally:
        process.terminate()
        process.wait(10)
        reader.join(5)
        os.close(ours)


def test_first_minute(strange_folder: Path) -> None:
    """A download is told on one line and by /readyz; then a banner says what to copy, and that works."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    model = "mlx-community/tiny-gemma"
    with fake_hub.running(model, EMBEDDED_FOLDER) as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(strange_folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = ("serve", model, "--port", str(port))
        with at_a_terminal(strange_folder, *command, **environment) as seen:
            told = _until(url, lambda body: "MB (" in (body["models"][0]["reason"] or ""))
            _until(url, lambda _: b"MB (" in b"".join(seen))
            hub.may_finish.set()
            _until(url, lambda body: body["ready"])
            answer = httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=30, verify=PLAIN)
            _until(url, lambda _: b" is ready after " in b"".join(seen))
            screen = b"".join(seen).decode()

    downloading = r"the model is being downloaded, \d of \d MB \(\d+%\)"
    assert re.search(downloading, told), told
    assert re.search(rf"\x1b\[Kloading: {downloading}.*?\r", screen), screen
    assert 200 == answer.status_code
    assert model == answer.json()["model"]
    assert f"{model} is ready after " in screen
    assert f"  API     {url}/v1\r\n" in screen
    assert f"""curl {url}/v1/chat/completions -d '{{"messages": [""" in screen
    assert "Traceback" not in screen


def test_mistyped_path_is_told_at_once(strange_folder: Path) -> None:
    """`tier3a serve` does not begin, and names what was typed."""
    done = subprocess.run(
        [*TIER3A, "serve", "./models/gemma"],
        cwd=strange_folder, env=clean_environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 2 == done.returncode
    assert "'./models/gemma'" in done.stderr
    assert "MODEL names no folder that exists" in done.stderr


def test_mistyped_setting_is_told_at_once_and_tried_once(tmp_path: Path) -> None:
    """The log has its value, /readyz has not; the server stays, and says 503."""
    with running(tmp_path / "log", MODEL_PATH="/models/secret-finetune") as server:
        server.wait_until("/livez", 200)
        reason = _until(server.url, lambda body: body["models"][0]["state"] == "failed")
        time.sleep(0.5)
        log = server.log_text()

    assert "MODEL_PATH names no folder that exists, and is no hub id" == reason
    assert 1 == log.count("'/models/secret-finetune'")
    assert 1 == log.count("The engine ended")


def test_uvicorn_listens_where_the_environment_says(tmp_path: Path) -> None:
    """SERVER_PORT holds under uvicorn's own command line, unless that names a port."""
    port = free_port()
    with running(tmp_path / "log", UVICORN[:3], SERVER_PORT=str(port)) as server:
        server.url = f"http://127.0.0.1:{port}"
        server.wait_until("/livez", 200)


def test_check_says_what_is_there_and_what_it_takes(strange_folder: Path) -> None:
    """The built-in model can be served; a context that has no room in memory is said to be cut."""
    done = subprocess.run(
        [*TIER3A, "check", "--context-length", "1000"],
        cwd=strange_folder, env=clean_environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert 0 == done.returncode, done.stderr
    assert "local-mlx/gemma-3-demo" == rows["model"]
    assert "lm: language model, of type gemma3_text" == rows["kind"]
    assert "1.2 MB, 8-bit" == rows["weights"]
    assert "takes tools; does not think" == rows["template"]
    assert re.fullmatch(r"1,000 tokens; 1,000 of them take \d+\.\d MB", rows["context"])
    assert "it can be served" == rows["verdict"]


def _until(url: str, is_so: object, deadline_s: float = 30) -> str:
    """Ask /readyz until its body is so; return the reason that it gave then."""
    end = time.monotonic() + deadline_s
    body: dict[str, object] = {}
    while time.monotonic() < end:
        try:
            body = httpx.get(f"{url}/readyz", timeout=5, verify=PLAIN).json()
        except httpx.TransportError:
            body = {}
        if body and is_so(body):  # type: ignore[operator]
            return str(body["models"][0]["reason"])  # type: ignore[index]
        time.sleep(0.02)
    raise AssertionError(body)
