"""
The coding agents that are tried, how a user sets each up, and how one is run.

The model that they talk to has a script (`scripted_model`): it calls the agent's own tool in three turns, in
one of them twice, and says END only when it has seen what every call gave.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

from tests import environments
from tests.clients.recorder import Exchange, Recorder
from tests.clients.scripted_model import LOST, Turn, call
from tests.live import ROOT

URL = "http://127.0.0.1:8000"
MODEL = "my-model"
ERRAND = "errand-7"
TASK = f"Do {ERRAND}: find out what the sums are."
END = "All sums were seen"
TIMEOUT_S = 240
RESULTS = Path(__file__).with_name("agents.json")
PAGE = ROOT / "service" / "CLIENTS.md"


@dataclass(frozen=True)
class Agent:
    """
    An agent, its recipe, and what the model says to it.

    Attributes:
        name: what the table calls it.
        packages: what npm or pip is asked for, its own first.
        command: how a user starts it on TASK; the first word is a program that its package brings.
        turns: the model's script.
        is_of_node: it comes from npm.
        interface: the route that it asks.
        environment: variables that the recipe sets.
        files: files that the recipe writes, by their paths in the home folder.
        unattended: words for the command where nobody is there to be asked; no part of the recipe.
        work: files in the folder that it works in.
        rewrites: it changes what it said before, so that the server reads the rest of the prompt anew.
        remarks: what a user should know.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    turns: tuple[Turn, ...]
    is_of_node: bool = False
    interface: str = "/v1/chat/completions"
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    unattended: tuple[str, ...] = ()
    work: Mapping[str, str] = field(default_factory=dict)
    rewrites: bool = False
    remarks: str = ""

    @property
    def folder(self) -> str:
        """Where it is installed; several ways of one agent share it."""
        return "agent-" + self.packages[0].strip("@").replace("/", "-").partition("[")[0]


class Ran(TypedDict):
    """
    What was seen of an agent.

    Attributes:
        version: the agent's.
        interface: the route that it asked.
        faults: what went wrong, one sentence each; empty: the whole loop went round.
        n_requests: how many requests of its own conversation it sent.
        cached: the least share of a prompt, from the second request on, that the server had read before;
            None: the agent doesn't ask for the numbers.
        kept: the least share of the prompt before that needn't be read again; None as above.
        outside: hosts of the world that it asked for, all in vain.
    """

    version: str
    interface: str
    faults: list[str]
    n_requests: int
    cached: float | None
    kept: float | None
    outside: list[str]


def _errand(write: Callable[[str], str], end: str = f"{END}.") -> tuple[Turn, ...]:
    """Return a script whose calls are written by *write*, two of them at once."""
    return (
        Turn("I look.\n" + write("echo a=$((40+2))"), ("a=42",)),
        Turn(write("echo b=$((1+2))") + "\n" + write("echo c=$((5+2))"), ("b=3", "c=7")),
        Turn(write("echo d=$((50+2))"), ("d=52",)),
        Turn(end),
    )


def _errand_one_by_one(write: Callable[[str], str]) -> tuple[Turn, ...]:
    """Return the script for an agent that takes one call a turn."""
    return (
        Turn("I look.\n" + write("echo a=$((40+2))"), ("a=42",)),
        Turn("I look on.\n" + write("echo b=$((1+2))"), ("b=3",)),
        Turn("I look again.\n" + write("echo d=$((50+2))"), ("d=52",)),
        Turn(f"{END}."),
    )


def _edit(before: int, after: int) -> str:
    """Return an edit as aider wants it."""
    return f"sums.txt\n```\n<<<<<<< SEARCH\n{before}\n=======\n{after}\n>>>>>>> REPLACE\n```\n"


def _aider(name: str, streamed: str, remarks: str) -> Agent:
    check = "n=$(cat sums.txt); echo sum=$((n*21)); test $n = 4"
    return Agent(
        name,
        ("aider-chat",),
        ("aider", "--model", f"openai/{MODEL}", "--edit-format", "diff", streamed,
         "--no-check-update", "--analytics-disable", "--no-show-model-warnings",
         "--message", TASK, "sums.txt"),
        (
            Turn("I edit.\n\n" + _edit(1, 2), ("sum=42",)),
            Turn("I go on.\n\n" + _edit(2, 3), ("sum=63",)),
            Turn(f"{END}, so this is the last edit.\n\n" + _edit(3, 4)),
        ),
        environment={"OPENAI_API_BASE": f"{URL}/v1", "OPENAI_API_KEY": "any"},
        unattended=("--yes-always", "--no-git", "--no-show-release-notes", "--no-detect-urls",
                    "--auto-test", "--test-cmd", check),
        work={"sums.txt": "1\n"},
        rewrites=True,
        remarks=remarks,
    )  # fmt: skip


def _gptme(name: str, write: Callable[[str], str], *options: str) -> Agent:
    return Agent(
        name,
        ("gptme",),
        ("gptme", "--model", f"local/{MODEL}", *options, TASK),
        _errand_one_by_one(write),
        environment={"OPENAI_BASE_URL": f"{URL}/v1", "OPENAI_API_KEY": "any"},
        unattended=("--non-interactive",),
        remarks="It runs one call a turn. It looks for OpenAI's tokenizer on the network, and counts "
        "letters where it finds none.",
    )


_OPENCODE = {
    "$schema": "https://opencode.ai/config.json",
    "autoupdate": False,
    "share": "disabled",
    "provider": {
        "local": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{URL}/v1", "apiKey": "any"},
            "models": {MODEL: {"limit": {"context": 65536, "output": 8192}}},
        }
    },
}
_QWEN = {
    "general": {"disableAutoUpdate": True},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "security": {"auth": {"selectedType": "openai"}},
}
_CODEX = f"""\
model = "{MODEL}"
model_provider = "local"
model_context_window = 65536
check_for_update_on_startup = false

[model_providers.local]
name = "local"
base_url = "{URL}/v1"
wire_api = "responses"

[analytics]
enabled = false

[features]
apps = false
plugins = false
"""

AGENTS = (
    Agent(
        "Claude Code",
        ("@anthropic-ai/claude-code",),
        ("claude", "-p", TASK),
        _errand(lambda line: call("Bash", command=line, description="Look")),
        is_of_node=True,
        interface="/v1/messages",
        environment={
            "ANTHROPIC_BASE_URL": URL,
            "ANTHROPIC_AUTH_TOKEN": "any",
            "ANTHROPIC_MODEL": MODEL,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        unattended=("--allowedTools", "Bash"),
        remarks="Where the context is full, it reads the error for what it is: with 27,250 tokens, "
        "hardly more than its own prompt, it asked for a summary, and when that was too long as well, "
        "it said so and ended.",
    ),
    Agent(
        "Codex",
        ("@openai/codex",),
        ("codex", "exec", TASK),
        _errand(lambda line: call("exec_command", cmd=line)),
        is_of_node=True,
        interface="/v1/responses",
        files={".codex/config.toml": _CODEX},
        unattended=("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
        remarks="With its plugins and apps it would ask github.com and chatgpt.com at every start. "
        "`web_search`, which OpenAI runs, is not offered to the model.",
    ),
    Agent(
        "opencode",
        ("opencode-ai",),
        ("opencode", "run", "--model", f"local/{MODEL}", TASK),
        _errand(lambda line: call("bash", command=line, description="Look")),
        is_of_node=True,
        environment={"OPENCODE_DISABLE_MODELS_FETCH": "1"},
        files={".config/opencode/opencode.json": json.dumps(_OPENCODE, indent=2) + "\n"},
        remarks="At its first start it wants a package from npm's registry.",
    ),
    Agent(
        "qwen-code",
        ("@qwen-code/qwen-code",),
        ("qwen", TASK),
        _errand(
            lambda line: call(
                "run_shell_command", command=line, description="Look", is_background=False
            )
        ),
        is_of_node=True,
        environment={
            "OPENAI_BASE_URL": f"{URL}/v1",
            "OPENAI_API_KEY": "any",
            "OPENAI_MODEL": MODEL,
        },
        files={".qwen/settings.json": json.dumps(_QWEN, indent=2) + "\n"},
        unattended=("--yolo",),
        remarks="Before its first command it seems to hang: it copies a file of 1.3 MB byte by byte in "
        "JavaScript, which took 12 s here. Where a proxy is set, it asks this machine through it, too.",
    ),
    Agent(
        "mini-swe-agent",
        ("mini-swe-agent",),
        ("mini", "-y", "--exit-immediately", "-m", f"openai/{MODEL}", "-t", TASK),
        _errand(
            lambda line: call("bash", command=line),
            call("bash", command=f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo {END}"),
        ),
        environment={
            "OPENAI_API_BASE": f"{URL}/v1",
            "OPENAI_API_KEY": "any",
            "MSWEA_CONFIGURED": "true",
            "MSWEA_COST_TRACKING": "ignore_errors",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
    ),
    _gptme("gptme", lambda line: f"```shell\n{line}\n```"),
    _gptme("gptme, calls", lambda line: call("shell", command=line), "--tool-format", "tool"),
    _aider(
        "aider",
        "--stream",
        "It looks for prices of models on the network. It writes the files that it edits ahead of "
        "the conversation, so that every edit makes the server read the rest anew.",
    ),
    _aider("aider, not streamed", "--no-stream", ""),
)


def run(agent: Agent, home: Path, place: Path, recorder: Recorder) -> Ran:
    """
    Run *agent*, installed in *home*, on its task in the empty folder *place*, and return what was seen.

    Everything of it that still runs after TIMEOUT_S is killed.
    """
    user, work = place / "home", place / "work"
    for folder, files in ((user, agent.files), (work, agent.work)):
        folder.mkdir(parents=True)
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(URL, recorder.url), "utf-8")
    binaries = home / ("node_modules/.bin" if agent.is_of_node else "bin")
    proxies = {"HTTP_PROXY": recorder.url, "HTTPS_PROXY": recorder.url, "NO_PROXY": "127.0.0.1"}
    proxies |= {name.lower(): value for name, value in proxies.items()}
    set_ = {name: value.replace(URL, recorder.url) for name, value in agent.environment.items()}
    programs = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    said, status = _call(
        [str(binaries / agent.command[0]), *agent.command[1:], *agent.unattended],
        work,
        {"PATH": programs, "HOME": str(user), "TERM": "dumb", "LANG": "C.UTF-8", **proxies, **set_},
        place / "said",
    )
    return _seen(agent, home, recorder, said, status)


def _call(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> tuple[str, int | None]:
    """Return what *command* printed and its exit status; None: it took too long."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):  # what it started has its group, and may outlive it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return log.read_text("utf-8", "replace"), status


def _seen(agent: Agent, home: Path, recorder: Recorder, said: str, status: int | None) -> Ran:
    told = [(each, each.usage) for each in recorder.exchanges if each.path == agent.interface]
    longest = max((usage[0] for _, usage in told if usage), default=0)
    # Titles and summaries are asked beside the conversation, and are short.
    lengths = [usage for _, usage in told if usage and usage[0] > longest / 2]
    pairs = list(pairwise(lengths))
    return Ran(
        version=_version(agent, home),
        interface=agent.interface,
        faults=list(_faults(agent, recorder.exchanges, said, status)),
        n_requests=len(lengths) or len(told),
        cached=min((cached / total for _, (total, cached) in pairs), default=None),
        kept=min((min(cached / before, 1) for (before, _), (_, cached) in pairs), default=None),
        outside=sorted(map(_shown_host, set(recorder.outside))),
    )


def _faults(
    agent: Agent, exchanges: Sequence[Exchange], said: str, status: int | None
) -> Iterator[str]:
    """Yield what went wrong, a sentence each."""
    if status != 0:
        yield "it took too long" if status is None else f"it ended with {status}"
    if END not in said:
        yield f"the last answer isn't in what it printed: {said[-1000:]!r}"
    if LOST in said:
        yield "a result of a call didn't come back"
    for each in exchanges:
        if each.status >= 400 and each.path == agent.interface:
            yield f"{each.path} was refused with {each.status}: {each.said[:500]}"


def _version(agent: Agent, home: Path) -> str:
    if not agent.is_of_node:
        package = environments.installed(home, agent.packages[0])
        return package.version if package else "unknown"
    described = home / "node_modules" / agent.packages[0] / "package.json"
    version: str = json.loads(described.read_text("utf-8"))["version"]
    return version


def read() -> dict[str, Ran]:
    """Return what the last runs saw, by the agents' names."""
    found: dict[str, Ran] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def write(results: Mapping[str, Ran]) -> None:
    """Keep *results* and draw them into the page."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    for marker, drawn in (("agents", markdown(results)), ("recipes", recipes())):
        before, begin, rest = page.partition(f"<!-- {marker} -->\n")
        _, end, after = rest.partition(f"<!-- /{marker} -->")
        page = before + begin + drawn + end + after
    PAGE.write_text(page, "utf-8")


def _shown_host(address: str) -> str:
    """Return the host of *address*; a registry of packages by what it is."""
    host = address.partition(":")[0]
    return "a package registry" if host.startswith("registry.") else host


def markdown(results: Mapping[str, Ran]) -> str:
    """Return *results* as a table of Markdown, one row an agent."""
    head = (
        "| agent | version | asks | its task | requests | cached | kept | asked outside |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(name, ran) for name, ran in results.items())


def _row(name: str, ran: Ran) -> str:
    went = "✓" if not ran["faults"] else f"✗ {'; '.join(ran['faults'])}"
    shares = (
        "not told" if share is None else f"{share:.1%}" for share in (ran["cached"], ran["kept"])
    )
    outside = ", ".join(ran["outside"]) or "nobody"
    cells = (
        name,
        ran["version"],
        f"`{ran['interface']}`",
        went,
        ran["n_requests"],
        *shares,
        outside,
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def recipes() -> str:
    """Return how each agent is set up, as the tests do it, as Markdown."""
    return "\n".join(_recipe(agent) for agent in AGENTS)


def _recipe(agent: Agent) -> str:
    parts = [f"### {agent.name}\n"]
    if agent.remarks:
        parts.append(f"{agent.remarks}\n")
    for name, text in agent.files.items():
        parts.append(f"`~/{name}`:\n\n```{Path(name).suffix[1:]}\n{text}```\n")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in agent.environment.items()]
    command = ["your task" if word == TASK else word for word in agent.command]
    parts.append("```bash\n" + "\n".join([*lines, shlex.join(command)]) + "\n```\n")
    if agent.unattended:
        parts.append(
            f"The test adds `{shlex.join(agent.unattended)}`, as nobody is there to be asked.\n"
        )
    return "\n".join(parts)
