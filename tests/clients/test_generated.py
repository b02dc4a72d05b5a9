"""Clients that are generated from the OpenAPI document, and linters that read it: `tox -e clients`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from service import contracts
from tests import environments
from tests.clients.roster import INSTALL_TIMEOUT_S, RUN_TIMEOUT_S, SCRIPTS
from tests.live import LiveServer

PYTHON = ("openapi-python-client", "openapi-spec-validator")
NODE = (
    "openapi-typescript", "openapi-fetch", "typescript@5", "@types/node",
    "@stoplight/spectral-cli", "@redocly/cli",
)  # fmt: skip


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    """Return the environment with what is written in Python, and the document in it."""
    home = folder / "generated-python"
    if not (home / "installed.json").exists():
        home.mkdir(parents=True, exist_ok=True)
        environments.make(home, INSTALL_TIMEOUT_S)
        environments.install(home, PYTHON, INSTALL_TIMEOUT_S)
        (home / "installed.json").write_text(json.dumps(PYTHON), "utf-8")
    return _with_document(home)


@pytest.fixture(scope="module")
def node(folder: Path) -> Path:
    """Return the folder with what is written in JavaScript, and the document in it."""
    if not shutil.which("npm"):
        pytest.skip("npm isn't installed")
    home = folder / "generated-node"
    if not (home / "installed.json").exists():
        home.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home)]
        environments.call([*npm, *NODE], home, INSTALL_TIMEOUT_S)
        (home / "installed.json").write_text(json.dumps(NODE), "utf-8")
    return _with_document(home)


def _with_document(home: Path) -> Path:
    (home / "openapi.json").write_text(json.dumps(contracts.openapi()), "utf-8")
    return home


def test_validator_finds_nothing(python: Path) -> None:
    """The document is OpenAPI 3.1 to the letter."""
    environments.call(
        [environments.python(python), "-m", "openapi_spec_validator", "openapi.json"],
        python,
        RUN_TIMEOUT_S,
    )


def test_linters_find_no_error(node: Path) -> None:
    """Spectral and Redocly, each with its usual rules."""
    (node / ".spectral.yaml").write_text("extends: ['spectral:oas']\n", "utf-8")
    environments.call(
        ["npx", "--no-install", "spectral", "lint", "--fail-severity", "error", "openapi.json"],
        node,
        RUN_TIMEOUT_S,
    )
    environments.call(
        ["npx", "--no-install", "redocly", "lint", "openapi.json"], node, RUN_TIMEOUT_S
    )


def test_client_in_python_chats_and_streams(python: Path, server: LiveServer) -> None:
    """It is generated without a word of complaint, and typed answers come back."""
    generator = str(python / "bin" / "openapi-python-client")
    said = environments.call(
        [generator, "generate", "--path", "openapi.json", "--overwrite", "--meta", "none",
         "--output-path", "generated_client"],
        python,
        RUN_TIMEOUT_S,
    )  # fmt: skip
    shutil.copy(SCRIPTS / "with_generated.py", python)
    told = environments.call(
        [environments.python(python), "with_generated.py", server.url], python, RUN_TIMEOUT_S
    )

    assert "WARNING" not in said.upper()
    assert "streamed" in told


def test_client_in_typescript_chats_and_streams(node: Path, server: LiveServer) -> None:
    """Its types are generated, the strictest compiler accepts what uses them, and node runs it."""
    environments.call(
        ["npx", "--no-install", "openapi-typescript", "openapi.json", "-o", "schema.d.ts"],
        node,
        RUN_TIMEOUT_S,
    )
    shutil.copy(SCRIPTS / "with_generated.mts", node)
    environments.call(
        ["npx", "--no-install", "tsc", "--strict", "--target", "es2022", "--module", "nodenext",
         "--moduleResolution", "nodenext", "--outDir", "built", "with_generated.mts"],
        node,
        RUN_TIMEOUT_S,
    )  # fmt: skip
    told = environments.call(["node", "built/with_generated.mjs", server.url], node, RUN_TIMEOUT_S)

    assert "streamed" in told
