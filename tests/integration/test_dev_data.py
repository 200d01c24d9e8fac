"""The development data: once, however often it is applied, and never over a developer's changes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from prefect_n8n.core.errors import ConfigurationError, LedgerUnavailable
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.specs import Trigger
from prefect_n8n.launcher.loading import load_file
from prefect_n8n.ledger.audit import broken_entries
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.registry import register_endpoint
from prefect_n8n.ledger.tables import SCHEMA, metadata
from prefect_n8n.migrations.dev_data import apply
from support.postgres import Cluster, Ledger

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"
OTHER_TENANT = UUID("bbbbbbbb-0000-4000-8000-000000000000")


def everything(ledger: Ledger) -> dict[str, list[Any]]:
    """All rows of all tables, seen by a superuser."""
    query = "SELECT to_jsonb(t) FROM {} t ORDER BY to_jsonb(t)::text"
    with psycopg.connect(ledger.admin_url) as connection:
        return {
            table.name: [
                row[0]
                for row in connection.execute(
                    sql.SQL(query).format(sql.Identifier(SCHEMA, table.name))
                )
            ]
            for table in metadata.sorted_tables
        }


def named(rows: list[dict[str, Any]], *columns: str) -> set[tuple[Any, ...]]:
    return {tuple(row[column] for column in columns) for row in rows}


def test_a_little_of_everything(ledger: Ledger) -> None:
    apply(ledger.app_url)
    rows = everything(ledger)
    assert named(rows["webhook_endpoints"], "slug", "direction") == {
        ("orders", "inbound"),
        ("crm", "outbound"),
    }
    assert named(rows["workflow_triggers"], "name", "state") == {
        ("on-order", "on"),
        ("archive", "paused"),
    }
    assert named(rows["data_sync_configs"], "name", "state") == {("customers", "paused")}
    assert {row["tenant_id"] for table in rows.values() for row in table} == {str(DEFAULT_TENANT)}


def test_applying_again_changes_nothing(ledger: Ledger) -> None:
    apply(ledger.app_url)
    once = everything(ledger)
    apply(ledger.app_url)
    assert everything(ledger) == once


def test_several_at_once_add_it_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apply, [ledger.app_url] * 4))
    counts = {name: len(rows) for name, rows in everything(ledger).items() if rows}
    assert counts == {
        "webhook_endpoints": 2,
        "workflow_triggers": 2,
        "data_sync_configs": 1,
        "audit_log": 5,
    }


def test_what_a_developer_changed_stays(ledger: Ledger) -> None:
    apply(ledger.app_url)
    with psycopg.connect(ledger.admin_url) as connection:
        connection.execute("UPDATE prefect_n8n.webhook_endpoints SET state = 'paused'")
        connection.execute("UPDATE prefect_n8n.workflow_triggers SET types = '{mine}'")
        connection.execute("UPDATE prefect_n8n.data_sync_configs SET policy = 'manual'")
    changed = everything(ledger)
    apply(ledger.app_url)
    assert everything(ledger) == changed


@pytest.mark.parametrize("login", ["admin_url", "app_url", "launcher_url"])
def test_any_login_that_may_act_as_the_application_will_do(ledger: Ledger, login: str) -> None:
    apply(getattr(ledger, login))
    assert len(everything(ledger)["webhook_endpoints"]) == 2


async def test_it_is_audited(ledger: Ledger, database: Database) -> None:
    apply(ledger.app_url)
    assert named(everything(ledger)["audit_log"], "seq", "actor", "action", "subject") == {
        (1, "dev-data", "endpoint.saved", "endpoint/crm"),
        (2, "dev-data", "endpoint.saved", "endpoint/orders"),
        (3, "dev-data", "trigger.saved", "trigger/archive"),
        (4, "dev-data", "trigger.saved", "trigger/on-order"),
        (5, "dev-data", "sync.saved", "sync/customers"),
    }
    async with database.transaction(DEFAULT_TENANT) as connection:
        assert await broken_entries(connection) == []


def test_each_tenant_has_its_own(ledger: Ledger) -> None:
    apply(ledger.app_url)
    ours = everything(ledger)
    apply(ledger.app_url, OTHER_TENANT)
    both = everything(ledger)
    for name, rows in both.items():
        assert [row for row in rows if row["tenant_id"] == str(DEFAULT_TENANT)] == ours[name]
        assert len(rows) == 2 * len(ours[name])


async def test_it_is_what_the_example_registers(ledger: Ledger, database: Database) -> None:
    """With the data applied, ``up examples/orders.py`` finds its endpoint and trigger made."""
    apply(ledger.app_url)
    before = everything(ledger)
    for flow in load_file(EXAMPLE).flows:
        async with database.transaction(DEFAULT_TENANT) as connection:
            await register_endpoint(
                connection, DEFAULT_TENANT, flow.endpoint, flow.scheme, actor="test"
            )
            trigger = Trigger(flow.name, flow.endpoint, flow.deployment, list(flow.types))
            await save(connection, DEFAULT_TENANT, trigger, actor="test")
    assert everything(ledger) == before


@pytest.fixture
def unmigrated(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty database."""
    name = cluster.create()
    yield cluster.url_of(name)
    cluster.drop(name)


def test_a_database_without_tables_is_to_be_migrated_first(unmigrated: str) -> None:
    with pytest.raises(ConfigurationError, match="run `prefect-n8n migrate` first"):
        apply(unmigrated)


def test_a_server_that_is_away_is_no_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        apply(f"postgresql://nobody@/nothing?host={tmp_path}")
