"""What users install: the built wheel has the package, all of it and nothing else, and works in an
environment that has never seen the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.xdist_group("wheel")

ROOT = Path(__file__).parents[2]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", ".prefect-n8n", "__pycache__", "*.egg-info",
    "build", "dist", "node_modules",
)  # fmt: skip
OUTSIDE = {"tests", "benchmarks", "examples", "docs", "build", "scratch"}

EVERY_MODULE = """
import importlib, pkgutil, sys
import prefect_n8n
found = [m.name for m in pkgutil.walk_packages(prefect_n8n.__path__, "prefect_n8n.")]
for name in found:
    if name != "prefect_n8n.migrations.env":  # Alembic runs it.
        importlib.import_module(name)
from prefect_n8n.migrations.run import head
assert all(m.__file__.startswith(sys.prefix) for n, m in sys.modules.items()
           if n.split(".")[0] == "prefect_n8n" and m.__file__)
print(len(found), head())
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Wheel:
    """The wheel, and the sources it was built from."""

    file: Path
    sources: Path

    def names(self) -> set[str]:
        """Every file in it."""
        with ZipFile(self.file) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}

    def read(self, name: str) -> str:
        """A file of its dist-info."""
        (full,) = [each for each in self.names() if each.endswith(f".dist-info/{name}")]
        with ZipFile(self.file) as wheel:
            return wheel.read(full).decode()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built from a copy: what an earlier build left in the checkout would get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    shutil.copytree(ROOT, sources, ignore=NOT_SOURCES)
    # A stray module beside the package's own would be a part of it, if folders were not listed.
    (sources / "scratch").mkdir()
    (sources / "scratch" / "__init__.py").touch()
    run("uv", "build", "--wheel", "--python", sys.executable, "-o", folder / "dist", cwd=sources)
    (file,) = (folder / "dist").glob("*.whl")
    return Wheel(file, sources)


def test_it_holds_the_package_and_nothing_else(wheel: Wheel) -> None:
    version = tomllib.loads((wheel.sources / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.file.name == f"prefect_n8n-{version}-py3-none-any.whl"
    tops = {name.split("/")[0] for name in wheel.names()}
    assert tops == {"prefect_n8n", f"prefect_n8n-{version}.dist-info"}


def test_no_module_and_no_data_file_is_forgotten(wheel: Wheel) -> None:
    wanted = {"py.typed"}
    for pattern in ("**/*.py", "**/*.sql", "n8n/*.*"):
        wanted |= {str(path.relative_to(wheel.sources)) for path in wheel.sources.glob(pattern)}
    wanted = {name for name in wanted if name.split("/")[0] not in OUTSIDE}
    held = {name for name in wheel.names() if name.startswith("prefect_n8n/")}
    assert held == {f"prefect_n8n/{name}" for name in wanted}
    assert any(name.endswith(".sql") for name in held)


def test_prefect_and_the_shell_can_find_it(wheel: Wheel) -> None:
    points = ConfigParser()
    points.read_string(wheel.read("entry_points.txt"))
    assert dict(points["prefect.collections"]) == {"prefect_n8n": "prefect_n8n"}
    assert dict(points["console_scripts"]) == {"prefect-n8n": "prefect_n8n.cli.app:main"}


def test_it_says_what_it_is(wheel: Wheel) -> None:
    about = Parser().parsestr(wheel.read("METADATA"))
    assert about["Name"] == "prefect-n8n"
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == "<3.14,>=3.11"
    assert "prefect<4,>=3.8" in about.get_all("Requires-Dist", [])
    assert (wheel.sources / "LICENSE").read_text() == wheel.read("licenses/LICENSE")


@pytest.fixture(scope="module")
def installed(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel, what it asks for, and nothing more. The
    versions are the lock's, which a checkout's own environment has already brought into the cache.
    """
    folder = tmp_path_factory.mktemp("installed")
    lock = ["--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "-o", folder / "lock.txt"]
    run("uv", "export", "-q", *lock, cwd=wheel.sources)
    run("uv", "venv", "-q", "--python", sys.executable, folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install = ["uv", "pip", "install", "-q", "--python", python]
    run(*install, "-c", folder / "lock.txt", wheel.file, cwd=folder)
    return python.parent


def test_every_module_imports_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    modules, version = run(installed / "python", "-c", EVERY_MODULE, cwd=tmp_path).split()
    assert int(modules) > 50
    assert version.isdigit()


def test_the_command_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    from prefect_n8n import __version__

    assert run(installed / "prefect-n8n", "--version", cwd=tmp_path).strip() == __version__
