"""Redrive: what it selects, what it changes, and that a press does it once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger import redrives
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.redrives import Redriven, Selection
from support.postgres import Ledger

MAKE = text("""
    INSERT INTO prefect_n8n.webhook_events
        (tenant_id, id, endpoint_id, event_id, type, body, body_hash, payload, state, reason,
         direction, received_at, finalized_at, claims, attempts, parent_event_id)
    SELECT :tenant, gen_random_uuid(), :endpoint, 'evt_' || gen_random_uuid(), :type, '{}',
           sha256('{}'), '{}', :state, :reason, :direction,
           now() - make_interval(mins => :age) + make_interval(secs => n / 1000.0),
           CASE WHEN :state IN ('completed', 'dead', 'cancelled') THEN now() END, 3, 2, :parent
    FROM generate_series(1, :count) n RETURNING id
""")


class Store:
    """Events as their end left them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.endpoints: dict[str, UUID] = {}

    async def make(
        self,
        count: int = 1,
        *,
        endpoint: str = "orders",
        type: str = "order.created",
        state: str = "dead",
        reason: str | None = "failed",
        direction: str = "inbound",
        age: int = 0,
        parent: UUID | None = None,
    ) -> list[UUID]:
        """Make events of one kind, ``age`` minutes old; return their ids."""
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            if endpoint not in self.endpoints:
                self.endpoints[endpoint] = uuid4()
                await connection.execute(
                    text(
                        "INSERT INTO prefect_n8n.webhook_endpoints (tenant_id, id, slug, direction)"
                        " VALUES (:tenant, :id, :slug, :direction)"
                    ),
                    {
                        "tenant": DEFAULT_TENANT,
                        "id": self.endpoints[endpoint],
                        "slug": endpoint,
                        "direction": direction,
                    },
                )
            values = {
                "tenant": DEFAULT_TENANT,
                "endpoint": self.endpoints[endpoint],
                "count": count,
                "type": type,
                "state": state,
                "reason": reason,
                "direction": direction,
                "age": age,
                "parent": parent,
            }
            return [row.id for row in await connection.execute(MAKE, values)]

    async def preview(self, **selection: Any) -> int:
        """Count what fits."""
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            return await redrives.preview(connection, DEFAULT_TENANT, Selection(**selection))

    async def redrive(
        self, press: UUID | None = None, *, rate: float = 10.0, **selection: Any
    ) -> Redriven:
        """Press."""
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            return await redrives.redrive(
                connection,
                DEFAULT_TENANT,
                press or uuid4(),
                Selection(**selection),
                rate=rate,
                actor="test",
            )

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds."""
        async with self.database.transaction(DEFAULT_TENANT) as connection:
            return [dict(row) for row in (await connection.execute(text(query))).mappings()]

    async def pending(self) -> set[UUID]:
        """Return the ids of all pending events."""
        query = "SELECT id FROM prefect_n8n.webhook_events WHERE state = 'pending'"
        return {row["id"] for row in await self.rows(query)}


@pytest.fixture
def store(database: Database) -> Store:
    """The events of a test."""
    return Store(database)


async def test_what_the_preview_counts_is_what_is_redriven(store: Store) -> None:
    dead = await store.make(5)
    await store.make(2, state="cancelled")
    await store.make(3, state="completed", reason=None)
    await store.make(1, state="pending", reason=None)
    assert await store.preview() == 5
    assert (await store.redrive()).events == 5
    query = "SELECT * FROM prefect_n8n.webhook_events WHERE redrive = 1"
    rows = await store.rows(query)
    assert {row["id"] for row in rows} == set(dead)
    for row in rows:
        assert (row["state"], row["attempts"], row["claims"]) == ("pending", 0, 0)
        assert (row["finalized_at"], row["reason"], row["lease_owner"]) == (None, None, None)
    assert await store.preview() == 0
    (press,) = await store.rows("SELECT * FROM prefect_n8n.redrives")
    assert (press["events"], press["actor"], press["rate"]) == (5, "test", 10.0)
    (entry,) = await store.rows(
        "SELECT * FROM prefect_n8n.audit_log WHERE action = 'events.redriven'"
    )
    assert entry["subject"] == f"redrive/{press['id']}"
    assert entry["after"]["redriven"] == sorted(map(str, dead))


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        ({}, "abefg"),
        ({"endpoint": "orders"}, "abg"),
        ({"endpoint": "nothing"}, ""),
        ({"direction": "outbound"}, "ef"),
        ({"endpoint": "crm"}, "efh"),
        ({"states": ("cancelled",)}, "c"),
        ({"states": ("completed",)}, "d"),
        ({"states": ("dead", "cancelled", "completed")}, "abcdefg"),
        ({"type": "order.*"}, "abe"),
        ({"type": "order.pai?"}, "b"),
        ({"type": "order.[!p]*"}, "ae"),
        ({"type": "order_created"}, ""),
        ({"type": "a.b"}, ""),
        ({"until": 30}, "f"),
        ({"since": 30}, "abeg"),
        ({"since": 90, "until": 30}, "f"),
    ],
    ids=str,
)
async def test_selections(store: Store, selection: dict[str, Any], fits: str) -> None:
    made = {
        "a": await store.make(),
        "b": await store.make(type="order.paid"),
        "c": await store.make(state="cancelled"),
        "d": await store.make(state="completed", reason="no trigger matched"),
        "e": await store.make(endpoint="crm", direction="outbound"),
        "f": await store.make(endpoint="crm", direction="outbound", type="invoice", age=60),
        "g": await store.make(type="a+b"),
    }
    made["h"] = await store.make(
        endpoint="crm", direction="outbound", type="child", parent=made["e"][0]
    )
    await store.make(state="completed", reason=None)
    await store.make(state="processing", reason=None)
    now = datetime.now(UTC)
    for bound in ("since", "until"):
        if bound in selection:
            selection = selection | {bound: now - timedelta(minutes=selection[bound])}
    expected = {id for name in fits for id in made[name]}
    assert await store.preview(**selection) == len(expected)
    assert (await store.redrive(**selection)).events == len(expected)
    assert await store.pending() == expected


async def test_named_by_id_whatever_can_be_is_redriven(store: Store) -> None:
    ids = [
        *await store.make(),
        *await store.make(state="cancelled"),
        *await store.make(state="completed", reason="no trigger matched"),
    ]
    not_these = [
        *await store.make(state="completed", reason=None),
        *await store.make(state="retryable", reason=None),
    ]
    await store.make()
    assert (await store.redrive(ids=[*ids, *not_these, uuid4()])).events == len(ids)
    assert await store.pending() == set(ids)


async def test_the_same_press_again_returns_the_first_result_and_changes_nothing(
    store: Store,
) -> None:
    await store.make(3)
    press = uuid4()
    assert await store.redrive(press) == Redriven(press, 3, False)
    await store.make(2)
    assert await store.redrive(press) == Redriven(press, 3, True)
    assert await store.preview() == 2
    entries = await store.rows(
        "SELECT 1 AS one FROM prefect_n8n.audit_log WHERE action = 'events.redriven'"
    )
    assert len(entries) == 1


async def test_at_once_no_event_is_redriven_twice(store: Store) -> None:
    await store.make(200)
    press = uuid4()
    presses: Sequence[UUID] = [press, press, press, uuid4(), uuid4()]
    done = await asyncio.gather(*(store.redrive(each, limit=150) for each in presses))
    assert {each.events for each in done if each.press == press} == {
        next(each.events for each in done if each.press == press and not each.repeated)
    }
    assert sum(each.events for each in done if not each.repeated) <= 200
    assert [each.repeated for each in done if each.press == press].count(False) == 1
    redriven = await store.rows(
        "SELECT max(redrive) AS most, sum(redrive) AS all FROM prefect_n8n.webhook_events".replace(
            "AS all", "AS total"
        )
    )
    first = sum(each.events for each in done if not each.repeated)
    assert redriven == [{"most": 1, "total": first}]


async def test_a_press_takes_ten_thousand_at_most_the_oldest_first(store: Store) -> None:
    young = await store.make(5)
    await store.make(9_999, age=60)
    assert await store.preview() == 10_004
    assert (await store.redrive(rate=1000)).events == 10_000
    left = await store.rows("SELECT id FROM prefect_n8n.webhook_events WHERE state = 'dead'")
    assert {row["id"] for row in left} <= set(young)
    assert len(left) == 4


async def test_the_rate_spreads_what_is_due(store: Store) -> None:
    await store.make(5)
    await store.redrive(rate=2)
    rows = await store.rows("""
        SELECT extract(epoch FROM scheduled_at - min(scheduled_at) OVER ())::float8 AS after
        FROM prefect_n8n.webhook_events ORDER BY received_at
    """)
    assert [row["after"] for row in rows] == [0.0, 0.5, 1.0, 1.5, 2.0]


async def test_an_event_with_a_run_under_way_is_not_taken(store: Store) -> None:
    (dead,) = await store.make()
    trigger = uuid4()
    async with store.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("""
                WITH t AS (INSERT INTO prefect_n8n.workflow_triggers
                    (tenant_id, id, endpoint_id, name, types, deployment)
                    VALUES (:tenant, :trigger, :endpoint, 't', '{*}', 'a/b'))
                SELECT 1
            """),
            {
                "tenant": DEFAULT_TENANT,
                "trigger": trigger,
                "endpoint": store.endpoints["orders"],
            },
        )
        await connection.execute(
            text("""
                INSERT INTO prefect_n8n.workflow_executions
                    (tenant_id, id, webhook_event_id, trigger_id, state, flow_run_id)
                VALUES (:tenant, gen_random_uuid(), :event, :trigger, 'running',
                        gen_random_uuid())
            """),
            {"tenant": DEFAULT_TENANT, "event": dead, "trigger": trigger},
        )
    assert await store.preview() == 0
    assert (await store.redrive(ids=[dead])).events == 0


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"states": ("pending",)}, "state 'pending' are not redriven"),
        ({"direction": "up"}, "inbound or outbound"),
        ({"limit": 0}, "1 to 10000"),
        ({"limit": 10_001}, "1 to 10000"),
        ({"since": datetime(2026, 1, 1)}, "needs a zone"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused_in_a_sentence(
    store: Store, selection: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        await store.redrive(**selection)


async def command(ledger: Ledger, *arguments: str) -> tuple[int, str, str]:
    """Run the command without a terminal."""
    import os

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "prefect_n8n.cli.app",
        "events",
        "redrive",
        *arguments,
        env=os.environ | {"DATABASE_URL": ledger.app_url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_counts_asks_and_does_it(store: Store, ledger: Ledger) -> None:
    await store.make(3)
    await store.make(2, type="invoice.paid")
    code, out, _ = await command(ledger, "--type", "order.*", "--dry-run")
    assert (code, out) == (0, "3 events fit; 3 would be redriven.\n")
    code, out, err = await command(ledger, "--type", "order.*")
    assert code == 2
    assert err == ("prefect-n8n: 3 events fit. Give --yes to redrive 3, or --dry-run to count.\n")
    assert await store.pending() == set()
    press = str(uuid4())
    code, out, _ = await command(
        ledger, "--type", "order.*", "--rate", "2", "--yes", "--press", press
    )
    assert (code, out) == (0, f"3 events redriven (press {press}); the last is due in 1 s.\n")
    code, out, _ = await command(ledger, "--yes", "--json", "--state", "dead", "--press", press)
    assert json.loads(out) == {"fitting": 2, "redriven": 3, "press": press, "rate": 10.0}
    (one, _) = await store.rows("SELECT id FROM prefect_n8n.webhook_events WHERE state = 'dead'")
    code, out, _ = await command(ledger, str(one["id"]), "--yes", "--json")
    assert json.loads(out)["redriven"] == 1
    code, out, _ = await command(ledger, "--endpoint", "nothing")
    assert (code, out) == (0, "No event fits: nothing is redriven.\n")
