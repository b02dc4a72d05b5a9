"""The table of every documented field says what happens."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from tests.fields import INTERFACES, PACKAGES, TABLE, Interface, fields, table

TEXT = TABLE.read_text("utf-8")
FATES = {"honoured", "harmless", "told", "refused"}


def is_of_these_packages() -> bool:
    """Whether the makers' packages here are those that the table was made from."""
    return all(f"{name} {importlib.metadata.version(name)}" in TEXT for name in PACKAGES)


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda interface: interface.title)
def test_table_of_fields_says_what_happens(interface: Interface) -> None:
    """Each field has one of four fates, the one that the table tells; newer packages may have more."""
    part = TEXT.partition(f"## {interface.title}\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\S+)` \| (.+) \|$", part, re.MULTILINE))
    found = fields(interface)

    assert set(found.values()) <= FATES
    assert {path: fate for path, fate in found.items() if told.get(path, fate) != fate} == {}
    if is_of_these_packages():
        assert told == found


def test_table_of_fields_is_whole() -> None:
    """With the packages that it was made from it is as it would be made."""
    if is_of_these_packages():
        assert table() == TEXT
