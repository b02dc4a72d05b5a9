"""The documents say what the code does: settings, routes, errors, commands, rooms."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from conformance import compare
from conformance.reports import comparison
from service import contracts
from service.errors import ServiceError
from service.settings import OPTIONS
from tests.clients import table
from tests.clients.roster import CLIENTS
from tests.live import ROOT

README = (ROOT / "README.md").read_text("utf-8")
HOUSE = (ROOT / "service" / "README.md").read_text("utf-8")
SH_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def between(text: str, marker: str) -> list[str]:
    """Return the rows of the table between a marker and its end, without its head."""
    _, _, rest = text.partition(f"<!-- {marker} -->\n")
    return rest.partition(f"<!-- /{marker} -->")[0].splitlines()[2:]


def settings_table() -> list[str]:
    """Return the settings as the README's table has them."""
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
    """Return the errors as the README's table has them."""
    seen = {}
    for error in all_errors(ServiceError):
        if error.__name__ in {"ClientError", "ServerError"}:
            continue
        sentence = (error.__doc__ or "").strip().split("\n")[0]
        seen[error.code] = f"| `{error.code}` | {error.status} | {sentence} |"
    return list(seen.values())


def test_settings_table_is_the_code_s() -> None:
    """Names, flags, defaults and meanings stand in the README exactly as in `service.settings`."""
    assert settings_table() == between(README, "settings")


def test_errors_table_is_the_code_s() -> None:
    """Each code of the error tree is in the README with its status and its sentence."""
    assert errors_table() == between(README, "errors")


def test_routes_table_is_the_contract_s() -> None:
    """Each route of the OpenAPI document is in the README, and no other."""
    told = set(re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", README, re.MULTILINE))
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


@pytest.mark.parametrize(
    "document", ["README.md", "service/README.md", "contracts/README.md", "tests/README.md"]
)
def test_paths_that_documents_name_exist(document: str) -> None:
    """A file or folder in backticks is there."""
    text = (ROOT / document).read_text("utf-8")
    base = (ROOT / document).parent
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w.-]+\.(?:py|md|toml|yaml|txt))`", text)
    missing = [
        name
        for name in named
        if not name.startswith(("/", "."))
        and "NAME" not in name
        and not any(
            (root / (name + suffix)).exists() for root in (base, ROOT) for suffix in ("", ".py")
        )
    ]

    assert [name for name in missing if "mlx-community" not in name] == []


def test_house_names_every_room() -> None:
    """Each module and folder of `service/` has its row, and each row its room."""
    folder = ROOT / "service"
    rooms = {p.name + "/" for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"}
    rooms |= {p.name for p in folder.glob("*.py") if p.name != "__init__.py"}
    rooms |= {f"engine/{p.parent.name}/" for p in folder.glob("engine/*/__init__.py")}
    rows = re.findall(r"^\| (`[^|]+?) \|", HOUSE, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert rooms == told


def test_matrix_of_servers_is_what_their_reports_say() -> None:
    """The README's table is drawn from the reports in conformance/servers/, and only from them."""
    reports = [compare.read(path) for path in sorted((ROOT / "conformance/servers").glob("*.json"))]

    assert f"<!-- servers -->\n{comparison.markdown(reports)}<!-- /servers -->" in README


def test_table_of_clients_is_what_they_saw() -> None:
    """The README's table is drawn from the results of the last runs, which every client has."""
    results = table.read()

    assert list(results) == [client.name for client in CLIENTS]
    assert f"<!-- clients -->\n{table.markdown(results)}<!-- /clients -->" in README
