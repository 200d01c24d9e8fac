"""Small workflows on a real n8n, made, published and called through our own client."""

from __future__ import annotations

from itertools import pairwise
from uuid import uuid4

from prefect_n8n.blocks.answers import Execution, ExecutionStatus, Json
from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.core.urls import AllowList
from support.bridge import until
from support.n8n import N8n

LOOPBACK = AllowList.parse("127.0.0.0/8")
SAVED = {"saveDataSuccessExecution": "all", "saveDataErrorExecution": "all"}
SHOWN = SAVED | {"saveExecutionProgress": True}
ID_AT_ONCE = {"options": {"responseCode": {"values": {"responseCode": 202}},
                          "responseData": "={{ { execution_id: $execution.id } }}"}}  # fmt: skip
FAIL = {
    "name": "Fail",
    "type": "n8n-nodes-base.stopAndError",
    "typeVersion": 1,
    "parameters": {"errorMessage": "No such customer."},
}
NOTHING = {"name": "Nothing", "type": "n8n-nodes-base.noOp", "typeVersion": 1, "parameters": {}}
RESUME_URL = {
    "name": "Address",
    "type": "n8n-nodes-base.set",
    "typeVersion": 3.4,
    "parameters": {
        "assignments": {
            "assignments": [
                {"id": "a", "name": "url", "type": "string", "value": "={{ $execution.resumeUrl }}"}
            ]
        }
    },
}


def wait(seconds: int | None) -> Json:
    """A Wait node: for a time, or for a webhook."""
    how: Json = (
        {"amount": seconds, "unit": "seconds"}
        if seconds
        else {"resume": "webhook", "httpMethod": "POST"}
    )
    return {
        "name": "Wait",
        "type": "n8n-nodes-base.wait",
        "typeVersion": 1.1,
        "webhookId": uuid4().hex,
        "parameters": how,
    }


def unlike() -> str:
    return f"t{uuid4().hex[:10]}"


def chain(*nodes: Json) -> tuple[list[Json], Json]:
    """The nodes one after the other, and their connections."""
    placed = [
        {"id": str(number), "position": [200 * number, 0]} | node
        for number, node in enumerate(nodes)
    ]
    joined = {
        before["name"]: {"main": [[{"node": after["name"], "type": "main", "index": 0}]]}
        for before, after in pairwise(nodes)
    }
    return placed, joined


async def live(
    client: N8nClient, n8n: N8n, *nodes: Json, settings: Json = SAVED, path: str | None = None
) -> tuple[str, str]:
    """(workflow id, path) of a published workflow that begins with a webhook."""
    path = path or unlike()
    webhook = {
        "name": "Webhook",
        "type": "n8n-nodes-base.webhook",
        "typeVersion": 2.1,
        "webhookId": uuid4().hex,
        "parameters": {"httpMethod": "POST", "path": path} | ID_AT_ONCE,
    }
    placed, joined = chain(webhook, *nodes)
    made = await client.create_workflow(path, placed, joined, settings)
    await n8n.publish(made.id)
    return made.id, path


async def deliver(client: N8nClient, path: str, delivery_id: str) -> str:
    """Post a delivery, and return the id of the execution that it started."""
    answer = await client.post_webhook(path, b'{"n": 1}', headers_of(delivery_id))
    body = answer.json()
    assert body is not None, answer
    return body["execution_id"]


def headers_of(delivery_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"x-prefect-n8n-delivery", delivery_id.encode()),
    ]


async def become(client: N8nClient, id: str, *statuses: ExecutionStatus) -> Execution:
    """Wait until the execution has one of the states, and return it with its data."""

    async def has() -> Execution | None:
        execution = await client.execution(id, include_data=True)
        return execution if execution.status in statuses else None

    return await until(has, what=f"{statuses} of execution {id}")
