"""The outbox: a delivery exists if, and only if, its transaction commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from prefect import flow, task
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from prefect_n8n import Sent, asend, send
from prefect_n8n.core.errors import (
    BodyInvalid,
    ConfigurationError,
    EventConflict,
    LedgerUnavailable,
    RequestError,
)
from prefect_n8n.core.settings import DEFAULT_TENANT, settings
from prefect_n8n.core.specs import OutboundEndpoint
from prefect_n8n.flows.inbox import close_database
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database, driver_url
from support.postgres import Ledger

BODY = {"order": 7}
TIDY = """
    SELECT current_setting('role'), coalesce(current_setting('prefect_n8n.tenant_id', true), '')
"""
MADE_ONCE = """
    DO $$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
"""


@pytest.fixture
async def outbox(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ledger]:
    """A ledger with endpoint ``crm``, and a table of the caller's own."""
    monkeypatch.setenv("DATABASE_URL", ledger.app_url)
    settings.cache_clear()
    async with database.transaction(DEFAULT_TENANT) as connection:
        spec = OutboundEndpoint("crm", "https://n8n.example.com/webhook/crm")
        await save(connection, DEFAULT_TENANT, spec, actor="test")
    with psycopg.connect(ledger.admin_url) as connection:
        make_role(connection, "shop LOGIN IN ROLE prefect_n8n_app")
        connection.execute("CREATE TABLE orders (id int)")
        connection.execute("GRANT ALL ON orders TO shop")
    yield ledger
    await close_database()
    settings.cache_clear()


def make_role(connection: psycopg.Connection[Any], role: str) -> None:
    """Create a role of the cluster, unless another test has."""
    statement = MADE_ONCE.format(statement=f"CREATE ROLE {role}")
    connection.execute(statement)  # type: ignore[arg-type]


def shop(ledger: Ledger) -> str:
    """The caller's own login: no role of ours, but a member of the application's."""
    return ledger.app_url.replace("prefect_n8n_app", "shop")


def committed(ledger: Ledger) -> tuple[int, list[tuple[str, str]]]:
    """How many orders there are, and which deliveries."""
    with psycopg.connect(ledger.admin_url) as connection:
        orders = connection.execute("SELECT count(*) FROM orders").fetchone()
        sent = "SELECT event_id, state FROM prefect_n8n.webhook_events ORDER BY event_id"
        assert orders is not None
        return orders[0], connection.execute(sent).fetchall()


class Broken(Exception):
    """The caller's own failure."""


async def with_async_engine(ledger: Ledger, fails: bool, session: bool) -> None:
    engine = create_async_engine(driver_url(shop(ledger)))
    try:
        async with engine.connect() as connection, connection.begin():
            caller: Any = AsyncSession(connection) if session else connection
            await connection.exec_driver_sql("INSERT INTO orders VALUES (1)")
            await asend("crm", BODY, event_id="evt_1", connection=caller)
            await connection.exec_driver_sql("INSERT INTO orders VALUES (2)")
            assert tuple((await connection.exec_driver_sql(TIDY)).one()) == ("none", "")
            if fails:
                raise Broken
    finally:
        await engine.dispose()


async def with_engine(ledger: Ledger, fails: bool, session: bool) -> None:
    engine = create_engine(driver_url(shop(ledger)))
    try:
        with engine.begin() as connection:
            caller = Session(connection) if session else connection
            connection.exec_driver_sql("INSERT INTO orders VALUES (1)")
            send("crm", BODY, event_id="evt_1", connection=caller)
            connection.exec_driver_sql("INSERT INTO orders VALUES (2)")
            assert tuple(connection.exec_driver_sql(TIDY).one()) == ("none", "")
            if fails:
                raise Broken
    finally:
        engine.dispose()


async def with_psycopg(ledger: Ledger, fails: bool) -> None:
    with psycopg.connect(shop(ledger)) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        send("crm", BODY, event_id="evt_1", connection=connection)
        connection.execute("INSERT INTO orders VALUES (2)")
        assert connection.execute(TIDY).fetchone() == ("none", "")
        if fails:
            raise Broken


async def with_async_psycopg(ledger: Ledger, fails: bool) -> None:
    async with await psycopg.AsyncConnection.connect(shop(ledger)) as connection:
        await connection.execute("INSERT INTO orders VALUES (1)")
        await asend("crm", BODY, event_id="evt_1", connection=connection)
        await connection.execute("INSERT INTO orders VALUES (2)")
        assert await (await connection.execute(TIDY)).fetchone() == ("none", "")
        if fails:
            raise Broken


CALLERS: dict[str, Callable[[Ledger, bool], Awaitable[None]]] = {
    "psycopg": with_psycopg,
    "async psycopg": with_async_psycopg,
    "connection": lambda ledger, fails: with_engine(ledger, fails, session=False),
    "session": lambda ledger, fails: with_engine(ledger, fails, session=True),
    "async connection": lambda ledger, fails: with_async_engine(ledger, fails, session=False),
    "async session": lambda ledger, fails: with_async_engine(ledger, fails, session=True),
}


@pytest.mark.parametrize("caller", CALLERS)
async def test_it_is_part_of_the_callers_transaction(outbox: Ledger, caller: str) -> None:
    with pytest.raises(Broken):
        await CALLERS[caller](outbox, True)
    assert committed(outbox) == (0, [])
    await CALLERS[caller](outbox, False)
    assert committed(outbox) == (2, [("evt_1", "pending")])


async def test_without_a_connection_it_commits_by_itself(outbox: Ledger) -> None:
    first = await asend("crm", BODY, event_id="evt_1", type="order.paid")
    second = send("crm", BODY, event_id="evt_2")
    assert (first.state, first.duplicate, second.duplicate) == ("pending", False, False)
    assert committed(outbox)[1] == [("evt_1", "pending"), ("evt_2", "pending")]


async def test_a_known_id_with_the_same_body_is_one_delivery(outbox: Ledger) -> None:
    first = send("crm", BODY, event_id="evt_1")
    assert send("crm", BODY, event_id="evt_1") == Sent(first.id, "pending", True)
    assert await asend("crm", BODY, event_id="evt_1") == Sent(first.id, "pending", True)
    with pytest.raises(EventConflict):
        send("crm", {"order": 8}, event_id="evt_1")
    assert len(committed(outbox)[1]) == 1


async def test_a_run_that_is_tried_again_sends_once(outbox: Ledger, prefect_api: str) -> None:
    tries: list[Sent] = []

    @task(retries=1, retry_delay_seconds=0)
    async def tell() -> None:
        tries.append(await asend("crm", BODY))
        if len(tries) == 1:
            raise RuntimeError("after the delivery was recorded")

    @flow(name="sends-once")
    async def pay() -> None:
        await tell()
        await tell()

    assert prefect_api
    await pay()
    assert [sent.duplicate for sent in tries] == [False, True, False]
    assert tries[0].id == tries[1].id
    assert len(committed(outbox)[1]) == 2


async def test_without_an_id_each_is_a_delivery_of_its_own(outbox: Ledger) -> None:
    assert send("crm", BODY).id != send("crm", BODY).id


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"endpoint": "nowhere"}, ConfigurationError),
        ({"body": {"a": float("nan")}}, BodyInvalid),
        ({"body": {"a": object()}}, BodyInvalid),
        ({"body": {"a": "\x00"}}, BodyInvalid),
        ({"body": {"a": "\ud800"}}, BodyInvalid),
        ({"event_id": "with space"}, RequestError),
        ({"event_id": "ümlaut"}, RequestError),
        ({"event_id": "x" * 257}, RequestError),
        ({"type": "x" * 257}, RequestError),
        ({"delay": -1.0}, RequestError),
        ({"delay": float("inf")}, RequestError),
        ({"body": {"a": "x" * 16_777_216}}, RequestError),
    ],
)
async def test_what_cannot_be_sent_is_refused_at_once(
    outbox: Ledger, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        send(**{"endpoint": "crm", "body": BODY} | arguments)
    with pytest.raises(error):
        await asend(**{"endpoint": "crm", "body": BODY} | arguments)
    assert committed(outbox)[1] == []


async def test_a_ledger_that_is_away_is_said_so(
    outbox: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await close_database()
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    settings.cache_clear()
    with pytest.raises(LedgerUnavailable):
        send("crm", BODY)
    with pytest.raises(LedgerUnavailable):
        await asend("crm", BODY)


async def test_the_function_lets_no_login_in_that_may_not_act_as_the_application(
    outbox: Ledger,
) -> None:
    with psycopg.connect(outbox.admin_url, autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = 'stranger'").fetchone():
            connection.execute("CREATE ROLE stranger LOGIN")
    stranger = outbox.app_url.replace("prefect_n8n_app", "stranger")
    with (
        psycopg.connect(stranger) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        send("crm", BODY, connection=connection)
    assert committed(outbox)[1] == []


async def test_an_endpoint_of_another_tenant_is_not_known(
    outbox: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_N8N_TENANT_ID", "bbbbbbbb-0000-4000-8000-000000000000")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="no outbound endpoint 'crm'"):
        send("crm", BODY)


async def test_an_inbound_endpoint_is_none_to_send_to(outbox: Ledger, database: Database) -> None:
    from support.receiver import add_endpoint

    await add_endpoint(database, "orders")
    with pytest.raises(ConfigurationError, match="no outbound endpoint 'orders'"):
        send("orders", BODY)
    async with database.transaction(DEFAULT_TENANT) as connection:
        with pytest.raises(ConfigurationError, match="is inbound"):
            await save(
                connection,
                DEFAULT_TENANT,
                OutboundEndpoint("orders", "https://x.example"),
                actor="test",
            )


async def test_a_delay_makes_it_due_later(outbox: Ledger) -> None:
    sent = send("crm", BODY, delay=3600)
    query = "SELECT scheduled_at - received_at FROM prefect_n8n.webhook_events WHERE id = %s"
    with psycopg.connect(outbox.admin_url) as connection:
        row = connection.execute(query, [sent.id]).fetchone()
    assert row is not None
    assert row[0].total_seconds() == 3600
