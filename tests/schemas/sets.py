"""Where the sets of schemas come from: packages of others, fetched into a folder and never committed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.schemas.judge import Case, case_of, judged

SCRIPTS = Path(__file__).parent / "scripts"
SUITE = "jsonschema==4.26.0"  # its source distribution carries the JSON Schema Test Suite
DRAFTS = ("draft2020-12", "draft2019-09", "draft7", "draft6", "draft4")
PYTHON = (
    "pydantic", "instructor", "mcp", "mcp-server-git", "mcp-server-time", "mcp-server-fetch",
    "hypothesis-jsonschema==0.23.1", "hypothesis==6.112.0",  # newer ones don't go together
)  # fmt: skip
NODE = ("zod", "zod-to-json-schema", "@modelcontextprotocol/server-filesystem",
        "@modelcontextprotocol/server-memory", "@modelcontextprotocol/server-everything",
        "@modelcontextprotocol/server-sequential-thinking", "@anthropic-ai/claude-code", "@openai/codex",
        "@qwen-code/qwen-code")  # fmt: skip
PATIENCE_S = 60  # taste: an agent has sent its first request by then
CODEX = """\
model = "m"
model_provider = "here"
[model_providers.here]
name = "here"
base_url = "URL/v1"
wire_api = "responses"
"""


class Packages:
    """
    The packages in a folder, installed there if they aren't.

    Attributes:
        suite: the tests of the JSON Schema Test Suite, a folder for each draft.
        python: the interpreter that has the packages of Python.
        commands: the folder of node's commands.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        self._folder = folder
        self.python = folder / "python" / "bin" / "python"
        self.commands = folder / "node" / "node_modules" / ".bin"
        if not self.python.exists():
            venv.create(folder / "python", with_pip=True)
            _run(self.python, "-m", "pip", "install", "--quiet", *PYTHON)
        if not self.commands.exists():
            (folder / "node").mkdir(parents=True)
            (folder / "node" / "package.json").write_text("{}")
            _run("npm", "install", "--no-audit", "--no-fund", *NODE, cwd=folder / "node")
        root = folder / SUITE.replace("==", "-")
        if not root.exists():
            pip = (self.python, "-m", "pip", "download", "--quiet", "--no-deps")
            _run(*pip, "--no-binary", ":all:", "--dest", folder, SUITE)
            with tarfile.open(f"{root}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
        self.suite = root / "json" / "tests"

    def versions(self) -> list[str]:
        """Return each package with its version."""
        frozen = _run(self.python, "-m", "pip", "freeze").split()
        names = {each.partition("==")[0] for each in PYTHON}
        found = [SUITE, *(each for each in frozen if each.partition("==")[0] in names)]
        for name in NODE:
            package = self._folder / "node" / "node_modules" / name / "package.json"
            found.append(f"{name}=={json.loads(package.read_text())['version']}")
        return sorted({each.replace("==", " ") for each in found})

    def zod(self) -> dict[str, Any]:
        """Return the schemas that zod makes."""
        script = (
            self._folder / "node" / "made_by_zod.mjs"
        )  # node looks for packages beside the script
        shutil.copy(SCRIPTS / script.name, script)
        found: dict[str, Any] = json.loads(_run("node", script))
        return found

    def pydantic(self) -> dict[str, Any]:
        """Return the schemas that pydantic and instructor make."""
        found: dict[str, Any] = json.loads(_run(self.python, SCRIPTS / "made_by_pydantic.py"))
        return found

    def mcp_servers(self) -> list[Any]:
        """Return the tools of servers of the Model Context Protocol, with values for them."""
        servers = [
            [str(self.commands / "mcp-server-filesystem"), str(self._folder)],
            [str(self.commands / "mcp-server-memory")],
            [str(self.commands / "mcp-server-everything")],
            [str(self.commands / "mcp-server-sequential-thinking")],
            [str(self.python.parent / "mcp-server-git")],
            [str(self.python.parent / "mcp-server-time"), "--local-timezone", "UTC"],
            [str(self.python.parent / "mcp-server-fetch")],
        ]
        found: list[Any] = json.loads(
            _run(self.python, SCRIPTS / "made_of_tools.py", given=servers)
        )
        return found

    def agents(self) -> list[Any]:
        """Return the tools that coding agents send with their first request, with values for them."""
        found = []
        with _recorder() as (url, bodies):
            home = self._folder / "home"
            (home / ".codex").mkdir(parents=True, exist_ok=True)
            (home / ".codex" / "config.toml").write_text(CODEX.replace("URL", url))
            settings = {"HOME": home, "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url,
                        "OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x", "OPENAI_MODEL": "m"}  # fmt: skip
            for command in (["claude", "-p", "hi"], ["codex", "exec", "--skip-git-repo-check", "hi"],
                            ["qwen", "-p", "hi", "--auth-type", "openai"]):  # fmt: skip
                agent = subprocess.Popen(
                    [self.commands / command[0], *command[1:]], cwd=home, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    env=os.environ | {name: str(value) for name, value in settings.items()},
                )  # fmt: skip
                try:
                    agent.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    agent.kill()
                    agent.wait()
                tools = [tool for body in bodies for tool in body.get("tools", ())]
                found += [_named(command[0], tool) for tool in _flat(tools)]
                bodies.clear()
        unique = {name: {"name": name, "schema": schema} for name, schema in found if schema}
        values: list[Any] = json.loads(
            _run(self.python, SCRIPTS / "made_of_tools.py", given=list(unique.values()))
        )
        return values


def _flat(tools: list[Any]) -> Iterator[Any]:
    """Yield the tools, those of namespaces too."""
    for tool in tools:
        yield from _flat(tool["tools"]) if tool.get("type") == "namespace" else [tool]


def _named(agent: str, tool: Any) -> tuple[str, Any]:
    tool = tool.get("function", tool)
    schema = tool.get("parameters") or tool.get("input_schema")
    return f"{agent}: {tool.get('name')}", schema


@contextmanager
def _recorder() -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a server that refuses all, and the list of what is sent to it."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(400)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()


def collect(packages: Packages) -> dict[str, list[Case]]:
    """Return all sets by their names."""
    found: dict[str, list[Case]] = {}
    for draft in DRAFTS:
        found[f"JSON Schema Test Suite, {draft}"] = [
            case_of(each, f"{path.stem}: ")
            for path in sorted((packages.suite / draft).glob("*.json"))
            for each in json.loads(path.read_text("utf-8"))
        ]
    made = packages.pydantic() | packages.zod()
    made |= {
        "tools of MCP servers": packages.mcp_servers(),
        "tools of coding agents": packages.agents(),
    }
    for name, cases in made.items():
        found[name] = [judged(case_of(each)) for each in cases]
    return found


def _run(*command: object, cwd: Path | None = None, given: Any = None) -> str:
    """Run *command*, which gets *given* as JSON; return what it prints."""
    return subprocess.run(
        list(map(str, command)), cwd=cwd, input=json.dumps(given), stdout=subprocess.PIPE,
        stderr=sys.stderr, text=True, check=True,
    ).stdout  # fmt: skip
