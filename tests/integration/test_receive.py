"""The receiving route over a real ledger: what is stored, and every other answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import b64encode
from typing import Any

import pytest
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.signing import HmacScheme
from prefect_n8n.ledger.audit import broken_entries
from prefect_n8n.ledger.database import Database
from prefect_n8n.receiver.app import PREFIX
from support.receiver import TOKEN, Sender, add_token

ORDER: dict[str, object] = {"id": "o-1", "type": "order.created", "total": 12.5, "name": "Zoë ☕"}


async def rows(database: Database, query: str = "SELECT * FROM prefect_n8n.webhook_events") -> Any:
    async with database.transaction(DEFAULT_TENANT) as connection:
        return list((await connection.execute(text(query))).mappings())


async def test_a_signed_event_is_stored_as_it_came(sender: Sender, database: Database) -> None:
    raw = json.dumps(ORDER, indent=2, ensure_ascii=False).encode()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    answer = await sender.send(raw, headers={"traceparent": trace, "authorization": "Bearer x"})

    assert answer.status_code == 202
    (row,) = await rows(database)
    assert answer.json() == {"id": str(row["id"]), "state": "pending", "duplicate": False}
    assert bytes(row["body"]) == raw
    assert bytes(row["body_hash"]) == hashlib.sha256(raw).digest()
    assert row["payload"] == ORDER
    assert (row["event_id"], row["type"]) == ("evt_1", "order.created")
    assert row["traceparent"] == trace
    assert row["headers"]["authorization"] == "********"
    assert row["headers"]["webhook-signature"] == "********"


async def test_hmac_takes_the_event_id_from_the_signed_body(
    sender: Sender, database: Database
) -> None:
    first = await sender.send(ORDER, endpoint="hmac", scheme=HmacScheme())
    again = await sender.send(ORDER, endpoint="hmac", scheme=HmacScheme(), at=time.time() - 5)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json() | {"duplicate": True}
    (row,) = await rows(database)
    assert row["event_id"] == "o-1"


async def test_hmac_without_an_id_is_known_by_body_and_signed_time(
    sender: Sender, database: Database
) -> None:
    now = time.time()
    for at in (now, now, now - 5):
        await sender.send({"type": "t"}, endpoint="hmac", scheme=HmacScheme(), at=at)
    assert len(await rows(database)) == 2


async def test_a_known_id_with_another_body_is_a_conflict(
    sender: Sender, database: Database
) -> None:
    await sender.send(ORDER)
    answer = await sender.send(ORDER | {"total": 1})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:prefect-n8n:problem:event-conflict"
    assert len(await rows(database)) == 1


async def test_concurrent_repeats_store_one_event(sender: Sender, database: Database) -> None:
    answers = await asyncio.gather(*(sender.send(ORDER) for _ in range(40)))
    assert {a.status_code for a in answers} == {202}
    assert [a.json()["duplicate"] for a in answers].count(False) == 1
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(await rows(database)) == 1


async def test_the_audit_chain_names_every_accepted_event(
    sender: Sender, database: Database
) -> None:
    ids = [(await sender.send(ORDER, event_id=f"e{i}")).json()["id"] for i in range(5)]
    audit = "SELECT * FROM prefect_n8n.audit_log WHERE action = 'event.accepted'"
    named = [id for row in await rows(database, audit) for id in row["after"]["ids"]]
    assert sorted(named) == sorted(ids)
    async with database.transaction(DEFAULT_TENANT) as connection:
        assert await broken_entries(connection) == []


async def test_unknown_endpoint_looks_like_a_wrong_signature(
    sender: Sender, database: Database
) -> None:
    unknown = await sender.send(ORDER, endpoint="nowhere")
    wrong = await Sender(sender.client, secret=b"x" * 32).send(ORDER)
    assert unknown.status_code == wrong.status_code == 401
    assert unknown.content == wrong.content
    assert unknown.headers == wrong.headers
    assert await rows(database) == []


@pytest.mark.parametrize("age", [-301, 301])
async def test_a_time_out_of_tolerance_is_refused(sender: Sender, age: int) -> None:
    assert (await sender.send(ORDER, at=time.time() + age)).status_code == 401


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"a": "\\u0000"}', {}, 400),
        (b'{"a": "\\ud800"}', {}, 400),
        (b'{"a": 1, "a": 2}', {}, 400),
        (b'{"a": NaN}', {}, 400),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", {}, 400),
        (b'{"type": ["not text"]}', {}, 400),
        (b'{"type": "' + b"x" * 300 + b'"}', {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (b'{"a": "' + b"x" * 1_048_576 + b'"}', {}, 413),
    ],
)
async def test_a_bad_body_is_refused_and_not_stored(
    sender: Sender, database: Database, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await sender.send(body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert await rows(database) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"host": ""},
        {"transfer-encoding": "gzip, chunked"},
        {"transfer-encoding": "chunked", "content-length": "2"},
    ],
)
async def test_unclear_framing_is_refused(sender: Sender, headers: dict[str, str]) -> None:
    request = sender.client.build_request("POST", f"{PREFIX}/orders", headers=headers)
    if headers.get("host") == "":
        del request.headers["host"]
    answer = await sender.client.send(request)
    assert answer.status_code == 400
    assert answer.headers["connection"] == "close"


async def test_a_paused_database_is_503_and_a_repeat_is_stored_once(
    sender: Sender, database: Database
) -> None:
    await sender.send(ORDER)
    async with database.transaction(DEFAULT_TENANT) as connection:
        # Holds the row's key, so that the receiver's insert waits into its lock_timeout.
        await connection.execute(
            text("""INSERT INTO prefect_n8n.webhook_events
                        (tenant_id, id, endpoint_id, event_id, body, body_hash, payload)
                    SELECT tenant_id, gen_random_uuid(), endpoint_id, 'evt_2', body, body_hash,
                           payload
                    FROM prefect_n8n.webhook_events""")
        )
        refused = await sender.send(ORDER, event_id="evt_2")
        await connection.rollback()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert (await sender.send(ORDER, event_id="evt_2")).json()["duplicate"] is False


async def test_status_counts_events_for_holders_of_the_scope_alone(
    sender: Sender, database: Database
) -> None:
    await sender.send(ORDER)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert (await sender.client.get(PREFIX)).status_code == 401
    assert (await sender.client.get(PREFIX, headers=bearer)).status_code == 401
    await add_token(database, "send")
    assert (await sender.client.get(PREFIX, headers=bearer)).status_code == 403
    await add_token(database, "read")
    answer = await sender.client.get(PREFIX, headers=bearer)
    assert answer.status_code == 200
    assert answer.json()["events"]["pending"] == 1
    assert answer.json()["oldest_pending_seconds"] >= 0


async def test_one_event_is_shown_redacted(sender: Sender, database: Database) -> None:
    await add_token(database, "read")
    id = (await sender.send(ORDER | {"password": "hunter2"})).json()["id"]
    browser = {"auth": ("", TOKEN)}
    shown = await sender.client.get(f"{PREFIX}/events/{id}", **browser)  # type: ignore[arg-type]
    assert shown.json()["payload"]["password"] == "********"
    assert shown.json()["executions"] == []
    other = await sender.client.get(f"{PREFIX}/events/{'0' * 32}", **browser)  # type: ignore[arg-type]
    assert other.status_code == 404


@pytest.mark.parametrize("user", ["", "admin"])
async def test_a_browser_asks_its_user_for_the_token(
    sender: Sender, database: Database, user: str
) -> None:
    """A click on the run's link opens the event's address, without any header."""
    await add_token(database, "read")
    path = f"{PREFIX}/events/{(await sender.send(ORDER)).json()['id']}"
    for headers in ({}, {"authorization": "Basic " + b64encode(b"a:wrong").decode()}):
        answer = await sender.client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="prefect-n8n", Bearer'
    answer = await sender.client.get(path, auth=(user, TOKEN))
    assert answer.status_code == 200
    # An event's sender signs, and is not asked.
    refused = await sender.client.post(f"{PREFIX}/orders", content=b"{}")
    assert refused.headers["www-authenticate"] == "Signature"


async def test_liveness_readiness_and_unknown_paths(sender: Sender) -> None:
    get = sender.client.get
    assert (await get("/healthz")).status_code == 200
    assert (await get("/readyz")).status_code == 200
    assert (await get("/nothing")).json()["status"] == 404
    answer = await sender.client.delete(f"{PREFIX}/orders")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
