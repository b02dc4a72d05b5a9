"""
Which models there are, where there are several: by a file, by a folder of models, or both.

    [[model]]                             # the first is the default: loaded at the start, and kept
    id = "chat"
    path = "~/models/gemma-3-4b-it-4bit"
    aliases = ["gpt-4o"]

    [[model]]                             # any other is loaded when a request asks for it
    id = "coder"
    path = "~/models/Qwen3-Coder-30B-4bit"
    idle_timeout = 600
    context_length = 32768                # settings of its own, by the variable's name in lower case

Each model has the settings of the server, but for those that its table says otherwise.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from service.catalog import source
from service.catalog.card import UnfitModel, read_card
from service.catalog.kind import kind_of
from service.fleet.served_model import Stay
from service.protocol import Load, ModelCard
from service.settings import BOOT_FAILURE_STATUS, OPTIONS, Seconds, Settings
from service.tables import line_of

MB = 1_000_000
SHARE_OF_MACHINE = 2 / 3  # taste: what Metal recommends on most Macs, and room for everything else
MAX_SHARES = 4  # taste: more models than these are hardly loaded at the same time

_OWN_KEYS = ("id", "path", "aliases", "on_demand", "pin", "idle_timeout")
_API_SIDE = {"queue_size", "queue_timeout_s", "load_timeout_s", "engine_memory_mb"}
_NOT_HERE = {"model_path", "model_id", "log_level"}
SETTING_OF_KEY = {
    option.metadata["env"].lower(): option
    for option in OPTIONS
    if option.name in ({*Load.__struct_fields__} | _API_SIDE) - _NOT_HERE
}
"""What else a model's table may have, by key."""


_ALWAYS = Stay()


class BadModels(click.ClickException):
    """What is wrong with the models that were asked for, and where; the start is stopped."""

    exit_code = BOOT_FAILURE_STATUS


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    One model, as it is to be served.

    Attributes:
        settings: all that its engine and its queue are made with, its id and its share of memory included.
        stay: when it is in memory.
        aliases: further names of it.
        card: what its files say of it; None: they aren't on this machine yet.
        has_share: its memory is a share of what all have, and nobody's wish.
    """

    settings: Settings
    stay: Stay = _ALWAYS
    aliases: tuple[str, ...] = ()
    card: ModelCard | None = None
    has_share: bool = False

    def in_memory_of(self, other: Plan) -> Plan:
        """Return the same with the share of memory that *other* has; without shares, as it is."""
        if not (self.has_share and other.has_share):
            return self
        return dataclasses.replace(
            self,
            settings=dataclasses.replace(self.settings, memory_mb=other.settings.memory_mb),
            stay=dataclasses.replace(self.stay, memory_bytes=other.stay.memory_bytes),
        )


def plans(settings: Settings) -> list[Plan]:
    """
    Return all models to serve, the default first; without a file or a folder the one that *settings* name.

    Raises:
        BadModels: a table can't be used, two models share a name, or a folder isn't there.
    """
    if settings.models_file is None and settings.models_dir is None:
        return [Plan(settings)]
    tables = [*_first(settings), *_in_file(settings), *_in_folder(settings)]
    if not tables:
        raise BadModels(f"MODELS_DIR {settings.models_dir!r} holds no model.")
    _check_names(tables)
    budget_bytes = memory_bytes(settings)
    share_bytes = int(budget_bytes / 2 / min(len(tables), MAX_SHARES))
    return [table.plan(share_bytes, is_default=i == 0) for i, table in enumerate(tables)]


def memory_bytes(settings: Settings) -> int:
    """Return how much memory all engines may hold together."""
    if settings.models_memory_mb is not None:
        return settings.models_memory_mb * MB
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(machine_bytes * SHARE_OF_MACHINE)


@dataclasses.dataclass(frozen=True)
class _Table:
    """
    One model as it was asked for.

    Attributes:
        where: where that stands, for an error.
        settings: with those of its own.
        own: the keys that are no settings.
    """

    where: str
    settings: Settings
    own: Mapping[str, Any]

    def plan(self, share_bytes: int, *, is_default: bool) -> Plan:
        """Return what it comes to; *share_bytes* is its part of the memory, beside its weights."""
        folder = self._folder()
        on_demand = self.own.get("on_demand", not is_default)
        if is_default and on_demand:
            raise BadModels(f"{self.where}: the first model is the default and can't be on_demand.")
        if on_demand and folder is None:
            raise BadModels(
                f"{self.where}: {self.settings.model_path!r} is not on this machine; "
                "on_demand = false downloads it at the start."
            )
        idle_s = self.own.get("idle_timeout", self.settings.model_idle_timeout_s)
        planned_mb = self.settings.memory_mb
        if planned_mb is None:
            planned_mb = (int(1.1 * _weights_bytes(folder)) + share_bytes) // MB
        return Plan(
            dataclasses.replace(self.settings, memory_mb=planned_mb),
            Stay(
                is_on_demand=on_demand,
                is_pinned=self.own.get("pin", False),
                idle_s=idle_s if on_demand else None,
                memory_bytes=planned_mb * MB,
            ),
            tuple(self.own.get("aliases", ())),
            self._card(folder),
            has_share=self.settings.memory_mb is None,
        )

    def _folder(self) -> Path | None:
        """Return where its files are; None: they have to be downloaded."""
        try:
            found = source.of(str(self.settings.model_path), "path")
        except UnfitModel as error:
            raise BadModels(f"{self.where}: {error} ({self.settings.model_path!r}).") from None
        return source.snapshot_in(found) if isinstance(found, Path) else source.cached(found)

    def _card(self, folder: Path | None) -> ModelCard | None:
        if folder is None:
            return None
        try:
            return read_card(
                folder,
                str(self.settings.model_id),
                self.settings.context_length,
                created=1,
                kind=kind_of(folder, self.settings.model_type),
            )
        except UnfitModel as error:
            raise BadModels(f"{self.where}: {error}.") from None


def _first(settings: Settings) -> Iterator[_Table]:
    """Yield the model of MODEL_PATH, which is the default beside a file or a folder, too."""
    if settings.model_path is not None:
        name = settings.model_id or source.name_of(settings.model_path)
        yield _Table("MODEL_PATH", dataclasses.replace(settings, model_id=name), {})


def _in_folder(settings: Settings) -> Iterator[_Table]:
    """Yield the models in MODELS_DIR, by name."""
    if settings.models_dir is None:
        return
    folder = Path(settings.models_dir).expanduser()
    if not folder.is_dir():
        raise BadModels(f"MODELS_DIR {settings.models_dir!r} is no folder.")
    for each in sorted(folder.iterdir()):
        if (each / "config.json").is_file():
            own = dataclasses.replace(settings, model_path=str(each), model_id=each.name)
            yield _Table(f"MODELS_DIR, {each.name}", own, {})


def _in_file(settings: Settings) -> Iterator[_Table]:
    """Yield the models in MODELS_FILE, in their order."""
    if settings.models_file is None:
        return
    path = Path(settings.models_file).expanduser()
    try:
        text = path.read_text("utf-8")
        found = tomllib.loads(text)
    except OSError as error:
        raise BadModels(f"MODELS_FILE {settings.models_file!r}: {error.strerror}.") from None
    except ValueError as error:  # no UTF-8, or no TOML: the message has the line
        raise BadModels(f"{path.name}: {error}.") from None
    tables = found.pop("model", [])
    for key in found:
        raise BadModels(f"{path.name}, line {line_of(text, 'model', 0, key)}: unknown key {key!r}.")
    if not isinstance(tables, list) or not tables:
        raise BadModels(f"{path.name}: it has no [[model]].")
    for number, table in enumerate(tables, 1):
        yield _read(settings, table, _Place(path, text, number))


@dataclasses.dataclass(frozen=True)
class _Place:
    """The table with this *number* in a file, counted from 1."""

    path: Path
    text: str
    number: int

    def at(self, key: str) -> str:
        """Return where *key* stands in it, or the table itself where it has none."""
        return f"{self.path.name}, line {line_of(self.text, 'model', self.number, key)}"


def _read(settings: Settings, table: Mapping[str, Any], place: _Place) -> _Table:
    changed: dict[str, Any] = {}
    for key in ("id", "path"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise BadModels(f"{place.at(key)}: a model needs {key!r}, a text that is not empty.")
    for key, value in table.items():
        if key in SETTING_OF_KEY:
            option = SETTING_OF_KEY[key]
            changed[option.name] = _converted(option.metadata["kind"], value, key, place)
        elif key not in _OWN_KEYS:
            known = ", ".join((*_OWN_KEYS, *SETTING_OF_KEY))
            raise BadModels(f"{place.at(key)}: unknown key {key!r}; there are {known}.")
    own = {key: table[key] for key in _OWN_KEYS if key in table}
    for key in ("on_demand", "pin"):
        if not isinstance(own.get(key, False), bool):
            raise BadModels(f"{place.at(key)}: {key!r} is true or false.")
    if "idle_timeout" in own:
        own["idle_timeout"] = _converted(
            Seconds(0, 86400, min_open=True), own["idle_timeout"], "idle_timeout", place
        )
    aliases = own.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) and a for a in aliases):
        raise BadModels(f"{place.at('aliases')}: 'aliases' is a list of texts.")
    path = _path(table["path"], place)
    changed |= {"model_path": path, "model_id": table["id"]}
    return _Table(place.at("id"), dataclasses.replace(settings, **changed), own)


def _path(path: str, place: _Place) -> str:
    """Return *path*; one that begins with a dot is meant from the file's own folder."""
    return str(place.path.parent / path) if path.startswith(".") else path


def _converted(kind: click.ParamType[Any], value: Any, key: str, place: _Place) -> Any:
    if isinstance(kind, click.types.StringParamType) and not isinstance(value, str):
        raise BadModels(f"{place.at(key)}: {key!r} is a text.")
    try:
        return kind.convert(value, None, None)
    except click.BadParameter as error:
        raise BadModels(f"{place.at(key)}: {key!r}: {error.message}") from None


def _check_names(tables: Sequence[_Table]) -> None:
    taken: dict[str, str] = {}
    for table in tables:
        for name in (str(table.settings.model_id), *table.own.get("aliases", ())):
            if name in taken:
                raise BadModels(f"{table.where}: {name!r} is a name of {taken[name]} already.")
            taken[name] = str(table.settings.model_id)


def _weights_bytes(folder: Path | None) -> int:
    """Return what the weights in *folder* take; none that aren't on this machine count."""
    files = [] if folder is None else folder.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)
