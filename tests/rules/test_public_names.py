"""What users see: the façade's names, found lazily, and a docstring on everything public."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.core import Block

import prefect_n8n

ROOT = Path(__file__).parents[2]
OUTSIDE = {"tests", "benchmarks", "examples", "docs", "build", "dist"}
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in OUTSIDE
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FACADE = ast.parse((ROOT / "__init__.py").read_text("utf-8"))

# One fresh interpreter, away from the checkout: which names and modules are there before and after.
LOOK = """
import json, sys
import prefect_n8n
ours = lambda: sorted(name for name in sys.modules if name.startswith("prefect_n8n."))
before = ours()
there = [name for name in prefect_n8n.__all__ if name in vars(prefect_n8n)]
got = {name: type(getattr(prefect_n8n, name)).__name__ for name in prefect_n8n.__all__}
star = {}
exec("from prefect_n8n import *", star)
print(json.dumps({"before": before, "there": there, "got": sorted(got), "after": ours(),
                  "star": sorted(name for name in star if not name.startswith("__"))}))
"""


def under_type_checking() -> dict[str, str]:
    """The façade's names for type checkers, each with its module."""
    return {
        alias.name: f".{node.module}"
        for block in FACADE.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_and_the_interpreter_know_the_same_lazy_names() -> None:
    assert under_type_checking() == prefect_n8n._LAZY  # type: ignore[attr-defined]


def test_every_name_of_the_facade_is_listed_once() -> None:
    eager = {
        alias.name
        for node in FACADE.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert sorted(prefect_n8n.__all__) == sorted({*eager, *under_type_checking()})


def test_names_are_found_and_lazily(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    lazy = under_type_checking()
    assert found["got"] == found["star"] == sorted(prefect_n8n.__all__)
    assert set(found["there"]) == set(prefect_n8n.__all__) - set(lazy)
    for module in lazy.values():
        assert f"prefect_n8n{module}" not in found["before"]
        assert f"prefect_n8n{module}" in found["after"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prefect_n8n.nothing  # type: ignore[attr-defined]


def test_blocks_are_eager() -> None:
    """`prefect block register -m prefect_n8n` scans the module and would trigger no lazy name."""
    blocks = importlib.import_module("prefect_n8n.blocks")
    for name in blocks.__all__:
        found = getattr(blocks, name)
        if isinstance(found, type) and issubclass(found, Block):
            assert vars(prefect_n8n)[name] is found
    assert any(isinstance(v, type) and issubclass(v, Block) for v in vars(prefect_n8n).values())


@pytest.mark.parametrize("name", prefect_n8n.__all__)
def test_every_name_of_the_facade_is_documented(name: str) -> None:
    assert (getattr(prefect_n8n, name).__doc__ or "").strip()


def undocumented(tree: ast.Module, where: str) -> Iterator[str]:
    """Public modules, classes, their public methods, and functions, without a docstring."""
    if ast.get_docstring(tree) is None:
        yield where
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _undocumented(node, where)


def _undocumented(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, where: str
) -> Iterator[str]:
    if node.name.startswith("_"):
        return
    if ast.get_docstring(node) is None:
        yield f"{where}:{node.lineno} {node.name}"
    for inner in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _undocumented(inner, where)


def test_everything_public_is_documented() -> None:
    missing = [
        line
        for path in MODULES
        for line in undocumented(ast.parse(path.read_text("utf-8")), str(path.relative_to(ROOT)))
    ]
    assert missing == []


def test_what_modules_export_exists() -> None:
    missing: list[str] = []
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("migrations", "env"):
            continue  # Alembic runs it.
        name = ".".join(["prefect_n8n", *(part for part in parts if part != "__init__")])
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        missing += [f"{name}.{each}" for each in exported if not hasattr(module, each)]
    assert missing == []
