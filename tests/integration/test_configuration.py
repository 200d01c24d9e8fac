"""Endpoints, triggers and syncs: saved once, changed under conditions, removed without loss."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from prefect_n8n.core.errors import ConfigurationConflict, ConfigurationError
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.specs import InboundEndpoint, OutboundEndpoint, Spec, Sync, Trigger
from prefect_n8n.ledger import configuration
from prefect_n8n.ledger.configuration import Outcome, everything, find, page, remove, save
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.inbox import Arrival, record_arrivals
from prefect_n8n.ledger.kinds import ENDPOINTS, SYNCS, TRIGGERS, Kind
from prefect_n8n.ledger.registry import register_endpoint

ORDERS = InboundEndpoint("orders", body_schema={"type": "object"}, rate_limit=5.0)
CRM = OutboundEndpoint("crm", "crm/contact", fallback=[{"notification": "slack-webhook/ops"}])
TRIGGER = Trigger("on-order", "orders", "on-order/orders", ["order.*"], {"id": "{{ event.id }}"})
SYNC = Sync("customers", {"kind": "a"}, {"kind": "b"}, ["email"], {"name": "left"})


async def put(database: Database, spec: Spec, **conditions: Any) -> Outcome:
    """Save in a transaction of its own."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        return await save(connection, DEFAULT_TENANT, spec, actor="test", **conditions)


async def get(database: Database, kind: Kind, key: str) -> Any:
    """Find in a transaction of its own."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        return await find(connection, DEFAULT_TENANT, kind, key)


async def drop(database: Database, kind: Kind, key: str, match: str | None = None) -> bool:
    """Remove in a transaction of its own."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        return await remove(connection, DEFAULT_TENANT, kind, key, actor="test", match=match)


async def actions(database: Database) -> list[str]:
    """Return the audit log's actions in their order."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        rows = await connection.execute(
            text("SELECT action || ' ' || subject FROM prefect_n8n.audit_log ORDER BY seq")
        )
        return list(rows.scalars())


async def test_each_kind_is_saved_whole_and_changed_once(database: Database) -> None:
    specs = {"orders": (ENDPOINTS, ORDERS), "crm": (ENDPOINTS, CRM)}
    specs |= {"orders/on-order": (TRIGGERS, TRIGGER), "customers": (SYNCS, SYNC)}
    for key, (kind, spec) in specs.items():
        assert (await put(database, spec)).word == "created"
        assert (await get(database, kind, key)).spec == spec
        assert (await put(database, spec)).word == "unchanged"
    changed = replace(TRIGGER, types=["*"], parameters=None)
    outcome = await put(database, changed)
    assert (outcome.word, outcome.saved.spec) == ("changed", changed)
    assert await actions(database) == [
        "endpoint.saved endpoint/orders",
        "endpoint.saved endpoint/crm",
        "trigger.saved trigger/orders/on-order",
        "sync.saved sync/customers",
        "trigger.saved trigger/orders/on-order",
    ]


async def test_a_change_of_what_another_changed_is_refused(database: Database) -> None:
    seen = (await put(database, ORDERS)).saved
    mine, theirs = replace(ORDERS, max_body=20_000), replace(ORDERS, max_body=30_000)
    await put(database, theirs, match=seen.etag)
    with pytest.raises(ConfigurationConflict, match="not as you last saw it") as refusal:
        await put(database, mine, match=seen.etag)
    assert refusal.value.precondition
    with pytest.raises(ConfigurationConflict):
        await put(database, mine, new=True)
    with pytest.raises(ConfigurationConflict):
        await put(database, CRM, match=seen.etag)
    with pytest.raises(ConfigurationConflict):
        await drop(database, ENDPOINTS, "orders", match=seen.etag)
    assert (await get(database, ENDPOINTS, "orders")).spec == theirs


async def test_many_that_save_the_same_make_one(database: Database) -> None:
    outcomes = await asyncio.gather(*(put(database, ORDERS) for _ in range(5)))
    assert sorted(outcome.word for outcome in outcomes) == ["created"] + ["unchanged"] * 4
    assert await actions(database) == ["endpoint.saved endpoint/orders"]


async def test_one_slug_has_one_direction(database: Database) -> None:
    await put(database, CRM)
    with pytest.raises(ConfigurationConflict, match="'crm' is outbound"):
        await put(database, InboundEndpoint("crm"))
    async with database.transaction(DEFAULT_TENANT) as connection:
        with pytest.raises(ConfigurationConflict, match="'crm' is outbound"):
            await register_endpoint(connection, DEFAULT_TENANT, "crm", "hmac", actor="test")
    with pytest.raises(ConfigurationError, match="no inbound endpoint 'crm'"):
        await put(database, replace(TRIGGER, endpoint="crm"))


async def test_a_flow_file_changes_the_scheme_alone(database: Database) -> None:
    await put(database, ORDERS)
    async with database.transaction(DEFAULT_TENANT) as connection:
        await register_endpoint(connection, DEFAULT_TENANT, "orders", "hmac", actor="test")
    assert (await get(database, ENDPOINTS, "orders")).spec == replace(ORDERS, scheme="hmac")


async def test_what_events_refer_to_is_not_lost(database: Database) -> None:
    endpoint = (await put(database, ORDERS)).saved
    trigger = (await put(database, TRIGGER)).saved
    with pytest.raises(ConfigurationConflict, match="has events or triggers"):
        await drop(database, ENDPOINTS, "orders")
    async with database.transaction(DEFAULT_TENANT) as connection:
        arrival = Arrival(endpoint.id, "1", "order.paid", b"{}", bytes(32), {}, None, None)
        recorded = await record_arrivals(connection, DEFAULT_TENANT, [arrival])
        await connection.execute(
            text("""INSERT INTO prefect_n8n.workflow_executions
                        (tenant_id, id, webhook_event_id, trigger_id)
                    VALUES (:tenant, gen_random_uuid(), :event, :trigger)"""),
            {
                "tenant": DEFAULT_TENANT,
                "event": recorded[arrival.id].id,
                "trigger": trigger.id,
            },
        )
    assert await drop(database, TRIGGERS, "orders/on-order")
    assert not await drop(database, TRIGGERS, "orders/on-order")
    assert await listed(database, TRIGGERS) == []
    assert (await put(database, TRIGGER)).word == "created"
    assert (await get(database, TRIGGERS, "orders/on-order")).id == trigger.id
    with pytest.raises(ConfigurationConflict, match="has events or triggers"):
        await drop(database, ENDPOINTS, "orders")


async def test_what_nothing_refers_to_is_removed(database: Database) -> None:
    await put(database, ORDERS)
    await put(database, TRIGGER)
    assert await drop(database, TRIGGERS, "orders/on-order")
    assert await drop(database, ENDPOINTS, "orders", match=ORDERS.etag())
    assert await listed(database, ENDPOINTS) == []


async def listed(database: Database, kind: Kind) -> list[str]:
    """Return the keys of all rows."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        return [saved.spec.key for saved in await everything(connection, DEFAULT_TENANT, kind)]


async def test_pages_have_each_row_once(database: Database, monkeypatch: Any) -> None:
    for n in range(5):
        await put(database, InboundEndpoint(f"e{n}"))
    async with database.transaction(DEFAULT_TENANT) as connection:
        first = await page(connection, DEFAULT_TENANT, ENDPOINTS, limit=2)
        rest = await page(connection, DEFAULT_TENANT, ENDPOINTS, after=first[-1].spec.key)
    assert [saved.spec.key for saved in first + rest] == [f"e{n}" for n in range(5)]
    monkeypatch.setattr(configuration.page, "__kwdefaults__", {"after": "", "limit": 2})
    assert await listed(database, ENDPOINTS) == [f"e{n}" for n in range(5)]
