"""``Prefer: wait=N``: the answer with the flow's result, and all that must not spoil it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from prefect_n8n.core.errors import LedgerUnavailable
from prefect_n8n.core.settings import DEFAULT_TENANT, Settings
from prefect_n8n.core.signing import StandardScheme, sign
from prefect_n8n.ledger import endings
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.states import ExecutionState
from prefect_n8n.receiver import waiting
from prefect_n8n.receiver.app import PREFIX, create_app
from prefect_n8n.receiver.waiting import NAME, Waiters
from support import ends
from support.bridge import until
from support.postgres import Ledger
from support.receiver import Sender, add_endpoint, secrets_of_tests
from support.serving import Served, served

ORDER: dict[str, object] = {"type": "order.created", "total": 12.5}
SOON = 5.0
"""Seconds within which an answer is due that nothing holds up."""


@dataclass
class Waiting(Sender):
    """A sender whose events' ends can be waited for."""

    served: Served = None  # type: ignore[assignment]
    waiters: Waiters = None  # type: ignore[assignment]

    def post(self, seconds: object = 20, **options: Any) -> asyncio.Task[httpx.Response]:
        """Send an event that prefers to wait."""
        headers = {"prefer": f"wait={seconds}"} | options.pop("headers", {})
        return asyncio.create_task(self.send(ORDER, headers=headers, **options))

    async def waits(self, count: int = 1) -> None:
        """Wait until so many requests wait, no more and no less."""

        async def waiting() -> bool:
            return self.waiters.count == count

        await until(waiting, what=f"{count} waiting requests")


@asynccontextmanager
async def receiver(ledger: Ledger, **changes: Any) -> AsyncIterator[Waiting]:
    """A sender to a receiver on a real socket."""
    deadline = changes.pop("receive_deadline", 10.0)
    app = create_app(Database(ledger.app_url), secrets_of_tests, Settings(**changes))
    limits = httpx.Limits(max_connections=None)
    async with (
        served(app, receive_deadline=deadline) as running,
        httpx.AsyncClient(base_url=running.url, limits=limits, timeout=60) as client,
    ):
        await until(lambda: listens(ledger), what="the listening connection")
        yield Waiting(client, served=running, waiters=app.state.waiters)


@pytest.fixture
async def sender(ledger: Ledger, database: Database) -> AsyncIterator[Waiting]:
    """A sender to a receiver with endpoint ``orders``."""
    await add_endpoint(database)
    async with receiver(ledger) as waiting:
        yield waiting


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends are told on a channel that nobody hears."""
    monkeypatch.setattr(endings, "CHANNEL", "nobody")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends are not looked for, only heard."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 600.0)


async def listens(ledger: Ledger) -> list[Any]:
    """Return the server's processes that listen for the receiver."""
    admin = Database(ledger.admin_url, pool_size=1)
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = :name AND datname"
    query += " = current_database() AND state = 'idle' AND query LIKE 'LISTEN%'"
    try:
        async with admin._engine.begin() as connection:
            return list((await connection.execute(text(query), {"name": NAME})).scalars())
    finally:
        await admin.close()


async def the_event(database: Database, event_id: str = "evt_1") -> Any:
    """Wait until the event is committed; return its row id."""
    query = "SELECT id FROM prefect_n8n.webhook_events WHERE event_id = :id"

    async def committed() -> Any:
        async with database.transaction(DEFAULT_TENANT) as connection:
            return (await connection.execute(text(query), {"id": event_id})).scalar_one_or_none()

    return await until(committed, what="the committed event")


@pytest.mark.usefixtures("blind")
async def test_the_answer_is_the_flows_result(sender: Waiting, database: Database) -> None:
    posted = sender.post()
    await sender.waits()
    row = await the_event(database)
    assert not posted.done()
    await ends.end(database, row, result='{"score": 7, "name": "Zoë"}')

    answer = await asyncio.wait_for(posted, SOON)
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait"
    assert "location" not in answer.headers
    assert answer.json() == {
        "id": str(row),
        "state": "completed",
        "duplicate": False,
        "result": {"score": 7, "name": "Zoë"},
        "executions": ["http://prefect/on_order"],
    }
    await sender.waits(0)


@pytest.mark.usefixtures("deaf")
async def test_polling_is_the_net_under_a_lost_notification(
    sender: Waiting, database: Database
) -> None:
    posted = sender.post()
    await sender.waits()
    await ends.end(database, await the_event(database), result="1")
    assert (await asyncio.wait_for(posted, SOON)).json()["result"] == 1


@pytest.mark.usefixtures("blind")
async def test_a_duplicate_waits_for_the_first_ones_end_and_gets_its_answer(
    sender: Waiting, database: Database
) -> None:
    first, second = sender.post(), sender.post()
    await sender.waits(2)
    row = await the_event(database)
    await ends.end(database, row, result='"done"')
    both = [(await asyncio.wait_for(posted, SOON)).json() for posted in (first, second)]
    # It ended long ago: answered at once.
    both.append((await asyncio.wait_for(sender.post(), SOON)).json())

    assert sorted(answer.pop("duplicate") for answer in both) == [False, True, True]
    assert both[0] == both[1] == both[2]
    assert both[0]["result"] == "done"


@pytest.mark.parametrize(
    ("end", "state"), [(ExecutionState.FAILED, "dead"), (ExecutionState.CANCELLED, "cancelled")]
)
async def test_a_flow_that_did_not_complete_says_why(
    sender: Waiting, database: Database, end: ExecutionState, state: str
) -> None:
    posted = sender.post()
    await sender.waits()
    await ends.end(database, await the_event(database), end, error="Failed: ValueError: broken")
    answer = await asyncio.wait_for(posted, SOON)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["state"], shown["result"]) == (state, None)
    assert shown["error"] == "Failed: ValueError: broken"


async def test_several_triggers_give_results_by_name(sender: Waiting, database: Database) -> None:
    posted = sender.post()
    await sender.waits()
    row = await the_event(database)
    one, two = await ends.launch(database, row, "one", "two")
    await ends.finish(database, two, result="2")
    await asyncio.sleep(1.5)
    assert not posted.done()
    await ends.finish(database, one, ExecutionState.FAILED, error="broken")

    shown = (await asyncio.wait_for(posted, SOON)).json()
    assert "result" not in shown
    assert shown["results"] == {"one": None, "two": 2}
    assert (shown["state"], shown["error"]) == ("dead", "broken")
    assert shown["executions"] == ["http://prefect/one", "http://prefect/two"]


async def test_out_of_time_is_202_with_the_place_of_the_result(
    ledger: Ledger, database: Database
) -> None:
    await add_endpoint(database)
    async with receiver(ledger, public_url="https://n.example/hooks/") as sender:
        begun = time.monotonic()
        answer = await sender.post(1)
    assert 1.0 <= time.monotonic() - begun < SOON
    assert answer.status_code == 202
    row = await the_event(database)
    assert answer.json() == {"id": str(row), "state": "pending", "duplicate": False}
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.headers["location"] == f"https://n.example/hooks{PREFIX}/events/{row}"


@pytest.mark.parametrize("seconds", ["soon", "-1", "1.5", ""])
async def test_a_malformed_preference_is_passed_over(sender: Waiting, seconds: str) -> None:
    answer = await asyncio.wait_for(sender.post(seconds), SOON)
    assert answer.status_code == 202
    assert not {"preference-applied", "location"} & set(answer.headers)


async def test_too_many_waiters_are_answered_at_once(ledger: Ledger, database: Database) -> None:
    await add_endpoint(database)
    async with receiver(ledger, max_waiters=1) as sender:
        first = sender.post()
        await sender.waits()
        answer = await asyncio.wait_for(sender.post(event_id="evt_2"), SOON)
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
        assert answer.headers["location"].endswith(answer.json()["id"])
        await ends.end(database, await the_event(database), result="1")
        assert (await asyncio.wait_for(first, SOON)).status_code == 200


async def test_a_client_that_goes_away_waits_no_longer(sender: Waiting) -> None:
    posted = sender.post(50)
    await sender.waits()
    posted.cancel()
    await asyncio.gather(posted, return_exceptions=True)
    await sender.waits(0)


async def test_a_receiver_that_stops_answers_its_waiters_at_once(
    sender: Waiting, database: Database
) -> None:
    posted = sender.post()
    await sender.waits()
    begun = time.monotonic()
    await sender.served.stop()
    answer = await posted
    assert time.monotonic() - begun < SOON
    assert answer.status_code == 202
    assert answer.json()["id"] == str(await the_event(database))
    assert "preference-applied" not in answer.headers


async def test_deadline_and_keep_alive_do_not_cut_a_waiting_answer_off(
    ledger: Ledger, database: Database
) -> None:
    await add_endpoint(database)
    async with receiver(ledger, receive_deadline=0.5) as sender:
        late = await sender.post(2)
        assert late.status_code == 202
        assert late.headers["preference-applied"] == "wait=2"
        # The same connection takes the next request, and waits as long for it.
        posted = sender.post(10)
        await sender.waits()
        await asyncio.sleep(1.0)
        await ends.end(database, await the_event(database), result="1")
        assert (await asyncio.wait_for(posted, SOON)).json()["result"] == 1
        assert (await sender.client.get("/healthz")).status_code == 200


async def test_bytes_behind_a_waiting_request_do_not_end_it(
    sender: Waiting, database: Database
) -> None:
    """A pipelined request waits for its turn; a client's keep-alive byte is none."""
    raw = json.dumps(ORDER).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(sender.served.url).port)
    writer.write(signed_bytes(sender, raw) + b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    await sender.waits()
    await asyncio.sleep(0.5)
    assert sender.waiters.count == 1
    await ends.end(database, await the_event(database), result='"whole"')
    answers = await asyncio.wait_for(reader.readuntil(b'"ok"}'), SOON)
    assert answers.startswith(b"HTTP/1.1 200")
    assert b'"result":"whole"' in answers
    writer.close()


def signed_bytes(sender: Waiting, raw: bytes) -> bytes:
    """Return a signed request's bytes as they go over the wire."""
    pairs = sign(StandardScheme(), sender.secret, raw, event_id="evt_1", timestamp=int(time.time()))
    lines = [b"POST %b/orders HTTP/1.1" % PREFIX.encode(), b"host: a", b"prefer: wait=20"]
    lines += [b"content-type: application/json", b"content-length: %d" % len(raw)]
    lines += [b"%b: %b" % pair for pair in pairs]
    return b"\r\n".join([*lines, b"", raw])


@pytest.mark.usefixtures("blind")
async def test_a_lost_listening_connection_heals(
    sender: Waiting, database: Database, ledger: Ledger
) -> None:
    (pid,) = await listens(ledger)
    admin = Database(ledger.admin_url, pool_size=1)
    async with admin._engine.begin() as connection:
        await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    await admin.close()
    posted = sender.post()
    await sender.waits()
    # While nobody listens: what was missed is looked for when it listens again.
    await ends.end(database, await the_event(database), result="1")
    assert (await asyncio.wait_for(posted, SOON)).json()["result"] == 1
    assert pid not in await until(lambda: listens(ledger), what="the new connection")
    again = sender.post(event_id="evt_2")
    await sender.waits()
    await ends.end(database, await the_event(database, "evt_2"), result="2")
    assert (await asyncio.wait_for(again, SOON)).json()["result"] == 2


async def test_many_waiters_cost_no_connections_and_few_queries(
    sender: Waiting, database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    original = Waiters._answer

    async def counted(self: Waiters, tenant: Any, events: Any) -> None:
        looks.append(len(events))
        await original(self, tenant, events)

    monkeypatch.setattr(Waiters, "_answer", counted)
    posted = [sender.post(3, event_id=f"e{i}") for i in range(60)]
    await sender.waits(60)
    looks.clear()
    admin = Database(ledger.admin_url, pool_size=1)
    async with admin._engine.begin() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        query += " AND usename = 'prefect_n8n_app'"
        used = (await connection.execute(text(query))).scalar_one()
    await admin.close()
    answers = await asyncio.gather(*posted)
    # The receiver's pool, its listening connection, and this test's own.
    assert used <= 5 + 1 + 5
    assert {answer.status_code for answer in answers} == {202}
    assert 60 in looks
    assert len(looks) <= 6


async def test_a_ledger_that_is_away_ends_no_wait(
    sender: Waiting, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [LedgerUnavailable("away"), ValueError("unexpected")]
    original = Waiters._answer

    async def fails(self: Waiters, tenant: Any, events: Any) -> None:
        if failures:
            raise failures.pop()
        await original(self, tenant, events)

    posted = sender.post()
    await sender.waits()
    monkeypatch.setattr(Waiters, "_answer", fails)
    await ends.end(database, await the_event(database), result="1")
    assert (await asyncio.wait_for(posted, SOON)).json()["result"] == 1
    assert failures == []
