"""
Faults: each is the correct server with one method changed, and says which requirement that breaks.

    @breaks("DISC-5")
    class OwnerIsOpenai(Miniature):
        def model(self) -> dict[str, Any]:
            return super().model() | {"owned_by": "openai"}
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance.broken import faults
from conformance.broken.capable import Capable
from conformance.broken.miniature import Miniature

CORRECT = Capable


@dataclass(frozen=True)
class Fault:
    """
    One wrong server.

    Attributes:
        name: the class's name in kebab case.
        breaks: the requirement that it is the proof of.
        also: its collateral: other requirements that can't hold either.
    """

    name: str
    server: type[Miniature]
    breaks: str
    also: frozenset[str]


_FAULTS: dict[str, Fault] = {}


def breaks(
    requirement: str, *, also: Iterable[str] = ()
) -> Callable[[type[Miniature]], type[Miniature]]:
    """Register a class as the fault that breaks *requirement*, and *also* others by the way."""

    def register(server: type[Miniature]) -> type[Miniature]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", server.__name__).lower()
        if name in _FAULTS:
            raise ValueError(f"there are two faults called {name}")
        # A fault of the miniature is one of the correct server: what it calls by super() is that.
        wrong = type(server.__name__, (server, CORRECT), {})
        _FAULTS[name] = Fault(name, wrong, requirement, frozenset(also))
        return server

    return register


def find(name: str) -> Fault:
    """
    Return one fault, without importing the modules of others.

    Raises:
        KeyError: there is none of that name.
    """
    title = "".join(part.capitalize() for part in name.split("-"))
    for path in faults.__path__:
        for file in sorted(Path(path).glob("*.py")):
            if f"class {title}(" in file.read_text(encoding="utf-8"):
                importlib.import_module(f"{faults.__name__}.{file.stem}")
    return _FAULTS[name]


def load() -> dict[str, Fault]:
    """Return all faults by name."""
    for module in pkgutil.iter_modules(faults.__path__):
        importlib.import_module(f"{faults.__name__}.{module.name}")
    return _FAULTS
