"""The documents say what the code does: settings, routes, errors, commands, rooms; what they show is run."""

from __future__ import annotations

import configparser
import json
import os
import plistlib
import re
import shlex
import subprocess
import sys

import httpx
import pytest
import yaml
from click.testing import CliRunner

from conformance import compare
from conformance.reports import comparison
from service import contracts
from service.command.main import main
from service.errors import ServiceError
from service.settings import OPTIONS, from_arguments
from tests.benchmarks import hero
from tests.clients import agents, table
from tests.clients.roster import CLIENTS
from tests.live import PLAIN, ROOT, LiveServer

PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "service").glob("*.md")),
        ROOT / "contracts" / "README.md",
        ROOT / "conformance" / "README.md",
        ROOT / "conformance" / "STRANGERS.md",
        ROOT / "tests" / "README.md",
    )
}
README, HOUSE = PAGES["README.md"], PAGES["service/README.md"]
MOST_WORDS = 2200
NO_PATHS = ("mlx-community", "Qwen/", "text/", "models/secret")  # they look like one
SH_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def between(text: str, marker: str) -> list[str]:
    """Return the rows of the table between a marker and its end, without its head."""
    _, _, rest = text.partition(f"<!-- {marker} -->\n")
    return rest.partition(f"<!-- /{marker} -->")[0].splitlines()[2:]


def settings_table() -> list[str]:
    """Return the settings as the page's table has them."""
    rows = []
    for option in OPTIONS:
        default = option.default
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{str(default).strip()}`"
        if isinstance(default, bool):
            shown = shown.lower()
        cells = (
            f"`{option.metadata['env']}`",
            f"`{option.metadata['flag']}`",
            "none" if default in (None, ()) else shown,
            option.metadata["help"],
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def all_errors(base: type[ServiceError]) -> list[type[ServiceError]]:
    """Return every leaf of the error tree, in the order of its docstring."""
    below = [leaf for child in base.__subclasses__() for leaf in (child, *all_errors(child))]
    return [child for child in below if not child.__name__.startswith("_")]


def errors_table() -> list[str]:
    """Return the errors as the page's table has them."""
    seen = {}
    for error in all_errors(ServiceError):
        if error.__name__ in {"ClientError", "ServerError"}:
            continue
        sentence = (error.__doc__ or "").strip().split("\n")[0]
        seen[error.code] = f"| `{error.code}` | {error.status} | {sentence} |"
    return list(seen.values())


def test_settings_table_is_the_code_s() -> None:
    """Names, flags, defaults and meanings stand on the page exactly as in `service.settings`."""
    assert settings_table() == between(PAGES["service/SETTINGS.md"], "settings")


def test_errors_table_is_the_code_s() -> None:
    """Each code of the error tree is on the page with its status and its sentence."""
    assert errors_table() == between(PAGES["service/ERRORS.md"], "errors")


def test_finer_codes_are_told() -> None:
    """Each code that the source gives to a refusal, and that is no error's own, stands on the page."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "service").rglob("*.py"))
    given = {*re.findall(r'code="([a-z_]+)"', source)}

    assert given
    assert [] == sorted(code for code in given if f"`{code}`" not in PAGES["service/ERRORS.md"])


def test_routes_table_is_the_contract_s() -> None:
    """Each route of the OpenAPI document is on the page, and no other."""
    page = PAGES["service/ENDPOINTS.md"]
    told = set(re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", page, re.MULTILINE))
    described = {
        (method.upper(), path)
        for path, item in contracts.openapi()["paths"].items()
        for method in item
    }

    assert described == told


def test_help_names_every_option() -> None:
    """`--help` prints each flag with its variable."""
    printed = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    ).stdout

    printed = " ".join(printed.split())
    for option in OPTIONS:
        assert option.metadata["flag"] in printed
        assert f"env var: {option.metadata['env']}" in printed


def test_first_two_commands_are_one_line_each() -> None:
    """A newcomer copies two lines: the first serves, the second tests; CI runs the second."""
    serve, test = SH_BLOCKS[:2]

    assert serve.count("\n") == test.count("\n") == 1
    assert serve.endswith("uvicorn service.app:app\n")
    assert test.endswith("tox run-parallel\n")
    assert "n == 2" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", PAGES)
def test_paths_that_documents_name_exist(document: str) -> None:
    """A file or folder in backticks is there."""
    text = re.sub(r"^```.*?^```$", "", PAGES[document], flags=re.MULTILINE | re.DOTALL)
    base = (ROOT / document).parent
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w.-]+\.(?:py|md|toml|yaml|txt))`", text)
    named += re.findall(r"\]\(([^)#:]+)\)", text)
    missing = [
        name
        for name in named
        if not name.startswith(("/", "."))
        and "NAME" not in name
        and not any(
            (root / (name + suffix)).exists() for root in (base, ROOT) for suffix in ("", ".py")
        )
    ]

    assert [name for name in missing if not name.startswith(NO_PATHS)] == []


def test_house_names_every_room() -> None:
    """Each module and folder of `service/` has its row, and each row its room."""
    folder = ROOT / "service"
    rooms = {p.name + "/" for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"}
    rooms |= {p.name for p in folder.glob("*.py") if p.name != "__init__.py"}
    rooms |= {f"engine/{p.parent.name}/" for p in folder.glob("engine/*/__init__.py")}
    rows = re.findall(r"^\| (`[^|]+?) \|", HOUSE, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert rooms == told


@pytest.mark.parametrize(
    ("page", "folder"), [("README", "servers"), ("STRANGERS", "servers/openai_api")]
)
def test_matrix_of_servers_is_what_their_reports_say(page: str, folder: str) -> None:
    """The pages' tables are drawn from the reports in conformance/servers/, and only from them."""
    paths = sorted((ROOT / "conformance" / folder).glob("*.json"))
    reports = [compare.read(path) for path in paths]

    drawn = f"<!-- servers -->\n{comparison.markdown(reports)}<!-- /servers -->"

    assert reports
    assert drawn in PAGES[f"conformance/{page}.md"]


def test_table_of_clients_is_what_they_saw() -> None:
    """The page's table is drawn from the results of the last runs, which every client has."""
    results = table.read()

    assert list(results) == [client.name for client in CLIENTS]
    drawn = f"<!-- clients -->\n{table.markdown(results)}<!-- /clients -->"

    assert drawn in PAGES["service/CLIENTS.md"]


def test_recipes_are_what_agents_were_tried_with() -> None:
    """The page shows the very settings and commands of the tests, and what was seen with them."""
    page, ran = PAGES["service/CLIENTS.md"], agents.read()

    assert list(ran) == [agent.name for agent in agents.AGENTS]
    assert f"<!-- agents -->\n{agents.markdown(ran)}<!-- /agents -->" in page
    assert f"<!-- recipes -->\n{agents.recipes()}<!-- /recipes -->" in page


def blocks(page: str, kind: str) -> list[str]:
    """Return the blocks of a *kind* on a *page*, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Return the words of each command that a *page* shows at a prompt, joined where it is continued."""
    text = "".join(blocks(page, "console")).replace("\\\n", "")
    lines = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_readme_can_be_read_in_some_minutes() -> None:
    """It is short, and each page beside the code is linked from it."""
    assert len(README.split()) <= MOST_WORDS
    for page in PAGES.keys() - {"README.md"}:
        assert f"[`{page}`]({page})" in README


def test_first_request_is_answered_as_the_readme_shows(server: LiveServer) -> None:
    """The curl line, as typed, gets the answer that stands below it, fields that are left out aside."""
    (block,) = [each for each in blocks("README.md", "console") if each.startswith("$ curl")]
    command, _, shown = block.partition("\n{")
    typed = command.removeprefix("$ ").replace("http://127.0.0.1:8000", server.url)
    words = shlex.split(typed.replace("\\\n", ""))
    answer = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)

    assert is_part(json.loads("{" + shown), answer)


def is_part(shown: object, whole: object) -> bool:
    """Tell whether all that is *shown* is in the *whole*."""
    if isinstance(shown, dict) and isinstance(whole, dict):
        return all(is_part(shown[key], whole.get(key)) for key in shown)
    if isinstance(shown, list) and isinstance(whole, list):
        return len(shown) == len(whole) and all(map(is_part, shown, whole))
    return shown == whole


def test_first_program_prints_what_the_readme_shows(server: LiveServer) -> None:
    """It is run as it stands, and its output is the block below it."""
    (program,) = blocks("README.md", "python")
    (shown,) = blocks("README.md", "text")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8000", server.url)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip

    assert shown == done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_pages_show_are_understood(page: str) -> None:
    """Each `tier3a` command exists, and has the options that it is shown with."""
    for words in commands(page):
        if "tier3a" not in words[0].rpartition("/")[2] or "conformance" in words[0]:
            continue
        name, *rest = words[1:]
        options = [word for word in rest if word.startswith("--")]
        described = CliRunner().invoke(main, [name, "--help"], env={"COLUMNS": "200"})

        assert 0 == described.exit_code, words
        assert [] == [option for option in options if option not in described.output]


def test_command_line_of_the_guide_is_taken() -> None:
    """All flags that the Tier 2 guide shows, with its values."""
    line = (
        "--model-path mlx-community/gemma-3-4b-it-4bit --model-type lm --context-length 8192 "
        "--mlx-warmup true --max-concurrency 1 --queue-timeout 300 --port 8000 --log-level INFO"
    )

    assert "mlx-community/gemma-3-4b-it-4bit" == from_arguments(line.split()).model_path


def test_variables_that_pages_name_are_settings() -> None:
    """A unit of systemd, probes and agents can be copied: their files are sound, and name what there is."""
    variables = {option.metadata["env"] for option in OPTIONS}
    (unit,) = blocks("service/RUNNING.md", "ini")
    probes, _ = blocks("service/RUNNING.md", "yaml")
    (agent,) = blocks("service/MAC.md", "xml")
    read = configparser.RawConfigParser(strict=False)
    read.read_string(unit)
    set_there = set(re.findall(r"^Environment=(\w+)=", unit, re.MULTILINE))

    assert {"Unit", "Service", "Install"} == set(read.sections())
    assert set() == set_there - variables
    assert ["/health", "/readyz", "/livez"] == [
        probe["httpGet"]["path"] for probe in yaml.safe_load(probes).values()
    ]
    assert "serve" == plistlib.loads(agent.encode())["ProgramArguments"][1]


def test_models_that_fit_a_mac_are_counted_right() -> None:
    """The table of MAC.md is the arithmetic that stands above it."""
    per_token = 2 * 32 * 8 * 128 * 2
    rows = []
    for memory_gb in (8, 16, 32, 64):
        usable_gb = memory_gb * (2 / 3 if memory_gb <= 32 else 3 / 4) * 0.9
        left_gb = usable_gb - 8192 * per_token / 1e9
        four, eight = (int(left_gb * 8 / bits) for bits in (4.5, 8.5))
        rows.append(
            f"| {memory_gb} GB | {usable_gb:.1f} GB | up to {four} billion | up to {eight} billion |"
        )

    assert f"{per_token / 1e3:.0f} MB for 1,000 tokens" in " ".join(PAGES["service/MAC.md"].split())
    assert "\n".join(rows) in PAGES["service/MAC.md"]


def test_picture_shows_figures_of_the_page() -> None:
    """The README's bars have the numbers of SPEED.md's table, and so have the words for the picture."""
    rows = {
        row[1].strip(): re.findall(r"\d+(?:\.\d+)?", row[3])
        for row in (line.split("|") for line in PAGES["service/SPEED.md"].splitlines())
        if len(row) == 5
    }
    told = re.search(r"!\[(.*?)\]\(service/speed\.svg\)", README)

    assert told is not None
    for bar in hero.BARS:
        row, place = bar.row
        assert bar.ratio == rows[row][place]
        assert bar.ratio in told[1]
    assert hero.draw() == hero.PATH.read_text("utf-8")


def test_status_of_probes_is_as_pages_say(server: LiveServer) -> None:
    """The three that probes ask, and the document that describes all."""
    for path in ("/health", "/readyz", "/livez", "/metrics", "/openapi.json"):
        assert 200 == httpx.get(server.url + path, timeout=5, verify=PLAIN).status_code
