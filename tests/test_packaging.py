"""What the two distributions declare is what their code imports, and they agree where they must."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.live import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SUITE = tomllib.loads((ROOT / "conformance" / "pyproject.toml").read_text("utf-8"))["project"]
OURS = {"service", "contracts", "conformance"}


def names(requirements: list[str]) -> set[str]:
    """Return the distributions that *requirements* name, as registries spell them."""
    return {
        re.split(r"[\s\[<>=!~;]", each, maxsplit=1)[0].lower().replace("_", "-")
        for each in requirements
    }


def imported(folder: Path) -> set[str]:
    """Return the distributions that the modules under *folder* import, the standard library's left out."""
    modules = set()
    for path in folder.rglob("*.py"):
        if "training" in path.parts:  # it is in no wheel
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    known = {"PIL": ["pillow"]} | dict(packages_distributions())  # an extra's may not be installed
    return {
        known.get(module, [module])[0].lower().replace("_", "-")
        for module in modules - OURS - {*sys.stdlib_module_names}
    }


def test_server_declares_what_it_imports() -> None:
    """Each distribution that its code imports is named, and what is named beside these has a reason."""
    unseen = {
        "mlx-lm", "mlx",  # one import name, two systems
        "httptools", "uvloop",  # uvicorn's parser and loop, where they are there
    }  # fmt: skip

    extras = set().union(*map(names, PROJECT["optional-dependencies"].values()))

    declared = names(PROJECT["dependencies"]) | extras
    assert set() == imported(ROOT / "service") - declared - {"mlx-cpu"}
    assert names(PROJECT["dependencies"]) - imported(ROOT / "service") <= unseen


def test_suite_declares_what_it_imports() -> None:
    """Its own list, which `pip install -r` takes, and its distribution's are the same."""
    lines = (ROOT / "conformance" / "requirements.txt").read_text("utf-8").splitlines()

    assert SUITE["dependencies"] == [line for line in lines if line and line[0] != "#"]
    others = {"pytest", "referencing", "pyyaml", "click"}
    of_the_example = {"openai", "httpx"}  # a client like those that are judged
    imports = imported(ROOT / "conformance") - others - of_the_example
    assert imports <= names(SUITE["dependencies"])


def test_distributions_have_one_version() -> None:
    """They are built from one tree."""
    assert PROJECT["version"] == SUITE["version"]
    assert PROJECT["requires-python"] == SUITE["requires-python"]


def test_what_is_known_from_within_has_an_upper_bound() -> None:
    """Servers, MLX, templates and the hub's errors were tried up to a version, and no further is promised."""
    bounded = {
        "uvicorn",
        "gunicorn",
        "mlx",
        "mlx-lm",
        "jinja2",
        "huggingface-hub",
        "transformers",
        "falcon",
    }
    without = [each for each in PROJECT["dependencies"] if "<" not in each]

    assert set() == bounded & names(without)
