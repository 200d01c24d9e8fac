"""No tenant sees, changes, deletes or collides with another's rows. Each test here runs for every
table there is, so that a new one is covered from its first day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import ForeignKeyViolation, InsufficientPrivilege
from psycopg.types.json import Jsonb
from sqlalchemy import ARRAY, DateTime, Float, Integer, LargeBinary, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from prefect_n8n.ledger.tables import SCHEMA, metadata
from support.postgres import Ledger

A = UUID("aaaaaaaa-0000-4000-8000-000000000000")
B = UUID("bbbbbbbb-0000-4000-8000-000000000000")
TABLES = [table.name for table in metadata.sorted_tables]
APPEND_ONLY = {"audit_log"}
SAME_ID = UUID(int=7)

every_table = pytest.mark.parametrize("name", TABLES)
Connection = psycopg.Connection[tuple[Any, ...]]


def of(name: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, name)


@contextmanager
def acting(url: str, tenant: UUID | None, role: str | None = None) -> Iterator[Connection]:
    """A transaction as the URL's login, or as ``role``, for ``tenant``; committed at its end."""
    with psycopg.connect(url) as connection:
        if role is not None:
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        if tenant is not None:
            connection.execute(
                "SELECT set_config('prefect_n8n.tenant_id', %s, true)", [str(tenant)]
            )
        yield connection


def value_for(kind: object, id: UUID) -> object:
    """Something that a column of this type takes, equal for equal ids."""
    for known, value in (
        (Uuid, id),
        (Text, str(id)),
        (Integer, id.int % 2_000_000_000),
        (Float, 0.0),
        (LargeBinary, id.bytes),
        (JSONB, Jsonb({})),
        (ARRAY, []),
        (DateTime, "2026-01-01T00:00:00Z"),
    ):
        if isinstance(kind, known):
            return value
    raise NotImplementedError(f"say in value_for what a column of type {kind!r} takes")


def row_of(table: Table, tenant: UUID, id: UUID = SAME_ID) -> dict[str, object]:
    """A whole row. Without ``id`` it is the same in each tenant, keys and references too."""
    values = {column.name: value_for(column.type, id) for column in table.columns}
    return values | {"tenant_id": tenant}


def insert(connection: Connection, table: Table, row: dict[str, object]) -> int:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        of(table.name),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    return connection.execute(statement, row).rowcount


def seen(connection: Connection, name: str) -> list[UUID]:
    """The tenants of the rows that the connection sees."""
    query = sql.SQL("SELECT tenant_id FROM {}").format(of(name))
    return [row[0] for row in connection.execute(query)]


def snapshot(ledger: Ledger, tenant: UUID) -> dict[str, list[Any]]:
    """All rows of a tenant, seen by a superuser."""
    with psycopg.connect(ledger.admin_url) as connection:
        query = "SELECT to_jsonb(t) FROM {} t WHERE tenant_id = %s"
        return {
            name: connection.execute(sql.SQL(query).format(of(name)), [tenant]).fetchall()
            for name in TABLES
        }


def changing(name: str, verb: str) -> sql.Composed:
    """A statement that would change, move or remove all rows."""
    return {
        "update": sql.SQL("UPDATE {} SET tenant_id = tenant_id"),
        "delete": sql.SQL("DELETE FROM {}"),
        "truncate": sql.SQL("TRUNCATE {} CASCADE"),
    }[verb].format(of(name))


@pytest.fixture
def free(ledger: Ledger) -> Ledger:
    """The ledger without CHECKs, so that a row can be made of a table's types alone."""
    with psycopg.connect(ledger.admin_url) as connection:
        checks = """
            SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
            WHERE k.connamespace = 'prefect_n8n'::regnamespace AND k.contype = 'c'
        """
        for table, check in connection.execute(checks).fetchall():
            drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
            connection.execute(drop.format(of(table), sql.Identifier(check)))
    return ledger


@pytest.fixture
def stocked(free: Ledger) -> Ledger:
    """One row in every table for A and for B: the same row, but for its tenant."""
    for tenant in (A, B):
        with acting(free.app_url, tenant) as connection:
            for table in metadata.sorted_tables:
                assert insert(connection, table, row_of(table, tenant)) == 1
    return free


@every_table
def test_no_tenant_means_no_rows(stocked: Ledger, name: str) -> None:
    with acting(stocked.app_url, None) as connection:
        assert seen(connection, name) == []
        if name not in APPEND_ONLY:
            assert connection.execute(changing(name, "update")).rowcount == 0
            assert connection.execute(changing(name, "delete")).rowcount == 0
    assert all(rows for tenant in (A, B) for rows in snapshot(stocked, tenant).values())


@every_table
def test_no_tenant_means_no_insert(free: Ledger, name: str) -> None:
    table = metadata.tables[f"{SCHEMA}.{name}"]
    with (
        acting(free.app_url, None) as connection,
        pytest.raises(InsufficientPrivilege, match="row-level security"),
    ):
        insert(connection, table, row_of(table, A))


@every_table
def test_the_tenant_of_a_past_transaction_is_forgotten(stocked: Ledger, name: str) -> None:
    """A transaction pooler hands the same connection to the next borrower. The setting is then
    not unset but empty."""
    with psycopg.connect(stocked.app_url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SELECT set_config('prefect_n8n.tenant_id', %s, true)", [str(A)])
            assert seen(connection, name) == [A]
        assert seen(connection, name) == []


@every_table
def test_a_tenant_sees_its_own_rows_alone(stocked: Ledger, name: str) -> None:
    for tenant in (A, B):
        with acting(stocked.app_url, tenant) as connection:
            assert seen(connection, name) == [tenant]


@every_table
@pytest.mark.parametrize("verb", ["update", "delete"])
def test_a_tenant_changes_its_own_rows_alone(stocked: Ledger, name: str, verb: str) -> None:
    before = snapshot(stocked, B)
    with acting(stocked.app_url, A) as connection:
        if name in APPEND_ONLY:
            with pytest.raises(InsufficientPrivilege):
                connection.execute(changing(name, verb))
            connection.rollback()
        else:
            # Rows that refer to this table's go first.
            for child in TABLES[: TABLES.index(name) : -1]:
                if verb == "delete" and child not in APPEND_ONLY:
                    connection.execute(changing(child, verb))
            # Of two rows in the table, one.
            assert connection.execute(changing(name, verb)).rowcount == 1
    assert snapshot(stocked, B) == before


@every_table
def test_a_tenant_cannot_write_rows_of_another(free: Ledger, name: str) -> None:
    table = metadata.tables[f"{SCHEMA}.{name}"]
    with (
        acting(free.app_url, A) as connection,
        pytest.raises(InsufficientPrivilege, match="row-level security"),
    ):
        insert(connection, table, row_of(table, B, uuid4()))


@every_table
def test_a_tenant_cannot_give_its_rows_away(stocked: Ledger, name: str) -> None:
    before = snapshot(stocked, B)
    give = sql.SQL("UPDATE {} SET tenant_id = %s").format(of(name))
    with acting(stocked.app_url, A) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(give, [B])
    assert snapshot(stocked, B) == before


@every_table
@pytest.mark.parametrize("role", ["prefect_n8n_app", "prefect_n8n_launcher"])
def test_nobody_empties_a_table(stocked: Ledger, name: str, role: str) -> None:
    with acting(stocked.admin_url, A, role) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(changing(name, "truncate"))


def test_the_tables_owner_is_bound_too(stocked: Ledger) -> None:
    """It is a member of the resolver and sees what that sees; no more by accident."""
    with acting(stocked.admin_url, A, "prefect_n8n_owner") as connection:
        visible = {name for name in TABLES if seen(connection, name)}
    assert visible == {"webhook_endpoints", "api_tokens"}


@every_table
def test_a_superuser_acting_as_the_application_is_bound(stocked: Ledger, name: str) -> None:
    with acting(stocked.admin_url, A, "prefect_n8n_app") as connection:
        assert seen(connection, name) == [A]


@every_table
def test_row_security_cannot_be_switched_off(stocked: Ledger, name: str) -> None:
    with acting(stocked.app_url, A) as connection:
        connection.execute("SET LOCAL row_security = off")
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            seen(connection, name)
        connection.rollback()
        for statement in ("DISABLE ROW LEVEL SECURITY", "DISABLE TRIGGER ALL", "ADD COLUMN x int"):
            with pytest.raises(InsufficientPrivilege, match="must be owner"):
                connection.execute(sql.SQL("ALTER TABLE {} ").format(of(name)) + sql.SQL(statement))
            connection.rollback()


REFERENCES = [
    pytest.param(table, key, id=str(key.name))
    for table in metadata.sorted_tables
    for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
]


@pytest.mark.parametrize(("table", "key"), REFERENCES)
def test_a_row_cannot_refer_to_another_tenants(stocked: Ledger, table: Table, key: Any) -> None:
    """A reference that PostgreSQL checks without row security would tell what B has."""
    elsewhere = uuid4()
    with acting(stocked.app_url, B) as connection:
        for parent in metadata.sorted_tables[: metadata.sorted_tables.index(table) + 1]:
            insert(connection, parent, row_of(parent, B, elsewhere))
    row = row_of(table, A, elsewhere)
    if key.referred_table is table:
        row["id"] = uuid4()  # its own id would be a good reference
    row |= {name: SAME_ID for other in table.foreign_key_constraints for name in other.column_keys}
    row |= dict.fromkeys(key.column_keys, elsewhere) | {"tenant_id": A}
    with (
        acting(stocked.app_url, A) as connection,
        pytest.raises(ForeignKeyViolation, match=str(key.name)),
    ):
        insert(connection, table, row)


# What these look for is not known to be of one tenant yet; none of them is unique.
OVER_ALL_TENANTS = {
    "ix_api_tokens_token_hash",
    "ix_fallbacks_due",
    "ix_webhook_endpoints_token_hash",
    "ix_webhook_events_due",
    "ix_webhook_events_lease",
    "ix_workflow_executions_run",
}
INDEXES = """
    SELECT i.relname, x.indisunique OR x.indisexclusion
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.indkey[0]
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND c.relname <> 'schema_version'
      AND a.attname IS DISTINCT FROM 'tenant_id'
"""
KEYS = """
    SELECT k.conname FROM pg_constraint k
    WHERE k.connamespace = 'prefect_n8n'::regnamespace AND k.contype IN ('p', 'u', 'f', 'x')
      AND k.conrelid <> 'prefect_n8n.schema_version'::regclass
      AND ARRAY['tenant_id', CASE k.contype WHEN 'f' THEN 'tenant_id' END]::name[]
          IS DISTINCT FROM ARRAY[
            (SELECT attname FROM pg_attribute WHERE attrelid = k.conrelid AND attnum = k.conkey[1]),
            (SELECT attname FROM pg_attribute
             WHERE attrelid = k.confrelid AND attnum = k.confkey[1])]
"""
WITHOUT_TENANT_KEY = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relname <> 'schema_version'
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
"""


def test_every_key_begins_with_the_tenant(ledger: Ledger) -> None:
    with psycopg.connect(ledger.admin_url) as connection:
        assert connection.execute(KEYS).fetchall() == []
        assert connection.execute(WITHOUT_TENANT_KEY).fetchall() == []
        others = dict(connection.execute(INDEXES).fetchall())
    assert others == dict.fromkeys(OVER_ALL_TENANTS, False)
