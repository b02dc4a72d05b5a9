"""Imports go one way: the rooms of the house, read from the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STOREYS = (
    {"protocol", "errors", "settings"},
    {"contracts", "catalog", "telemetry"},
    {"openai"},
    {"anthropic"},
    {"fleet"},
    {"web"},
    {"app"},
    {"__main__"},
)
RANKS = {room: rank for rank, rooms in enumerate(STOREYS) for room in rooms}
ENGINE_MAY_IMPORT = {"engine", "protocol", "settings", "errors", "catalog"}
TRAINING_MAY_IMPORT = ENGINE_MAY_IMPORT | {"training"}
HEAVY = {"mlx", "mlx_lm", "mlx_vlm", "mlx_whisper", "transformers", "huggingface_hub"}


def imported_modules(source: str, module: str) -> Iterator[str]:
    """Yield the dotted name of everything that *source*, which is *module*, imports anywhere."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    """Return the room of `service` that a dotted name leads into, None if it leads elsewhere."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "service" else None


def is_allowed(importer: str, imported: str) -> bool:
    """Tell whether a module in the room *importer* may import from the room *imported*."""
    if importer == "engine":
        return imported in ENGINE_MAY_IMPORT
    if importer == "training":
        return imported in TRAINING_MAY_IMPORT
    if imported in {"engine", "training"}:
        return False
    return importer == imported or RANKS[imported] < RANKS[importer]


def breaches(source: str, module: str) -> list[str]:
    """Return what *source* imports against the rule, if it is the module of that name."""
    room = room_of(module)
    found = []
    for name in imported_modules(source, module):
        target = room_of(name)
        if room is None:  # the conformance suite, which must stand alone
            is_bad = target is not None or name.partition(".")[0] in HEAVY
        elif target is not None:
            is_bad = not is_allowed(room, target)
        else:
            is_bad = room not in {"engine", "training"} and name.partition(".")[0] in HEAVY
        if is_bad:
            found.append(f"{module} imports {name}")
    return found


def module_name(path: Path) -> str:
    """Return the dotted name of the module in *path*."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 2 and parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for folder in ("service", "conformance")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / folder / "__init__.py"
}


def test_rooms_are_all_known() -> None:
    """Every room has its storey here, so that none slips past the rule by being new."""
    rooms = {room_of(name) for name in MODULES} - {None}

    assert RANKS.keys() | {"engine", "training"} == rooms


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    """A module imports from its own room and from the storeys below, at any depth of its code."""
    source = MODULES[module].read_text(encoding="utf-8")

    assert [] == breaches(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.protocol", "from service.errors import ServiceError"),
        ("service.errors", "import service.telemetry"),
        ("service.openai.chat", "from service.fleet import ticket"),
        ("service.openai.chat", "from service.anthropic import messages"),
        ("service.fleet.supervisor", "from service.web.edge import Edge"),
        ("service.web.edge", "def f():\n    from service import app"),
        ("service.web.edge", "import mlx.core as mx"),
        ("service.app", "def f():\n    import transformers"),
        ("service.catalog.card", "from huggingface_hub import snapshot_download"),
        ("service.fleet.supervisor", "from service.engine.loop import serve"),
        ("service.fleet.supervisor", "from service import engine"),
        ("service.engine.loop", "from service.training import corpus"),
        ("service.app", "import service.training"),
        ("service.fleet.supervisor", "from ..engine import loop"),
        ("service.engine.loop", "from service.telemetry import Metrics"),
        ("service.engine.loop", "from service.fleet.ticket import Ticket"),
        ("conformance.client", "from service.protocol import Job"),
        ("conformance.client", "import mlx_lm"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    """The rule has teeth: one forbidden import, wherever it stands, is named."""
    assert 1 == len(breaches(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.engine.loop", "import mlx.core as mx\nfrom service.catalog import card"),
        ("service.web.edge", "from service.openai.errors import envelope"),
        ("service.web.resources.chat", "from service.web import sse\nimport falcon"),
        ("service.fleet.supervisor", "from .ticket import Ticket"),
        ("conformance.client", "from conformance import sse"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    """The rule forbids nothing that the house needs."""
    assert [] == breaches(source, module)


def rooms_of_the_house() -> list[str]:
    """Return the rooms in the order of the table in `service/README.md`, top to bottom."""
    text = (ROOT / "service" / "README.md").read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `")]
    names = [name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    return [name.strip("/").removesuffix(".py") for name in names]


def test_imports_go_down_the_table_of_the_house() -> None:
    """The README of the house is true: no room imports from one that stands above it."""
    ranks = {room: rank for rank, room in enumerate(rooms_of_the_house())}
    ranks["__main__"] = ranks["app"]
    upward = []
    for path in sorted((ROOT / "service").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        room = room_of(module)
        if room is None or room not in ranks:  # the package's own empty `__init__`
            continue
        names = imported_modules(path.read_text("utf-8"), module)
        targets = {target for target in map(room_of, names) if target is not None}
        upward += [
            f"{module} imports from {target}"
            for target in targets & ranks.keys()
            if target != room and ranks[target] <= ranks[room] and room != "__main__"
        ]

    assert [] == upward
