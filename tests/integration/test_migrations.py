"""The migrations make what the SQLModel tables say, once, whoever runs them and however often."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from prefect_n8n.cli.postgres import start_postgres
from prefect_n8n.core.errors import ConfigurationError, LedgerUnavailable
from prefect_n8n.ledger.database import driver_url
from prefect_n8n.ledger.tables import SCHEMA, metadata
from prefect_n8n.migrations import run
from prefect_n8n.migrations.run import current, head, migrate
from support.postgres import Cluster, Ledger

VERSION_TABLE = "schema_version"

COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
"""
CONSTRAINTS = """
    SELECT c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid), k.condeferrable,
           k.convalidated
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.connamespace = 'prefect_n8n'::regnamespace
"""
INDEXES = """
    SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'prefect_n8n'
"""
SECURITY = """
    SELECT 'policy', tablename || '.' || policyname, concat_ws(' | ', cmd, roles, qual, with_check)
    FROM pg_policies WHERE schemaname = 'prefect_n8n'
    UNION ALL
    SELECT 'table', c.relname, concat_ws(' | ', c.relrowsecurity, c.relforcerowsecurity, c.relacl)
    FROM pg_class c WHERE c.relnamespace = 'prefect_n8n'::regnamespace
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid) || p.proacl::text
    FROM pg_proc p WHERE p.pronamespace = 'prefect_n8n'::regnamespace
    UNION ALL
    SELECT 'trigger', t.tgname, pg_get_triggerdef(t.oid) || t.tgenabled::text
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND NOT t.tgisinternal
"""


def rows(url: str, query: str) -> set[tuple[Any, ...]]:
    """What the query finds, apart from Alembic's own table."""
    with psycopg.connect(url) as connection:
        found = connection.execute(query).fetchall()  # type: ignore[arg-type]
    return {row for row in found if row[0] != VERSION_TABLE}


def everything(url: str) -> set[tuple[Any, ...]]:
    """The whole catalogue of our schema."""
    return set().union(*(rows(url, query) for query in (COLUMNS, CONSTRAINTS, INDEXES, SECURITY)))


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty database, a superuser's."""
    name = cluster.create()
    yield cluster.url_of(name)
    cluster.drop(name)


@pytest.fixture(scope="module")
def fresh_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that has never seen us: no roles either."""
    with tempfile.TemporaryDirectory(prefix="pn8n-") as folder:
        Path(folder).chmod(0o755)
        server = start_postgres(Path(folder) / "pg")
        yield Cluster(server.url)
        server.stop()


@pytest.mark.parametrize("query", [COLUMNS, CONSTRAINTS, INDEXES], ids=["columns", "keys", "index"])
def test_the_tables_are_the_sum_of_the_migrations(ledger: Ledger, empty: str, query: str) -> None:
    """By PostgreSQL's own words for them: compare_metadata below passes over CHECKs, index
    conditions and the names of keys."""
    engine = create_engine(driver_url(empty))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        metadata.create_all(connection)
    engine.dispose()

    by_models, by_migrations = rows(empty, query), rows(ledger.admin_url, query)

    assert by_migrations - by_models == set(), "only the migrations have this"
    assert by_models - by_migrations == set(), "only ledger/tables.py has this"


def test_alembic_would_generate_nothing(ledger: Ledger) -> None:
    engine = create_engine(driver_url(ledger.admin_url))
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_schemas": True,
        "include_name": lambda name, kind, _: name == SCHEMA if kind == "schema" else True,
        "include_object": lambda _, name, kind, *__: (kind, name) != ("table", VERSION_TABLE),
    }
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(ledger: Ledger) -> None:
    before = everything(ledger.admin_url)
    assert migrate(ledger.admin_url) == migrate(ledger.admin_url) == head()
    assert everything(ledger.admin_url) == before


def test_several_at_once_make_one_ledger(ledger: Ledger, empty: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(migrate, [empty] * 4)) == {head()}
    assert everything(empty) == everything(ledger.admin_url)


def test_several_databases_at_once_share_the_new_roles(fresh_cluster: Cluster) -> None:
    """The roles are the cluster's; no lock of a database covers them."""
    urls = [fresh_cluster.url_of(fresh_cluster.create()) for _ in range(6)]
    with ThreadPoolExecutor(len(urls)) as pool:
        assert set(pool.map(migrate, urls)) == {head()}


def test_a_login_that_may_create_roles_need_not_be_a_superuser() -> None:
    with tempfile.TemporaryDirectory(prefix="pn8n-") as folder:
        Path(folder).chmod(0o755)
        server = start_postgres(Path(folder) / "pg")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE boss LOGIN CREATEROLE")
            for name in ("theirs", "ours"):
                connection.execute(f"CREATE DATABASE {name} OWNER boss")  # type: ignore[arg-type]
        try:
            url = server.url_of("theirs", "boss")
            assert migrate(url) == migrate(url) == head()
            # A superuser makes the same of it.
            assert migrate(server.url_of("ours")) == head()
            assert everything(url) == everything(server.url_of("ours"))
        finally:
            server.stop()


def test_a_migration_that_fails_leaves_nothing(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE SCHEMA prefect_n8n")
        connection.execute("GRANT ALL ON SCHEMA prefect_n8n TO PUBLIC")
        connection.execute("CREATE TABLE prefect_n8n.audit_log ()")
    with pytest.raises(ConfigurationError, match="audit_log"):
        migrate(empty)
    with psycopg.connect(empty) as connection:
        tables = "SELECT relname FROM pg_class WHERE relnamespace = 'prefect_n8n'::regnamespace"
        assert connection.execute(tables).fetchall() == [("audit_log",)]


def test_a_ledger_of_a_newer_package_is_left_alone(ledger: Ledger) -> None:
    with psycopg.connect(ledger.admin_url) as connection:
        connection.execute("UPDATE prefect_n8n.schema_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"9999.*install the newer"):
        migrate(ledger.admin_url)


def test_a_login_that_may_not_is_told_what_to_give(ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="PREFECT_N8N_MIGRATION_DATABASE_URL"):
        migrate(ledger.app_url)


def test_a_postgresql_that_is_too_old_is_refused(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MIN_SERVER_VERSION", 990_000)
    with pytest.raises(ConfigurationError, match="needs 14 or newer"):
        migrate(empty)
    assert rows(empty, INDEXES) == set()


def test_a_server_that_is_away_is_no_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        migrate(f"postgresql://nobody@/nothing?host={tmp_path}")


def test_the_version_can_be_asked(ledger: Ledger, empty: str) -> None:
    found: list[str | None] = []
    for url in (ledger.admin_url, empty):
        engine = create_engine(driver_url(url))
        with engine.connect() as connection:
            found.append(current(connection))
        engine.dispose()
    assert found == [head(), None]


def test_versions_are_one_line_in_the_order_of_their_names() -> None:
    """Newer and older are told apart by comparing the names as text."""
    scripts = ScriptDirectory.from_config(run._config())  # type: ignore[attr-defined]
    newest_first = [script.revision for script in scripts.walk_revisions()]
    assert newest_first == sorted(newest_first, reverse=True)
    assert all(len(name) == 4 and name.isdigit() for name in newest_first)
    assert len(scripts.get_bases()) == len(scripts.get_heads()) == 1
