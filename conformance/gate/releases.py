"""Contracts as they are worked on, and as they were released: one JSON file for each version."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SUFFIX = ".schema.json"


class Unreadable(Exception):
    """Contracts, a release or a version that can't be read; the text is one line for people."""


class Version(NamedTuple):
    """A version of the contracts, in the order of Semantic Versioning; there are no pre-releases."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def parse(cls, text: object) -> "Version":
        """
        Read `MAJOR.MINOR.PATCH`.

        Raises:
            Unreadable: it is anything else.
        """
        if not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}", str(text)):
            raise Unreadable(f"{text!r} is no version of the form MAJOR.MINOR.PATCH")
        return cls(*map(int, str(text).split(".")))


@dataclass(frozen=True)
class Contracts:
    """
    All contracts of one version.

    Attributes:
        version: what the OpenAPI document says of itself.
        openapi: that document; its bodies refer to the schemas by file name.
        schemas: each schema by its name, such as `chat-request`.
    """

    version: Version
    openapi: Any
    schemas: dict[str, Any]


def read_folder(folder: Path) -> Contracts:
    """
    Read the contracts that are worked on in *folder*.

    Raises:
        Unreadable: a file is missing or broken.
    """
    import yaml

    path = folder / "openapi.yaml"
    try:
        openapi = yaml.safe_load(path.read_text(encoding="utf-8"))
        version = openapi["info"]["version"]
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise Unreadable(f"{path}: {error}") from None
    schemas = {
        path.name.removesuffix(SUFFIX): read_json(path)
        for path in sorted(folder.glob(f"*{SUFFIX}"))
    }
    return Contracts(Version.parse(version), openapi, schemas)


def read_json(path: Path) -> Any:
    """
    Read one JSON file.

    Raises:
        Unreadable: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: {error}") from None


def read_last(folder: Path) -> Contracts | None:
    """
    Read the release with the highest version in *folder*; None where there is no release.

    Raises:
        Unreadable: its file is broken, or a file's name is no version.
    """
    versions = [Version.parse(path.stem) for path in folder.glob("*.json")]
    if not versions:
        return None
    path = folder / f"{max(versions)}.json"
    try:
        return Contracts(max(versions), **read_json(path))
    except TypeError:
        raise Unreadable(f"{path}: no release, which has `openapi` and `schemas`") from None


def write(contracts: Contracts, folder: Path) -> Path:
    """
    Write *contracts* as the release of their version, and return its file.

    Raises:
        FileExistsError: that version was released before; a release never changes.
    """
    path = folder / f"{contracts.version}.json"
    document = {"openapi": contracts.openapi, "schemas": contracts.schemas}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
