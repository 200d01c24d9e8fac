"""The shipped n8n workflows, run by a real n8n against a real receiver and ledger."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import uvicorn
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT, Settings
from prefect_n8n.ledger.database import Database
from prefect_n8n.receiver.app import create_app
from prefect_n8n.receiver.protocol import uvicorn_config
from support.n8n import N8n, Workflow, fill, n8n_workflow, node_of
from support.postgres import Ledger
from support.receiver import SECRET, add_endpoint, secrets_of_tests

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.parametrize("scheme", ["standard", "hmac"]),
]

CREDENTIAL = "Prefect webhook secret"
TYPE = "order.created"
BODY: dict[str, Any] = {"order_id": "o-1", "total": 12.5, "name": "Zoë ☕", "lines": [{"n": 1}, {}]}


@pytest_asyncio.fixture
async def receiver(n8n: N8n, ledger: Ledger, database: Database) -> AsyncIterator[str]:
    """The base URL of a receiver that has the endpoints ``standard`` and ``hmac``."""
    for scheme in ("standard", "hmac"):
        await add_endpoint(database, scheme, scheme=scheme)
    app = create_app(Database(ledger.app_url), secrets_of_tests, Settings())
    config = uvicorn_config(app, host="127.0.0.1", port=0, receive_deadline=10)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not serve(): it takes the signals that are pytest's.
    await server.startup()
    loop = asyncio.create_task(server.main_loop())
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await loop
    await server.shutdown()


def template(scheme: str, receiver: str, **settings: object) -> Workflow:
    """The template with its Settings filled in, and without its 20 s of retries."""
    workflow = n8n_workflow(f"send-event-{scheme}.json")
    fill(workflow, "Settings", receiver_url=receiver, endpoint=scheme, **settings)
    node_of(workflow, "Send")["waitBetweenTries"] = 1
    return workflow


def order(event_id: str, body: dict[str, Any] = BODY) -> dict[str, str]:
    """What a user fills in for one event."""
    return {"event_id": event_id, "event_type": TYPE, "body": json.dumps(body)}


def raw(scheme: str, event_id: str, body: dict[str, Any] = BODY) -> bytes:
    """The body that the template must send, byte for byte."""
    fields = body | ({"id": event_id} if scheme == "hmac" else {}) | {"type": TYPE}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


async def events(database: Database) -> Any:
    """All stored events, in order of their ids as n8n gave them."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        query = text("SELECT * FROM prefect_n8n.webhook_events ORDER BY event_id")
        return list((await connection.execute(query)).mappings())


async def test_an_event_is_signed_and_stored_as_sent(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    event_id = f"evt_{uuid4().hex}"
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        id = await n8n.add(template(scheme, receiver + "/", **order(event_id)))
        execution = await n8n.run(id)

    assert execution.status == "success", execution.error
    (row,) = await events(database)
    assert execution.output("Send") == [
        {"id": str(row["id"]), "state": "pending", "duplicate": False}
    ]
    assert bytes(row["body"]) == raw(scheme, event_id)
    assert (row["type"], row["event_id"]) == (TYPE, event_id)


async def test_the_same_event_id_again_stores_nothing_more(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        id = await n8n.add(template(scheme, receiver, **order("evt_1")))
        (first,) = (await n8n.run(id)).output("Send")
        again = await n8n.run(id)

    assert again.status == "success", again.error
    assert again.output("Send") == [first | {"duplicate": True}]
    assert len(await events(database)) == 1


async def test_the_same_event_id_with_another_body_fails_with_409(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        await n8n.run(await n8n.add(template(scheme, receiver, **order("evt_1"))))
        other = template(scheme, receiver, **order("evt_1", BODY | {"total": 1}))
        execution = await n8n.run(await n8n.add(other))

    assert (execution.status, (execution.error or {}).get("httpCode")) == ("error", "409")
    (row,) = await events(database)
    assert bytes(row["body"]) == raw(scheme, "evt_1")


async def test_a_wrong_secret_fails_with_401_and_stores_nothing(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    async with n8n.secret(CREDENTIAL, "another-secret-of-printable-text-0123"):
        execution = await n8n.run(await n8n.add(template(scheme, receiver, **order("evt_1"))))

    assert execution.status == "error"
    assert (execution.error or {}).get("httpCode") == "401"
    assert await events(database) == []


async def test_the_retry_of_a_calling_workflow_signs_the_same_events_anew(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    async with n8n.secret(CREDENTIAL, SECRET.decode()) as secret:
        sender = await n8n.add(template(scheme, receiver))
        await n8n.publish(sender)
        orders = [{"event_id": f"evt_{n}", "event_type": TYPE, "body": BODY} for n in (1, 2)]
        caller = await n8n.add(calling(sender, orders))
        await set_secret(n8n, secret, "a-secret-that-the-receiver-does-not-know")
        failed = await n8n.run(caller)
        assert (failed.status, await events(database)) == ("error", [])

        await set_secret(n8n, secret, SECRET.decode())
        retried = await n8n.retry(failed.id)

    assert retried.status == "success", retried.error
    assert [item["duplicate"] for item in retried.output("Send event")] == [False, False]
    stored = [(row["event_id"], bytes(row["body"])) for row in await events(database)]
    assert stored == [(f"evt_{n}", raw(scheme, f"evt_{n}")) for n in (1, 2)]


async def test_without_an_event_id_each_item_of_each_run_has_its_own(
    scheme: str, n8n: N8n, receiver: str, database: Database
) -> None:
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        sender = await n8n.add(template(scheme, receiver))
        await n8n.publish(sender)
        caller = await n8n.add(calling(sender, [{"body": {"n": n}} for n in (1, 2)]))
        for _ in range(2):
            execution = await n8n.run(caller)
            assert execution.status == "success", execution.error

    stored = await events(database)
    assert sorted(row["payload"]["n"] for row in stored) == [1, 1, 2, 2]
    shape = re.compile(r"n8n-\d+-[01]-\d{13}")  # execution, item, time
    assert all(shape.fullmatch(row["event_id"]) for row in stored)


async def test_an_unreachable_receiver_fails_the_run(scheme: str, n8n: N8n) -> None:
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        workflow = template(scheme, "http://127.0.0.1:9", **order("evt_1"))
        execution = await n8n.run(await n8n.add(workflow))

    assert execution.status == "error"
    assert (execution.error or {}).get("httpCode") == "ECONNREFUSED"


async def set_secret(n8n: N8n, credential: str, secret: str) -> None:
    """Change the Hmac Secret of a credential."""
    data = {"hmacSecret": secret}
    await n8n.api("PATCH", f"/credentials/{credential}", {"type": "crypto", "data": data})


def calling(sender: str, items: list[dict[str, Any]]) -> Workflow:
    """A user's workflow that hands items to the template ``sender``."""
    raw = {"mode": "raw", "jsonOutput": json.dumps({"items": items})}
    nodes = [
        node("Try it", "manualTrigger", 1, {}),
        node("List", "set", 3.4, raw),
        node("Items", "splitOut", 1, {"fieldToSplitOut": "items"}),
        node("Send event", "executeWorkflow", 1.2, call_of(sender)),
    ]
    names = [node["name"] for node in nodes]
    connections = {
        name: {"main": [[{"node": next_name, "type": "main", "index": 0}]]}
        for name, next_name in pairwise(names)
    }
    settings = {"executionOrder": "v1"}
    return {"name": "A caller", "nodes": nodes, "connections": connections, "settings": settings}


def node(name: str, type: str, version: float, parameters: dict[str, Any]) -> dict[str, Any]:
    """One node of a workflow."""
    return {
        "id": str(uuid4()),
        "name": name,
        "type": f"n8n-nodes-base.{type}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }


def call_of(workflow_id: str) -> dict[str, Any]:
    """Parameters of an Execute Sub-workflow node."""
    return {"workflowId": {"__rl": True, "mode": "id", "value": workflow_id}, "options": {}}
