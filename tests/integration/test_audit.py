"""The audit log only grows, in the writer's own transaction, and shows what was tampered with."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import dict_row
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger import audit
from prefect_n8n.ledger.database import Database
from support.postgres import Ledger

OTHER_TENANT = UUID("bbbbbbbb-0000-4000-8000-000000000000")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ENTRIES = """
    SELECT tenant_id, seq, at, actor, action, subject, before::text, after::text, reason,
           previous_hash, hash
    FROM prefect_n8n.audit_log WHERE tenant_id = %s ORDER BY seq
"""
NASTY: dict[str, Any] = {
    "quote": 'a"b\\c',
    "lines": "one\ntwo\ttab\x01\x7f",
    "Zoë": "☕ \U0001f600",
    "nested": {"z": [1, 2.50, -3e10, True, None], "a": {}},
}


def canonical(entry: dict[str, Any]) -> str:
    """What is hashed besides the previous hash: PostgreSQL's text of a jsonb array."""
    microseconds = (entry["at"] - EPOCH) // timedelta(microseconds=1)
    parts = [
        json.dumps(str(entry["tenant_id"])),
        str(entry["seq"]),
        f"{microseconds // 10**6}.{microseconds % 10**6:06d}",
        *(json.dumps(entry[name], ensure_ascii=False) for name in ("actor", "action", "subject")),
        *(entry[name] or "null" for name in ("before", "after")),
        json.dumps(entry["reason"], ensure_ascii=False),
    ]
    return f"[{', '.join(parts)}]"


def broken_by_own_reckoning(entries: list[dict[str, Any]]) -> list[int]:
    """Recompute the whole chain, with none of our code and none of our SQL."""
    broken: list[int] = []
    previous = b""
    for number, entry in enumerate(entries, start=1):
        own = hashlib.sha256(entry["previous_hash"] + canonical(entry).encode()).digest()
        if (entry["seq"], entry["previous_hash"], entry["hash"]) != (number, previous, own):
            broken.append(entry["seq"])
        previous = entry["hash"]
    return broken


@dataclass(frozen=True)
class Log:
    """The audit log of a test's own database."""

    ledger: Ledger
    database: Database

    async def write(self, count: int, tenant: UUID = DEFAULT_TENANT, **more: Any) -> None:
        """Write entries, each in a transaction of its own."""
        for number in range(count):
            async with self.database.transaction(tenant) as connection:
                named = {"actor": "test", "action": "tested", "subject": f"thing/{number}"} | more
                await audit.record(connection, tenant, **named)

    async def broken(self, tenant: UUID = DEFAULT_TENANT) -> list[int]:
        """What our own check finds."""
        async with self.database.transaction(tenant) as connection:
            return await audit.broken_entries(connection)

    def entries(self, tenant: UUID = DEFAULT_TENANT) -> list[dict[str, Any]]:
        """All entries of a tenant, seen by a superuser."""
        with psycopg.connect(self.ledger.admin_url, row_factory=dict_row) as connection:
            return connection.execute(ENTRIES, [tenant]).fetchall()

    async def until_one_waits(self) -> None:
        """Return once a writer waits for the lock of a chain."""
        waiting = """
            SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """
        connecting = psycopg.AsyncConnection.connect(self.ledger.admin_url, autocommit=True)
        async with asyncio.timeout(10), await connecting as connection:
            while (await (await connection.execute(waiting)).fetchall()) != [(1,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def tamper(self, statement: str) -> None:
        """What only a superuser can: change the log behind its triggers' back."""
        with psycopg.connect(self.ledger.admin_url) as connection:
            connection.execute("SET session_replication_role = replica")
            assert connection.execute(statement).rowcount > 0  # type: ignore[arg-type]


@pytest.fixture
async def log(ledger: Ledger) -> AsyncIterator[Log]:
    """An empty log."""
    database = Database(ledger.app_url, pool_size=8)
    yield Log(ledger, database)
    await database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prefect_n8n.audit_log SET actor = 'nobody'",
        "DELETE FROM prefect_n8n.audit_log",
        "TRUNCATE prefect_n8n.audit_log",
    ],
    ids=["update", "delete", "truncate"],
)
@pytest.mark.parametrize("role", ["app", "launcher", "resolver", "owner", None])
async def test_the_log_only_grows(log: Log, role: str | None, statement: str) -> None:
    """Also for a superuser (None), and for the owner, to whom row security shows no row."""
    await log.write(2)
    before = log.entries()
    with psycopg.connect(log.ledger.admin_url) as connection:
        connection.execute(
            "SELECT set_config('prefect_n8n.tenant_id', %s, true)", [str(DEFAULT_TENANT)]
        )
        if role is not None:
            connection.execute(f"SET LOCAL ROLE prefect_n8n_{role}")  # type: ignore[arg-type]
        if role == "owner" and "TRUNCATE" not in statement:
            assert connection.execute(statement).rowcount == 0  # type: ignore[arg-type]
        else:
            with pytest.raises(InsufficientPrivilege, match="audit_log"):
                connection.execute(statement)  # type: ignore[arg-type]
    assert log.entries() == before


async def test_the_chain_can_be_recomputed_from_what_is_stored(log: Log) -> None:
    await log.write(1)
    await log.write(1, before=NASTY, after=NASTY | {"more": 1}, reason='because "of" ☕\n')
    await log.write(3, before={}, reason="")
    entries = log.entries()
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5]
    assert json.loads(entries[1]["before"]) == NASTY
    assert broken_by_own_reckoning(entries) == []
    assert await log.broken() == []


async def test_several_entries_of_one_statement_are_chained(log: Log) -> None:
    async with log.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("""INSERT INTO prefect_n8n.audit_log
                        (tenant_id, seq, actor, action, subject, previous_hash, hash)
                    SELECT :tenant, 0, 'test', 'tested', 'thing/' || n, '', ''
                    FROM generate_series(1, 5) n"""),
            {"tenant": DEFAULT_TENANT},
        )
    assert len(log.entries()) == 5
    assert broken_by_own_reckoning(log.entries()) == []


async def test_the_writer_chooses_neither_number_nor_time_nor_hash(log: Log) -> None:
    async with log.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("""INSERT INTO prefect_n8n.audit_log
                        (tenant_id, seq, at, actor, action, subject, previous_hash, hash)
                    VALUES (:tenant, 99, '2001-01-01', 'test', 'tested', 'thing', 'forged', 'too')
                 """),
            {"tenant": DEFAULT_TENANT},
        )
    (entry,) = log.entries()
    assert entry["seq"] == 1
    assert datetime.now(UTC) - entry["at"] < timedelta(minutes=1)
    assert broken_by_own_reckoning([entry]) == []


async def test_concurrent_writers_keep_one_chain_for_each_tenant(log: Log) -> None:
    tenants = [DEFAULT_TENANT, OTHER_TENANT]
    await asyncio.gather(*(log.write(10, tenant) for tenant in tenants for _ in range(4)))
    for tenant in tenants:
        assert len(log.entries(tenant)) == 40
        assert broken_by_own_reckoning(log.entries(tenant)) == []
        assert await log.broken(tenant) == []


async def test_an_open_transaction_holds_up_its_own_tenant_alone(log: Log) -> None:
    async with log.database.transaction(DEFAULT_TENANT) as connection:
        await audit.record(connection, DEFAULT_TENANT, actor="t", action="t", subject="t")
        await log.write(1, OTHER_TENANT)
        waiting = asyncio.create_task(log.write(1))
        await log.until_one_waits()
        assert len(log.entries()) == 0
    await waiting
    assert broken_by_own_reckoning(log.entries()) == []


async def test_an_entry_is_rolled_back_with_its_transaction(log: Log) -> None:
    async def fail() -> None:
        async with log.database.transaction(DEFAULT_TENANT) as connection:
            await audit.record(connection, DEFAULT_TENANT, actor="t", action="t", subject="t")
            raise ZeroDivisionError

    await log.write(1)
    with pytest.raises(ZeroDivisionError):
        await fail()
    await log.write(1)
    assert [entry["seq"] for entry in log.entries()] == [1, 2]
    assert broken_by_own_reckoning(log.entries()) == []


ALTERED = [
    "at = at + interval '1 microsecond'",
    "actor = 'nobody'",
    "action = 'other'",
    "subject = 'other'",
    "before = '{}'",
    "after = NULL",
    "reason = 'other'",
    "previous_hash = 'other'",
    "hash = 'other'",
]


@pytest.mark.parametrize("change", ALTERED)
async def test_an_altered_entry_is_found(log: Log, change: str) -> None:
    await log.write(4, after={"a": 1})
    log.tamper(f"UPDATE prefect_n8n.audit_log SET {change} WHERE seq = 2")
    found = await log.broken()
    assert found == broken_by_own_reckoning(log.entries())
    assert found[0] == 2


async def test_an_entry_rewritten_with_its_hash_is_found_by_the_next(log: Log) -> None:
    await log.write(4)
    log.tamper("UPDATE prefect_n8n.audit_log SET actor = 'nobody' WHERE seq = 2")
    log.tamper("UPDATE prefect_n8n.audit_log a SET hash = prefect_n8n.audit_hash(a) WHERE seq = 2")
    assert await log.broken() == [3]


async def test_an_entry_moved_to_another_tenant_is_found(log: Log) -> None:
    await log.write(1)
    log.tamper(f"UPDATE prefect_n8n.audit_log SET tenant_id = '{OTHER_TENANT}'")
    assert await log.broken(OTHER_TENANT) == [1]


@pytest.mark.parametrize("removed", [1, 2])
async def test_a_removed_entry_is_found(log: Log, removed: int) -> None:
    """By the one after it. Removed from the end, entries leave no trace in the chain itself."""
    await log.write(4)
    log.tamper(f"DELETE FROM prefect_n8n.audit_log WHERE seq = {removed}")
    assert await log.broken() == [removed + 1]


async def test_a_tenant_checks_its_own_chain_alone(log: Log) -> None:
    await log.write(2)
    await log.write(2, OTHER_TENANT)
    log.tamper(f"UPDATE prefect_n8n.audit_log SET actor = '' WHERE tenant_id = '{OTHER_TENANT}'")
    assert await log.broken() == []
    assert await log.broken(OTHER_TENANT) == [1, 2]
