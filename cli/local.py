"""What a running ``up`` tells the other commands started in the same folder: its addresses."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from prefect.context import refresh_global_settings_context

from ..core.errors import ConfigurationError
from ..core.settings import settings

_FILE = "up.json"


def publish(folder: Path, env: dict[str, str]) -> None:
    """Write the environment that other commands need; it has no secret, and is its owner's."""
    write_private(folder / _FILE, json.dumps(env, indent=2) + "\n")


def write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone reads, the whole of it or nothing."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    new.rename(file)


def withdraw(folder: Path) -> None:
    """Remove what was published."""
    (folder / _FILE).unlink(missing_ok=True)


def adopt() -> None:
    """Take over the addresses of a running ``up`` that the environment does not give itself."""
    try:
        known: dict[str, str] = json.loads((settings().data_dir / _FILE).read_text())
    except (OSError, ValueError):
        return
    use({name: value for name, value in known.items() if name not in os.environ})


def use(env: dict[str, str]) -> None:
    """Set environment variables that settings, ours and Prefect's, then follow."""
    os.environ.update(env)
    settings.cache_clear()
    refresh_global_settings_context()


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold the data folder for one ``up`` alone.

    Raises:
        ConfigurationError: another one holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigurationError(
                f"Another `prefect-n8n up` (process {file.read().strip()}) uses {folder}: stop it,"
                " or give this one a folder of its own with --data-dir."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
