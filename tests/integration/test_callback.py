"""``callback_url``: accepted, recorded once with the event's end, delivered, and never shown."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.settings import DEFAULT_TENANT, Settings
from prefect_n8n.ledger import callbacks, claims, launches
from prefect_n8n.ledger.audit import broken_entries
from prefect_n8n.ledger.claims import Claimed
from prefect_n8n.ledger.database import Database, Role
from prefect_n8n.ledger.states import ExecutionState
from prefect_n8n.receiver.app import PREFIX, create_app
from support import ends
from support.postgres import Ledger
from support.receiver import TOKEN, Sender, add_endpoint, add_token, secrets_of_tests

SIGNATURE = "c0ffee" * 10
RESUME = f"http://127.0.0.1:25678/webhook-waiting/38?signature={SIGNATURE}"
ORDER: dict[str, object] = {"type": "order.created", "total": 12.5, "callback_url": RESUME}


@pytest_asyncio.fixture
async def sender(ledger: Ledger, database: Database) -> AsyncIterator[Sender]:
    """A sender to a receiver whose callbacks may go to this machine."""
    await add_endpoint(database)
    settings = Settings(allowed_targets="127.0.0.0/8")
    app = create_app(Database(ledger.app_url), secrets_of_tests, settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield Sender(client)


async def rows(database: Database, query: str, **values: Any) -> list[dict[str, Any]]:
    """Return what a query finds."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        found = await connection.execute(text(query), values)
        return [dict(row) for row in found.mappings()]


async def accepted(sender: Sender, body: dict[str, object] = ORDER, **options: Any) -> UUID:
    """Send an event; return its row id."""
    answer = await sender.send(body, **options)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


async def recorded(database: Database) -> list[dict[str, Any]]:
    """Return all recorded callbacks, in the order of their ids, with their endpoint's slug."""
    return await rows(
        database,
        "SELECT e.*, p.slug, p.credentials_block FROM prefect_n8n.webhook_events e"
        " JOIN prefect_n8n.webhook_endpoints p ON p.id = e.endpoint_id"
        " WHERE e.direction = 'outbound' ORDER BY e.event_id",
    )


async def outbound(database: Database) -> list[dict[str, Any]]:
    """Return all outbound endpoints."""
    query = "SELECT * FROM prefect_n8n.webhook_endpoints WHERE direction = 'outbound' ORDER BY slug"
    return await rows(database, query)


async def test_an_accepted_event_keeps_it_and_makes_its_endpoint_once(
    sender: Sender, database: Database
) -> None:
    ids = await asyncio.gather(*(accepted(sender, event_id=f"e{i}") for i in range(8)))
    query = "SELECT id, callback_url FROM prefect_n8n.webhook_events"
    assert {r["id"]: r["callback_url"] for r in await rows(database, query)} == dict.fromkeys(
        ids, RESUME
    )
    (endpoint,) = await outbound(database)
    assert (endpoint["slug"], endpoint["credentials_block"]) == ("callbacks", "default")
    assert (endpoint["url"], endpoint["scheme"]) == (None, "standard")
    query = "SELECT subject FROM prefect_n8n.audit_log WHERE action = 'endpoint.saved'"
    subjects = [row["subject"] for row in await rows(database, query)]
    assert subjects.count("endpoint/callbacks") == 1


async def test_an_event_without_one_makes_nothing(sender: Sender, database: Database) -> None:
    row = await accepted(sender, {"type": "t", "callback_url": None})
    await ends.end(database, row)
    assert await outbound(database) == []
    assert await recorded(database) == []


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/a", "http://169.254.169.254/", "file:///etc/passwd", 7, "http://a@b/"]
)
async def test_a_refused_target_is_422_and_stores_nothing(
    sender: Sender, database: Database, url: object
) -> None:
    answer = await sender.send(ORDER | {"callback_url": url})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:prefect-n8n:problem:callback-refused"
    assert await rows(database, "SELECT id FROM prefect_n8n.webhook_events") == []
    assert await outbound(database) == []


async def test_another_block_has_an_endpoint_of_its_own(sender: Sender, database: Database) -> None:
    await add_endpoint(database, "crm", credentials_block="crm-keys")
    row = await accepted(sender, endpoint="crm")
    await ends.end(database, row)
    (callback,) = await recorded(database)
    assert (callback["slug"], callback["credentials_block"]) == ("callbacks-crm-keys", "crm-keys")


async def test_an_operators_changes_to_the_endpoint_stay(
    sender: Sender, database: Database
) -> None:
    await accepted(sender)
    change = "UPDATE prefect_n8n.webhook_endpoints SET timeout_seconds = 5 WHERE slug = 'callbacks'"
    await rows(database, f"{change} RETURNING id")
    await ends.end(database, await accepted(sender, event_id="evt_2"))
    (endpoint,) = await outbound(database)
    assert endpoint["timeout_seconds"] == 5


@pytest.mark.parametrize(
    ("end", "type", "fields"),
    [
        (
            ExecutionState.COMPLETED,
            "flow.completed",
            {"state": "completed", "result": {"score": 7}},
        ),
        (
            ExecutionState.FAILED,
            "flow.failed",
            {"state": "dead", "result": None, "error": "Failed: broken"},
        ),
        (
            ExecutionState.CANCELLED,
            "flow.cancelled",
            {"state": "cancelled", "result": None, "error": "Failed: broken"},
        ),
    ],
)
async def test_the_end_records_a_delivery(
    sender: Sender, database: Database, end: ExecutionState, type: str, fields: dict[str, Any]
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    row = await accepted(sender, headers={"traceparent": trace})
    done: dict[str, Any] = (
        {"result": '{"score": 7}'} if "error" not in fields else {"error": fields["error"]}
    )
    await ends.end(database, row, end, **done)

    (callback,) = await recorded(database)
    assert callback["event_id"] == f"callback:{row}:0"
    assert (callback["type"], callback["target_url"]) == (type, RESUME)
    assert (callback["state"], callback["traceparent"]) == ("pending", trace)
    assert json.loads(bytes(callback["body"])) == {
        "id": "evt_1",
        "event": str(row),
        "endpoint": "orders",
        "type": type,
        **fields,
    }
    async with database.transaction(DEFAULT_TENANT) as connection:
        assert await broken_entries(connection) == []


async def test_several_triggers_give_one_callback_with_all_results(
    sender: Sender, database: Database
) -> None:
    row = await accepted(sender)
    one, two = await ends.launch(database, row, "one", "two")
    await ends.finish(database, one, result="1")
    assert await recorded(database) == []
    await ends.finish(database, two, result='["Zoë ☕"]')
    (callback,) = await recorded(database)
    assert callback["payload"]["results"] == {"one": 1, "two": ["Zoë ☕"]}


async def claimed(database: Database, ledger: Ledger, row: UUID) -> Claimed:
    """Claim the event as launcher ``me``."""
    launcher = Database(ledger.launcher_url, pool_size=1)
    async with launcher.transaction(None, role=Role.LAUNCHER) as connection:
        (event,) = await claims.claim(connection, owner="me", lease=60, most=1)
    await launcher.close()
    assert event.id == row
    return event


async def test_an_event_that_is_buried_or_that_nothing_matches_has_its_callback_too(
    sender: Sender, database: Database, ledger: Ledger
) -> None:
    event = await claimed(database, ledger, await accepted(sender, event_id="a"))
    async with database.transaction(DEFAULT_TENANT) as connection:
        await launches.bury(connection, event, owner="me", reason="no such deployment")
    event = await claimed(database, ledger, await accepted(sender, event_id="b"))
    async with database.transaction(DEFAULT_TENANT) as connection:
        await launches.complete_unmatched(connection, event, owner="me")

    bodies = {c["payload"]["id"]: c["payload"] for c in await recorded(database)}
    assert bodies["a"]["type"] == "flow.failed"
    assert bodies["a"]["error"] == "no such deployment"
    assert bodies["b"]["type"] == "flow.completed"
    assert bodies["b"]["reason"] == "no trigger matched"
    assert bodies["b"]["result"] is None


async def test_of_two_executions_that_end_at_once_one_records_the_callback(
    sender: Sender, database: Database
) -> None:
    for i in range(10):
        row = await accepted(sender, event_id=f"e{i}")
        pair = await ends.launch(database, row, "one", "two")
        both = [ends.finish(database, each, result="1") for each in pair * 2]
        assert sorted(await asyncio.gather(*both)) == [False, False, True, True]
    assert len(await recorded(database)) == 10


async def test_an_end_that_is_rolled_back_has_recorded_nothing(
    sender: Sender, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await accepted(sender)
    (execution,) = await ends.launch(database, row, "one")
    original = callbacks.record

    async def killed(*args: Any, **options: Any) -> None:
        await original(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            await ends.finish(database, execution, result="1")
    assert await recorded(database) == []
    assert await ends.finish(database, execution, result="1")
    assert len(await recorded(database)) == 1


async def test_a_redrives_end_is_a_second_callback(sender: Sender, database: Database) -> None:
    row = await accepted(sender)
    await ends.end(database, row, ExecutionState.FAILED, error="broken")
    await ends.redrive(database, row)
    await ends.end(database, row, result="2")
    first, second = await recorded(database)
    assert (first["event_id"], second["event_id"]) == (f"callback:{row}:0", f"callback:{row}:1")
    assert (first["type"], second["type"]) == ("flow.failed", "flow.completed")
    assert second["payload"]["result"] == 2


async def test_results_that_are_large_and_deep_do_not_hold_up_the_end(
    sender: Sender, database: Database
) -> None:
    row = await accepted(sender)
    deep = "[" * 62 + "1" + "]" * 62
    wide = json.dumps({str(i): "x" for i in range(9_000)})
    one, two = await ends.launch(database, row, "one", "two")
    assert await ends.finish(database, one, result=deep)
    assert await ends.finish(database, two, result=wide)
    (callback,) = await recorded(database)
    assert callback["payload"]["results"]["two"] == json.loads(wide)


async def test_its_query_is_shown_nowhere(
    sender: Sender, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await add_token(database, "read")
    row = await accepted(sender)
    await ends.end(database, row, result='{"token": "hunter2", "score": 7}')
    refused = await sender.send(ORDER | {"callback_url": f"http://10.0.0.1/?x={SIGNATURE}"})
    bearer = {"authorization": f"Bearer {TOKEN}"}
    shown = await sender.client.get(f"{PREFIX}/events/{row}", headers=bearer)

    masked = "http://127.0.0.1:25678/webhook-waiting/38?********"
    assert shown.json()["callback_url"] == shown.json()["payload"]["callback_url"] == masked
    (execution,) = shown.json()["executions"]
    assert execution["result"] == {"token": "********", "score": 7}
    (callback,) = await recorded(database)
    delivery = await sender.client.get(f"{PREFIX}/events/{callback['id']}", headers=bearer)
    query = "SELECT audit_log::text AS entry FROM prefect_n8n.audit_log"
    audit = str(await rows(database, query))
    for seen in (refused.text, shown.text, delivery.text, caplog.text, audit):
        assert SIGNATURE not in seen


async def test_a_refused_statement_does_not_tell_its_values(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught:
        await rows(database, "SELECT CAST(:url AS text) || no_such_column", url=RESUME)
    assert SIGNATURE not in str(caught.value)


@pytest.mark.parametrize("slug", ["callbacks", "callbacks-crm-keys"])
async def test_its_endpoints_names_are_not_for_inbound_ones(database: Database, slug: str) -> None:
    with pytest.raises(ConfigurationError, match="choose another name"):
        await add_endpoint(database, slug)


def test_a_block_that_is_no_slug_has_a_name_of_its_own() -> None:
    names = {callbacks.endpoint_of(block) for block in ("A b", "A-b", "x" * 80, "a-b", "default")}
    assert len(names) == 5
    assert all(callbacks.is_reserved(name) and len(name) <= 63 for name in names)
