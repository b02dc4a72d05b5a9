"""`cache.inside`: what is relied upon beyond mlx-lm's promises is there, and is used in one file alone."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import cache as mlx_lm_cache
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)

from service.engine.cache.inside import RELIED_UPON
from service.engine.cache.kv import merge

ENGINE = Path(__file__).parent.parent.parent / "service" / "engine"
THE_FILE = "cache/inside.py"
NOT_OURS = {"BatchGenerator", "GenerationBatch", "PromptProcessingBatch"}


def examples() -> dict[type, Any]:
    """Return one cache of each class in mlx-lm that the engine meets, for a row or a batch, with tokens."""

    def filled(part: Any) -> Any:
        part.update_and_fetch(mx.zeros((1, 1, 3, 8)), mx.zeros((1, 1, 3, 8)))
        return part

    state = ArraysCache(1)
    state[0] = mx.zeros((1, 2))
    row = [filled(KVCache()), filled(RotatingKVCache(4)), state, CacheList(filled(KVCache()))]
    chunks = filled(ChunkedKVCache(4))  # of a row alone
    return {type(part): part for part in [*row, *merge([row]), chunks]}


def missing() -> list[str]:
    """Return what is relied upon and not there, by name."""
    found = examples()
    return [
        f"{kind.__name__}.{name}"
        for kind, names in RELIED_UPON.items()
        for name in names
        if kind not in found or not hasattr(found[kind], name)
    ]


def test_all_that_is_relied_upon_is_there() -> None:
    """Another mlx-lm that has it no more fails here with a list, and not by wrong tokens."""
    assert [] == missing()


def test_what_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list has teeth."""
    monkeypatch.delattr(mlx_lm_cache.BatchRotatingKVCache, "_temporal_order")
    monkeypatch.delattr(KVCache, "trim")

    assert ["KVCache.trim", "BatchRotatingKVCache._temporal_order"] == missing()


def test_state_of_a_row_is_as_it_is_read() -> None:
    """What is put into another class, and saved and loaded, has the fields that it had."""
    part = examples()[KVCache]
    keys, values, offset = part.state

    assert (keys is part.keys, values is part.values, offset) == (True, True, part.offset)


@functools.cache
def hidden_names() -> set[str]:
    """Return the private names of all classes of mlx-lm that have to do with caches and batches."""
    modules = (mlx_lm_cache, import_module("mlx_lm.generate"))
    kinds = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    names = {name for kind in kinds if kind.__module__.startswith("mlx_lm") for name in dir(kind)}
    names |= {name for part in examples().values() for name in vars(part)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def of_mlx_lm(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what is imported from mlx-lm: its own name, and what it is called here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "mlx_lm":
                    yield alias.name, alias.asname or "mlx_lm"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlx_lm"):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name


def breaches(source: str) -> list[str]:
    """Return what *source* does with the inside of mlx-lm."""
    tree = ast.parse(source)
    imported = list(of_mlx_lm(tree))
    found = [name for name, _ in imported if name.startswith("_") or name in NOT_OURS]
    here = {each for _, each in imported}
    hidden = hidden_names()
    own: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not here & set(map(ast.unparse, node.bases)):
            own |= set(filter(_is_of_self, ast.walk(node)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node in own:
            continue
        is_private = node.attr.startswith("_") and not node.attr.startswith("__")
        is_hidden = is_private and (not _is_of_self(node) or node.attr in hidden)
        is_put_there = isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in here
        if is_hidden or is_put_there or node.attr in NOT_OURS:
            found.append(ast.unparse(node))
    return [name for name in found if name != "os._exit"]  # which Python documents


def _is_of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
        "self",
        "__self",
        "cls",
        "super()",
    )


@pytest.mark.parametrize(
    "path", sorted(path.relative_to(ENGINE).as_posix() for path in ENGINE.rglob("*.py"))
)
def test_inside_is_known_in_one_file(path: str) -> None:
    """No other touches what mlx-lm hides, or takes its batches over."""
    found = breaches((ENGINE / path).read_text("utf-8"))

    assert bool(found) is (path == THE_FILE), found


@pytest.mark.parametrize(
    "source",
    [
        "from mlx_lm.generate import _merge_caches",
        "def f():\n    from mlx_lm.generate import BatchGenerator as Quiet",
        "import mlx_lm.generate as g\ng.GenerationBatch",
        "def f(part):\n    return part._idx",
        "def f(part):\n    part._offset += 1",
        "from mlx_lm.models.cache import KVCache as K\nclass A(K):\n    def f(self):\n        self._idx = 1",
        "from mlx_lm.models import cache\ncache.Mine = int",
    ],
)
def test_a_breach_is_found(source: str) -> None:
    """The rule has teeth: each way to the inside is named."""
    assert 1 == len(breaches(source))


@pytest.mark.parametrize(
    "source",
    [
        "from mlx_lm.generate import StopSequences, TextStateMachine, make_stop_sequences",
        "class A:\n    def f(self):\n        return self._idx",
        "from mlx_lm.models.cache import KVCache\nclass A(KVCache):\n    def f(self):\n        self._mine()",
        "def f(part):\n    return part.offset, part.__class__",
    ],
)
def test_what_is_allowed_passes(source: str) -> None:
    """What mlx-lm offers openly is used as it is, and our own classes may have what they like."""
    assert [] == breaches(source)
