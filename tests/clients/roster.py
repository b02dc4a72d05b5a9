"""The clients that are tried, and how one is set up and run: each in a folder of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests import environments
from tests.clients.table import Step, Tried

SCRIPTS = Path(__file__).parent / "scripts"
INSTALL_TIMEOUT_S = 900
RUN_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Client:
    """
    A client and what its script needs.

    Attributes:
        name: what the table calls it.
        script: file in `scripts/`; `.mjs` is run by node, everything else by Python.
        packages: what npm or pip is asked for, the client's own first.
    """

    name: str
    script: str
    packages: tuple[str, ...]

    @property
    def is_of_node(self) -> bool:
        """Tell whether it comes from npm and runs in node."""
        return self.script.endswith(".mjs")


CLIENTS = (
    Client("openai, Python", "with_openai.py", ("openai",)),
    Client("openai, JavaScript", "with_openai.mjs", ("openai", "zod")),
    Client("anthropic", "with_anthropic.py", ("anthropic",)),
    Client("langchain-openai", "with_langchain_openai.py", ("langchain-openai",)),
    Client("llama-index", "with_llama_index.py", ("llama-index-llms-openai-like",)),
    # litellm can't be asked for tools without mcp, and has no small extra that brings it.
    Client("litellm", "with_litellm.py", ("litellm", "mcp")),
    Client("instructor", "with_instructor.py", ("instructor",)),
    Client("pydantic-ai", "with_pydantic_ai.py", ("pydantic-ai-slim[openai]",)),
    Client("openai-agents", "with_openai_agents.py", ("openai-agents",)),
    Client("smolagents", "with_smolagents.py", ("smolagents[openai]",)),
    Client("llm", "with_llm.py", ("llm",)),
    Client("lm-eval", "with_lm_eval.py", ("lm_eval[api]", "transformers")),
    Client("haystack", "with_haystack.py", ("haystack-ai",)),
    Client("autogen", "with_autogen.py", ("autogen-ext[openai]", "autogen-agentchat")),
    Client("semantic-kernel", "with_semantic_kernel.py", ("semantic-kernel",)),
    Client("agno", "with_agno.py", ("agno", "openai")),
    Client("crewai", "with_crewai.py", ("crewai",)),
    Client("dspy", "with_dspy.py", ("dspy",)),
    Client("mirascope", "with_mirascope.py", ("mirascope[openai]",)),
    Client("guidance", "with_guidance.py", ("guidance", "openai")),
    Client("inspect-ai", "with_inspect_ai.py", ("inspect-ai", "openai")),
    Client("promptfoo", "with_promptfoo.mjs", ("promptfoo",)),
    Client(
        "@langchain/openai",
        "with_langchain_openai.mjs",
        ("@langchain/openai", "@langchain/core", "zod"),
    ),
    Client("@ai-sdk/openai", "with_ai_sdk_openai.mjs", ("@ai-sdk/openai", "ai", "zod")),
    Client(
        "@ai-sdk/openai-compatible",
        "with_ai_sdk_openai_compatible.mjs",
        ("@ai-sdk/openai-compatible", "ai", "zod"),
    ),
)


class Packaged(Protocol):
    """What npm or pip installs."""

    @property
    def packages(self) -> tuple[str, ...]:
        """What the installer is asked for."""

    @property
    def is_of_node(self) -> bool:
        """Tell whether it comes from npm."""


def set_up(client: Packaged, folder: Path) -> None:
    """
    Install *client* into *folder*, unless the same packages are there already.

    Raises:
        AssertionError: an installer failed; carries the end of what it said.
    """
    mark, wanted = folder / "installed.json", json.dumps(client.packages)
    if mark.exists() and mark.read_text("utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if client.is_of_node:
        npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
        environments.call([*npm, *client.packages], folder, INSTALL_TIMEOUT_S)
    else:
        environments.make(folder, INSTALL_TIMEOUT_S)
        environments.install(folder, client.packages, INSTALL_TIMEOUT_S)
    mark.write_text(wanted, "utf-8")


def run(client: Client, folder: Path, url: str) -> Tried:
    """
    Return what the script of *client*, set up in *folder*, saw of the server at *url*.

    Raises:
        AssertionError: the script ended badly or said nothing; carries the end of what it said.
    """
    if client.is_of_node:
        # Node looks for packages beside the script, wherever it is started.
        for script in SCRIPTS.glob("*.mjs"):
            shutil.copy(script, folder)
        command = ["node", str(folder / client.script)]
    else:
        command = [environments.python(folder), str(SCRIPTS / client.script)]
    printed = environments.call([*command, url], folder, RUN_TIMEOUT_S)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"client":')]
    assert lines, f"{client.script} tried nothing:\n{printed}"
    steps = [Step(step=line["step"], ok=line["ok"], seen=line["seen"]) for line in lines]
    return Tried(version=lines[0]["version"], steps=steps)
