"""Who may import whom, how long things may get, and that no module has two names."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "prefect_n8n"
EVERYTHING = frozenset(
    {"blocks", "cli", "core", "flows", "launcher", "ledger", "migrations", "receiver"}
)

# Data flows one way: receiver, ledger, launcher, flows, blocks, n8n. core knows no other room and
# any room may know it.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "": frozenset({"blocks"}),
    "core": frozenset(),
    "ledger": frozenset({"core"}),
    "blocks": frozenset({"core"}),
    "flows": frozenset({"core", "ledger", "blocks"}),
    "receiver": frozenset({"core", "ledger", "blocks"}),
    "launcher": frozenset({"core", "ledger", "flows"}),
    "cli": EVERYTHING,
    "migrations": frozenset({"core", "ledger"}),
}
NOT_OURS = {"tests", "benchmarks", "examples", "docs", "build", "dist"}

MAX_FUNCTION, MAX_FUNCTION_P90, MAX_FILE = 70, 25, 400


def python_files(folder: Path) -> list[Path]:
    """All modules under a folder, without hidden ones and what builds leave."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not any(
            part.startswith(".") or part in ("build", "dist", "__pycache__")
            for part in path.relative_to(folder).parts
        )
    )


EVERY_FILE = python_files(ROOT)
MODULES = [path for path in EVERY_FILE if path.relative_to(ROOT).parts[0] not in NOT_OURS]
FOLDERS = sorted({path.relative_to(ROOT).parts[0] for path in MODULES if path.parent != ROOT})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """The folder of the package; '' is the façade's."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of ours: relative, absolute, and within functions too."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        targets: list[list[str]] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            # `from .. import ledger` names the room last.
            targets = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        for target in targets:
            if target[0] == PACKAGE:
                room = target[1] if len(target) > 1 else ""
                yield node.lineno, room if room in EVERYTHING else ""


def is_for_types_alone(path: Path, line: int) -> bool:
    """Whether the line stands under ``if TYPE_CHECKING``."""
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and node.lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def test_every_folder_has_its_line_in_the_table() -> None:
    assert FOLDERS == sorted(EVERYTHING) == sorted(set(MAY_IMPORT) - {""})


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    # The façade's lazy names are for type checkers; its own are everyone's, as its version is.
    wrong = [
        f"{name_of(path)}:{line} imports {target or 'the façade'}"
        for path in MODULES
        if room_of(path) == room
        for line, target in rooms_imported(path)
        if target != room
        and target not in MAY_IMPORT[room]
        and not (room == "cli" and target == "")
        and not (room == "" and is_for_types_alone(path, line))
    ]
    assert wrong == []


def test_no_room_needs_another_that_needs_it() -> None:
    """The table itself has no circle."""
    left = {room: set(known) - {room} for room, known in MAY_IMPORT.items() if room}
    while free := {room for room, known in left.items() if not known}:
        left = {room: known - free for room, known in left.items() if room not in free}
    assert left == {}


def two_names(path: Path) -> Iterator[str]:
    """Absolute imports of our folders; within the package, of the package too."""
    banned = EVERYTHING | ({PACKAGE} if path in MODULES else set())
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in banned:
                yield f"{name_of(path)}:{node.lineno} imports {name}"


def test_no_module_has_two_names() -> None:
    """`import flows` works where the checkout is on the path, and defines everything twice; within
    the package imports are relative, outside it by the whole name."""
    assert [line for path in EVERY_FILE for line in two_names(path)] == []


def functions() -> Iterator[tuple[str, int]]:
    """(where, lines) of every function of the package, its docstring counted."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{name_of(path)}:{node.lineno} {node.name}", length


def test_functions_are_short() -> None:
    lengths = dict(functions())
    assert {where: n for where, n in lengths.items() if n > MAX_FUNCTION} == {}
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= MAX_FUNCTION_P90


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in EVERY_FILE}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}
