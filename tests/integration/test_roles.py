"""What each database role may do, pinned: whoever grants more has to say so here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.specs import InboundEndpoint, Trigger
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database, Role
from prefect_n8n.ledger.inbox import Arrival, record_arrivals
from prefect_n8n.ledger.registry import (
    resolve_endpoint,
    resolve_token,
    save_token,
    token_sha256,
)
from prefect_n8n.ledger.tables import metadata
from support.postgres import Ledger

TABLES = {table.name for table in metadata.sorted_tables}
OTHER_TENANT = UUID("bbbbbbbb-0000-4000-8000-000000000000")

GRANTS = """
    WITH granted AS (
        SELECT c.relname AS name, '' AS part, c.relowner AS owner, c.relacl AS acl
        FROM pg_class c WHERE c.relnamespace = 'prefect_n8n'::regnamespace
        UNION ALL
        SELECT c.relname, a.attname, c.relowner, a.attacl
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'prefect_n8n'::regnamespace
        UNION ALL
        SELECT p.proname || '()', '', p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc p WHERE p.pronamespace = 'prefect_n8n'::regnamespace
        UNION ALL
        SELECT 'schema', '', n.nspowner, n.nspacl
        FROM pg_namespace n WHERE n.nspname = 'prefect_n8n')
    SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
           x.privilege_type || CASE WHEN x.is_grantable THEN '*' ELSE '' END, g.name,
           array_agg(g.part ORDER BY g.part)
    FROM granted g, aclexplode(g.acl) x WHERE x.grantee <> g.owner GROUP BY 1, 2, 3
"""
LAUNCHER_COLUMNS = {
    ("SELECT", "webhook_endpoints"): "breaker breaker_until direction id slug state tenant_id",
    ("UPDATE", "webhook_endpoints"): "breaker breaker_until",
    ("SELECT", "workflow_triggers"): "deployment endpoint_id state tenant_id",
    ("SELECT", "webhook_events"): (
        "claims direction endpoint_id flow_run_id id lease_expires_at lease_owner scheduled_at"
        " state tenant_id"
    ),
    ("UPDATE", "webhook_events"): "claims lease_expires_at lease_owner state",
    ("SELECT", "workflow_executions"): (
        "created_at engine finished_at flow_run_id id lease_expires_at lease_owner rescues"
        " started_at state tenant_id webhook_event_id"
    ),
    ("UPDATE", "workflow_executions"): "lease_expires_at lease_owner rescues started_at state",
    ("SELECT", "fallbacks"): (
        "claims finished_at flow_run_id id lease_expires_at lease_owner scheduled_at state"
        " tenant_id"
    ),
    ("UPDATE", "fallbacks"): "claims lease_expires_at lease_owner state",
}
RESOLVER_COLUMNS = {
    ("SELECT", "webhook_endpoints"): "direction id tenant_id token_hash",
    ("SELECT", "api_tokens"): "expires_at id scopes tenant_id token_hash",
}
WHOLE = {
    ("prefect_n8n_app", "USAGE", "schema"),
    ("prefect_n8n_launcher", "USAGE", "schema"),
    ("prefect_n8n_resolver", "USAGE", "schema"),
    ("prefect_n8n_app", "SELECT", "schema_version"),
    ("prefect_n8n_launcher", "SELECT", "schema_version"),
    ("prefect_n8n_app", "EXECUTE", "resolve_endpoint()"),
    ("prefect_n8n_app", "EXECUTE", "resolve_token()"),
    ("prefect_n8n_app", "EXECUTE", "audit_hash()"),
    ("prefect_n8n_app", "EXECUTE", "record_delivery()"),
}


def expected_grants() -> set[tuple[str, str, str, tuple[str, ...]]]:
    """The application may do all with rows, but only add to the audit log."""
    rows = {("prefect_n8n_app", verb, name) for verb in ("SELECT", "INSERT") for name in TABLES}
    rows |= {
        ("prefect_n8n_app", verb, name)
        for verb in ("UPDATE", "DELETE")
        for name in TABLES - {"audit_log"}
    }
    return {(*row, ("",)) for row in rows | WHOLE} | {
        (role, verb, name, tuple(columns.split()))
        for role, known in (
            ("prefect_n8n_launcher", LAUNCHER_COLUMNS),
            ("prefect_n8n_resolver", RESOLVER_COLUMNS),
        )
        for (verb, name), columns in known.items()
    }


def test_grants(ledger: Ledger) -> None:
    with psycopg.connect(ledger.admin_url) as connection:
        found = {(*row[:3], tuple(row[3])) for row in connection.execute(GRANTS)}
    assert found - expected_grants() == set(), "granted, but not here"
    assert expected_grants() - found == set(), "here, but not granted"


def test_no_role_has_powers_beyond_its_grants(ledger: Ledger) -> None:
    with psycopg.connect(ledger.admin_url) as connection:
        roles = connection.execute("""
            SELECT rolname, rolcanlogin, rolinherit,
                   rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
            FROM pg_roles WHERE starts_with(rolname, 'prefect_n8n_') ORDER BY rolname
        """).fetchall()
        memberships = connection.execute("""
            SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members
            WHERE starts_with(member::regrole::text, 'prefect_n8n_')
        """).fetchall()
    assert roles == [
        ("prefect_n8n_app", True, True, False),
        ("prefect_n8n_launcher", True, False, False),
        ("prefect_n8n_owner", False, True, False),
        ("prefect_n8n_resolver", False, True, False),
    ]
    assert sorted(memberships) == [
        ("prefect_n8n_launcher", "prefect_n8n_app"),
        ("prefect_n8n_owner", "prefect_n8n_resolver"),
    ]


def test_policies(ledger: Ledger) -> None:
    """One for each command on every table, with the same words for both directions."""
    mine = (
        "(tenant_id = ( SELECT (NULLIF(current_setting('prefect_n8n.tenant_id'::text, true),"
        " ''::text))::uuid AS \"nullif\"))"
    )
    both = {"SELECT": (mine, None), "INSERT": (None, mine), "DELETE": (mine, None)}
    both["UPDATE"] = (mine, mine)
    expected = {
        (name, command, "{prefect_n8n_app}", *words)
        for name in TABLES
        for command, words in both.items()
        if name != "audit_log" or command in ("SELECT", "INSERT")
    }
    with psycopg.connect(ledger.admin_url) as connection:
        found = set(
            connection.execute("""
                SELECT tablename, cmd, roles::text, qual, with_check FROM pg_policies
                WHERE schemaname = 'prefect_n8n'
                  AND NOT roles <@ '{prefect_n8n_launcher,prefect_n8n_resolver}'::name[]
            """)
        )
    assert found == expected


@pytest.mark.parametrize("login", ["prefect_n8n_app", "prefect_n8n_launcher"])
@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE prefect_n8n_owner",
        "SET ROLE prefect_n8n_resolver",
        "CREATE TABLE prefect_n8n.mine ()",
        "CREATE FUNCTION prefect_n8n.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "DROP TABLE prefect_n8n.audit_log",
        "DROP POLICY tenant_select ON prefect_n8n.webhook_events",
        "UPDATE prefect_n8n.schema_version SET version_num = '9999'",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY prefect_n8n.webhook_events TO PROGRAM 'cat'",
    ],
)
def test_a_login_cannot(ledger: Ledger, login: str, statement: str) -> None:
    url = ledger.app_url if login == "prefect_n8n_app" else ledger.launcher_url
    with psycopg.connect(url) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement)  # type: ignore[arg-type]


def test_only_the_launcher_becomes_another(ledger: Ledger) -> None:
    with psycopg.connect(ledger.app_url) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("SET ROLE prefect_n8n_launcher")
    with psycopg.connect(ledger.launcher_url) as connection:
        connection.execute("SET ROLE prefect_n8n_app")


@pytest.fixture
async def filled(ledger: Ledger, database: Database) -> Ledger:
    """Two tenants, each with a pending and a finished event, and an execution of the first."""
    for tenant in (DEFAULT_TENANT, OTHER_TENANT):
        async with database.transaction(tenant) as connection:
            inbound = await save(connection, tenant, InboundEndpoint("in"), actor="test")
            endpoint = inbound.saved.id
            trigger = Trigger("all", "in", "flow/deployment")
            await save(connection, tenant, trigger, actor="test")
            arrivals = [arrival(endpoint, event_id) for event_id in ("pending", "ended")]
            await record_arrivals(connection, tenant, arrivals)
            await connection.execute(
                text("""INSERT INTO prefect_n8n.workflow_executions
                            (tenant_id, id, webhook_event_id, trigger_id)
                        SELECT e.tenant_id, gen_random_uuid(), e.id, t.id
                        FROM prefect_n8n.webhook_events e, prefect_n8n.workflow_triggers t""")
            )
            await connection.execute(
                text("""UPDATE prefect_n8n.webhook_events
                        SET state = 'completed', finalized_at = now() WHERE event_id = 'ended'""")
            )
    return ledger


def arrival(endpoint: UUID, event_id: str) -> Arrival:
    digest = hashlib.sha256(b"{}").digest()
    return Arrival(endpoint, event_id, "t", b"{}", digest, headers={}, traceparent=None)


@contextmanager
def as_launcher(ledger: Ledger) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(ledger.launcher_url) as connection:
        yield connection
        connection.rollback()


def test_the_launcher_sees_what_claiming_needs_of_all_tenants(filled: Ledger) -> None:
    with as_launcher(filled) as launcher:
        events = launcher.execute("SELECT tenant_id, state FROM prefect_n8n.webhook_events")
        assert sorted(events) == [(DEFAULT_TENANT, "pending"), (OTHER_TENANT, "pending")]
        runs = launcher.execute("SELECT DISTINCT tenant_id FROM prefect_n8n.workflow_executions")
        assert sorted(runs) == [(DEFAULT_TENANT,), (OTHER_TENANT,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT body FROM prefect_n8n.webhook_events",
        "SELECT payload FROM prefect_n8n.webhook_events",
        "SELECT headers FROM prefect_n8n.webhook_events",
        "SELECT error FROM prefect_n8n.workflow_executions",
        "SELECT url FROM prefect_n8n.webhook_endpoints",
        "SELECT token_hash FROM prefect_n8n.webhook_endpoints",
        "SELECT parameters FROM prefect_n8n.workflow_triggers",
        "SELECT tenant_id FROM prefect_n8n.api_tokens",
        "SELECT tenant_id FROM prefect_n8n.audit_log",
        "SELECT tenant_id FROM prefect_n8n.data_sync_configs",
        "SELECT * FROM prefect_n8n.resolve_token('')",
        "UPDATE prefect_n8n.webhook_events SET scheduled_at = now()",
        "UPDATE prefect_n8n.webhook_events SET tenant_id = tenant_id",
        "UPDATE prefect_n8n.webhook_events SET state = 'cancelled'",
        "UPDATE prefect_n8n.webhook_events SET state = 'retryable'",
        "UPDATE prefect_n8n.workflow_executions SET finished_at = now()",
        "UPDATE prefect_n8n.workflow_triggers SET deployment = 'other/one'",
        "DELETE FROM prefect_n8n.webhook_events",
        "DELETE FROM prefect_n8n.workflow_executions",
        "INSERT INTO prefect_n8n.audit_log DEFAULT VALUES",
    ],
)
def test_the_launcher_may_no_more_than_claim(filled: Ledger, statement: str) -> None:
    """For all else it becomes the application, in the event's tenant."""
    with as_launcher(filled) as launcher, pytest.raises(InsufficientPrivilege):
        launcher.execute(statement)  # type: ignore[arg-type]


def test_the_launcher_cannot_touch_what_has_ended(filled: Ledger) -> None:
    with as_launcher(filled) as launcher:
        done = launcher.execute("UPDATE prefect_n8n.webhook_events SET state = 'processing'")
        assert done.rowcount == 2
    with psycopg.connect(filled.admin_url) as connection:
        states = connection.execute("SELECT state FROM prefect_n8n.webhook_events ORDER BY 1")
        assert [row[0] for row in states] == ["completed"] * 2 + ["pending"] * 2


async def test_as_the_application_the_launcher_sees_one_tenant(filled: Ledger) -> None:
    database = Database(filled.launcher_url, pool_size=1)
    query = text("SELECT DISTINCT tenant_id FROM prefect_n8n.webhook_events")
    async with database.transaction(None, role=Role.LAUNCHER) as connection:
        assert len((await connection.execute(query)).all()) == 2
    async with database.transaction(OTHER_TENANT) as connection:
        assert (await connection.execute(query)).all() == [(OTHER_TENANT,)]
    async with database.transaction(None) as connection:
        assert (await connection.execute(query)).all() == []
    await database.close()


async def test_a_token_finds_its_tenant_before_any_is_known(database: Database) -> None:
    async with database.transaction(OTHER_TENANT) as connection:
        inbound = await save(connection, OTHER_TENANT, InboundEndpoint("in"), actor="test")
        await save(connection, OTHER_TENANT, InboundEndpoint("out"), actor="test")
        await connection.execute(
            text("""UPDATE prefect_n8n.webhook_endpoints
                    SET token_hash = CASE slug WHEN 'in' THEN CAST(:inbound AS bytea)
                                               ELSE CAST(:outbound AS bytea) END,
                        direction = slug || 'bound'"""),
            {"inbound": token_sha256("in"), "outbound": token_sha256("out")},
        )
        for name in ("good", "old"):
            await save_token(
                connection, OTHER_TENANT, name=name, token=name, scopes=["read"], actor="test"
            )
        await connection.execute(
            text("UPDATE prefect_n8n.api_tokens SET expires_at = now() WHERE name = 'old'")
        )
    async with database.transaction(None) as connection:
        assert await resolve_endpoint(connection, "in") == (OTHER_TENANT, inbound.saved.id)
        assert await resolve_endpoint(connection, "out") is None
        assert await resolve_endpoint(connection, "unknown") is None
        token = await resolve_token(connection, "good")
        assert token is not None
        assert (token.tenant_id, token.scopes) == (OTHER_TENANT, {"read"})
        assert await resolve_token(connection, "old") is None
