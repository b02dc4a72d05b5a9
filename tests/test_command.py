"""`tier3a`, command by command; `serve` and `check` are in `flows/test_first_minute.py`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.command import bench
from service.command.main import main
from service.settings import OPTIONS
from tests.live import ROOT, LiveServer, clean_environment, free_port


def test_bench_says_how_fast_a_live_server_is(server: LiveServer) -> None:
    """With one client and with eight: the time to the first token, and tokens a second."""
    done = CliRunner().invoke(main, ["bench", f"{server.url}/v1", "--tokens", "4"])
    head, *rows = done.output.splitlines()

    assert f"local-mlx/gemma-3-demo at {server.url}, answers of 4 tokens at most" == head
    for row, n in zip(rows, ("1 client", "8 clients"), strict=True):
        figures = r"first token after \d+\.\d{3} s \(slowest \d+\.\d{3} s\), [\d.]+ tokens/s in all"
        assert re.fullmatch(f"{n}: {figures}", row)


def test_bench_ends_in_time_however_slow_the_server_is(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come until then is what is measured."""
    monkeypatch.setattr(bench, "LIMIT_S", 0.0)
    answer = bench.ask(bench.Server(server.url, None), "gemma", 4096)

    assert answer.n_tokens <= 1


@pytest.mark.parametrize("path", ["", "/no/such/place"])
def test_bench_of_what_is_no_such_server(path: str, server: LiveServer) -> None:
    """It is told in a sentence, without a traceback."""
    url = f"http://127.0.0.1:{free_port()}" if not path else server.url + path
    done = CliRunner().invoke(main, ["bench", url])

    assert 1 == done.exit_code
    assert f"Error: {url}" in done.output


def test_models_are_those_of_the_hub_s_cache(tmp_path: Path) -> None:
    """Each has its line with size and type; what has no weights for MLX is told."""
    for owner, weights in (("a", "model.safetensors"), ("b", "pytorch_model.bin")):
        folder = tmp_path / f"models--{owner}--tiny"
        snapshot = folder / "snapshots" / "0a1b"
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0a1b")
        (snapshot / "config.json").write_text('{"model_type": "llama"}')
        (snapshot / weights).write_bytes(bytes(2_000_000))
    done = subprocess.run(
        [sys.executable, "-m", "service.engine.cached"],
        cwd=ROOT, env=os.environ | {"HF_HUB_CACHE": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ["a/tiny 2 MB llama", "b/tiny 2 MB llama, no weights for MLX"] == [
        " ".join(row.split()) for row in done.stdout.splitlines()
    ]


def test_suite_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(main, ["conformance", "http://127.0.0.1:1"])

    assert 1 == done.exit_code
    assert "tier3a-conformance" in done.output


def test_suite_runs_in_any_folder(tmp_path: Path) -> None:
    """Its options and its status come through, and no configuration of the folder is read."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    url = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from service.command.main import main; main()",
         "conformance", url, "--timeout", "1"],
        cwd=tmp_path, env=clean_environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 7 == done.returncode, done.stdout + done.stderr
    assert f"unreachable: {url}" in done.stdout


@pytest.mark.parametrize("name", ["serve", "check"])
def test_commands_about_a_model_have_every_option(name: str) -> None:
    """The server's, each with its variable, and a model before them."""
    shown = CliRunner().invoke(main, [name, "--help"]).output

    assert "[MODEL]" in shown
    assert [] == [each.name for each in OPTIONS if each.metadata["flag"] not in shown]


def test_version() -> None:
    """It is that of the distribution."""
    assert re.fullmatch(
        r"tier3a, version \d+\.\d+\.\d+\n", CliRunner().invoke(main, ["--version"]).output
    )
