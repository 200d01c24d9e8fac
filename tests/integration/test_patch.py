"""``PATCH /api/webhooks/n8n``: whoever may send records a delivery by HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.specs import OutboundEndpoint
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database
from prefect_n8n.receiver.app import PREFIX
from support.receiver import TOKEN, Sender, add_token

WANTED = {"endpoint": "crm", "type": "order.paid", "body": {"order": 7}}


class Patcher:
    """Sends PATCH requests with the tests' token."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(
        self, body: Any, *, token: str | None = TOKEN, **headers: str
    ) -> httpx.Response:
        given = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._client.patch(PREFIX, content=raw, headers=given)


@pytest.fixture
async def patch(sender: Sender, database: Database) -> Patcher:
    """A sender of PATCH requests, with an endpoint ``crm`` and a token that may send."""
    await add_token(database, "send")
    async with database.transaction(DEFAULT_TENANT) as connection:
        spec = OutboundEndpoint("crm", "https://n8n.example.com/webhook/crm")
        await save(connection, DEFAULT_TENANT, spec, actor="test")
    return Patcher(sender.client)


async def test_a_delivery_is_committed_and_answered_202(patch: Patcher) -> None:
    answer = await patch(WANTED, idempotency_key="order-7-paid")
    assert answer.status_code == 202
    first = answer.json()
    assert first == {
        "id": first["id"],
        "event_id": "order-7-paid",
        "state": "pending",
        "duplicate": False,
    }
    again = await patch(WANTED, idempotency_key="order-7-paid")
    assert (again.status_code, again.json()) == (202, first | {"duplicate": True})
    other = await patch(WANTED | {"body": {}}, idempotency_key="order-7-paid")
    assert (other.status_code, other.json()["type"][-14:]) == (409, "event-conflict")


async def test_the_id_may_stand_in_the_body(patch: Patcher) -> None:
    assert (await patch(WANTED | {"id": "evt_1"})).json()["event_id"] == "evt_1"
    same = await patch(WANTED | {"id": "evt_1"}, idempotency_key="evt_1")
    assert same.json()["duplicate"]
    assert (await patch(WANTED | {"id": "evt_1"}, idempotency_key="evt_2")).status_code == 400
    assert len((await patch(WANTED)).json()["event_id"]) == 32


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"body": {}}, 422, "endpoint"),
        ({"endpoint": "crm"}, 422, "body"),
        ({"endpoint": "crm", "body": []}, 422, "body"),
        (WANTED | {"delay": -1}, 422, "delay"),
        (WANTED | {"delay": "1"}, 422, "delay"),
        (WANTED | {"url": "http://127.0.0.1"}, 422, "url"),
        (WANTED | {"id": "with space"}, 422, "id"),
        (WANTED | {"endpoint": "nowhere"}, 404, "nowhere"),
        (WANTED | {"endpoint": "orders"}, 404, "orders"),
        (b"{", 400, "JSON"),
        (b'{"endpoint":"crm","endpoint":"crm","body":{}}', 400, "duplicate"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    patch: Patcher, body: Any, status: int, word: str
) -> None:
    answer = await patch(body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in answer.json()["detail"]


async def test_only_who_may_send_sends(patch: Patcher, database: Database) -> None:
    assert (await patch(WANTED, token=None)).status_code == 401
    assert (await patch(WANTED, token="another")).status_code == 401
    await add_token(database, "read")
    assert (await patch(WANTED)).status_code == 403
    await add_token(database, "admin")
    assert (await patch(WANTED)).status_code == 202


async def test_a_body_that_n8n_would_not_take_is_refused(patch: Patcher) -> None:
    answer = await patch(WANTED | {"body": {"a": "x" * 16_777_216}})
    assert answer.status_code == 413
    assert (await patch(b" " * 17_000_000)).status_code == 413


async def test_other_types_and_encodings_are_refused(patch: Patcher) -> None:
    assert (await patch(WANTED, content_type="text/plain")).status_code == 415
    assert (await patch(WANTED, content_encoding="gzip")).status_code == 415
