"""Imports go one way: the rooms of the house, read from the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STOREYS = (
    {"protocol", "errors", "settings", "tables"},
    {"contracts", "catalog", "telemetry"},
    {"openai"},
    {"anthropic"},
    {"fleet"},
    {"web", "models_file"},
    {"roster"},
    {"app"},
    {"command"},
    {"__main__"},
)
RANKS = {room: rank for rank, rooms in enumerate(STOREYS) for room in rooms}
ENGINE_MAY_IMPORT = {"engine", "protocol", "settings", "errors", "catalog"}
# The rooms of the engine, lowest first, and which of the others each may import.
ENGINE_ROOMS: dict[str, set[str]] = {
    "model": set(),
    "cache": {"model"},
    "text": {"model"},
    "embed": {"model", "text"},
    "vision": {"model", "cache", "text"},
    "constrain": {"model", "text"},
    "decoding": {"model", "cache", "text", "constrain"},
    "scheduler": {"model", "cache", "text", "constrain", "decoding"},
}
TRAINING_MAY_IMPORT = ENGINE_MAY_IMPORT | {"training"}
HEAVY = {
    "mlx",
    "mlx_lm",
    "mlx_embeddings",
    "mlx_vlm",
    "mlx_whisper",
    "transformers",
    "huggingface_hub",
}


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


def engine_room_of(name: str) -> str | None:
    """Return the room of the engine that a dotted name leads into; "" above all of them, None elsewhere."""
    if room_of(name) != "engine":
        return None
    room = [*name.split("."), ""][2]
    return room if room in ENGINE_ROOMS else ""


def engine_breaches(source: str, module: str) -> list[str]:
    """Return what *source* imports against the rule of the engine's rooms."""
    room = engine_room_of(module)
    if not room:  # a module above the rooms may import all of them
        return []
    return [
        f"{module} imports {name}"
        for name in imported_modules(source, module)
        if engine_room_of(name) not in {None, room, *ENGINE_ROOMS[room]}
    ]


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
    "module", [name for name in MODULES if engine_room_of(name) not in {None, ""}]
)
def test_imports_go_down_in_the_engine(module: str) -> None:
    """A module of one of its rooms imports only what the room's row allows, and nothing above the rooms."""
    source = MODULES[module].read_text(encoding="utf-8")

    assert [] == engine_breaches(source, module)


def test_rooms_of_the_engine_are_all_known() -> None:
    """Each has its row here and in the README of the house, which say the same."""
    text = (ROOT / "service" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `engine/(\w+)/` \|.*\| ([\w, ]*)\|$", text, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "service" / "engine").glob("*/__init__.py")}

    assert folders == ENGINE_ROOMS.keys()
    assert [room for room, _ in rows] == [*reversed(ENGINE_ROOMS)]
    assert {room: set(re.findall(r"\w+", names)) for room, names in rows} == ENGINE_ROOMS


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.engine.model.load", "from service.engine.cache.kv import Caches"),
        ("service.engine.cache.kv", "from service.engine.text import prompt"),
        ("service.engine.text.prompt", "from service.engine.cache.prefix_cache import PrefixCache"),
        ("service.engine.text.answer", "from service.engine.constrain import grammar"),
        ("service.engine.text.answer", "from ..constrain import grammar"),
        ("service.engine.constrain.compile", "def f():\n    import service.engine.cache.kv"),
        ("service.engine.constrain.compile", "from service.engine import prepare"),
        ("service.engine.decoding.sampling", "from service.engine.scheduler import scheduler"),
        ("service.engine.scheduler.scheduler", "from service.engine.warmup import warm_up"),
        ("service.engine.scheduler.scheduler", "from service import engine"),
    ],
)
def test_a_breach_in_the_engine_is_found(module: str, source: str) -> None:
    """The rule of the engine's rooms has teeth, too."""
    assert 1 == len(engine_breaches(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.engine.model.load", "from service.engine.model.fold import fold_norms"),
        ("service.engine.text.prompt", "from service.engine.model.vocabulary import Vocabulary"),
        ("service.engine.constrain.token_mask", "from service.engine.text.prompt import TokenMask"),
        ("service.engine.decoding.batch", "from service.engine.cache import kv\nimport mlx.core"),
        ("service.engine.scheduler.scheduler", "from ..decoding.sampling import Sampler"),
        ("service.engine.scheduler.scheduler", "from service.protocol import Delta"),
        ("service.engine.prepare", "from service.engine.constrain.compile import GrammarCompiler"),
        ("service.engine.loop", "from service.engine.prepare import Preparer"),
    ],
)
def test_what_is_allowed_in_the_engine_passes(module: str, source: str) -> None:
    """A room may import its own modules and the rooms of its row; what stands above may import all."""
    assert [] == engine_breaches(source, module)


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
