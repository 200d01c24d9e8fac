"""n8n gets a flow's result: waiting for it, and sleeping until it is called back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from support.bridge import until
from support.n8n import Execution, N8n, Workflow, fill, n8n_workflow, node_of
from support.up import Up, new_up

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.asyncio(loop_scope="module"),
]

SECRET = "a-secret-for-the-answers-0123456789"
CREDENTIAL = "Prefect webhook secret"
FILE = """\
import asyncio
from pathlib import Path
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook("answers", types=["order.*"])
@flow
async def score(event: WebhookEvent, total: float, seconds: float = 0.0):
    with Path("ran.txt").open("a") as ran:
        ran.write(event.id + "\\n")
    await asyncio.sleep(seconds)
    if total < 0:
        raise ValueError("a negative total")
    return {"score": total * 2, "name": "Zoë ☕"}

@webhook("both", types=["order.*"])
@flow
def first():
    return 1

@webhook("both", types=["order.*"])
@flow
def second():
    return [2]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(n8n: N8n) -> AsyncIterator[Up]:
    """A running ``up`` that knows where n8n is."""
    async with new_up(N8N_WEBHOOK_SECRET=SECRET, N8N_BASE_URL=n8n.url) as up:
        (up.folder / "flows.py").write_text(FILE)
        await up.start("flows.py")
        yield up


def template(name: str, up: Up, event_id: str, body: dict[str, Any], **more: object) -> Workflow:
    """The shipped workflow, filled in as a user does."""
    workflow = n8n_workflow(name)
    fields: dict[str, object] = {"endpoint": "answers", "event_type": "order.created"} | more
    fields |= {"receiver_url": up.url, "event_id": event_id, "body": json.dumps(body)}
    fill(workflow, "Settings", **fields)
    node_of(workflow, "Send")["waitBetweenTries"] = 1
    return workflow


def ran(up: Up, event_id: str) -> int:
    """How often the flow ran for the event."""
    return (up.folder / "ran.txt").read_text().split().count(event_id)


def runs_of(execution: Execution, node: str) -> int:
    """How often a node ran."""
    return len(execution.raw["data"]["resultData"]["runData"].get(node, []))


async def test_a_workflow_waits_for_the_flows_result(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    workflow = template("wait-for-flow.json", up, event_id, {"total": 12.5})
    async with n8n.secret(CREDENTIAL, SECRET):
        id = await n8n.add(workflow)
        execution = await n8n.run(id)
        again = await n8n.run(id)

    assert execution.status == "success", execution.error
    assert execution.output("Result") == [{"result": {"score": 25, "name": "Zoë ☕"}}]
    (sent,) = execution.output("Send")
    assert (sent["state"], sent["duplicate"]) == ("completed", False)
    assert "/runs/flow-run/" in sent["executions"][0]
    assert again.output("Result") == execution.output("Result")
    assert again.output("Send") == [sent | {"duplicate": True}]
    assert ran(up, event_id) == 1


async def test_a_flow_that_takes_longer_is_waited_for_again(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    body = {"total": 1, "seconds": 4}
    workflow = template("wait-for-flow.json", up, event_id, body, wait_seconds=1)
    async with n8n.secret(CREDENTIAL, SECRET):
        execution = await n8n.run(await n8n.add(workflow))

    assert execution.status == "success", execution.error
    assert execution.output("Result") == [{"result": {"score": 2, "name": "Zoë ☕"}}]
    assert runs_of(execution, "Send") >= 3
    assert ran(up, event_id) == 1


async def test_a_failed_flow_fails_the_workflow_with_its_reason(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    workflow = template("wait-for-flow.json", up, event_id, {"total": -1})
    async with n8n.secret(CREDENTIAL, SECRET):
        execution = await n8n.run(await n8n.add(workflow))

    assert execution.status == "error"
    assert "The flow ended as dead" in (execution.error or {})["message"]
    assert "a negative total" in (execution.error or {})["message"]


async def test_two_flows_give_both_results(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    workflow = template("wait-for-flow.json", up, event_id, {}, endpoint="both")
    async with n8n.secret(CREDENTIAL, SECRET):
        execution = await n8n.run(await n8n.add(workflow))
    assert execution.output("Result") == [{"result": {"first": 1, "second": [2]}}]


async def test_a_workflow_sleeps_until_its_flow_calls_back(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    body = {"total": 12.5, "seconds": 3}
    workflow = template("wait-for-callback.json", up, event_id, body)
    async with n8n.secret(CREDENTIAL, SECRET):
        execution = await n8n.run(await n8n.add(workflow))

    assert execution.status == "success", execution.error
    assert execution.output("Result") == [{"result": {"score": 25, "name": "Zoë ☕"}}]
    assert ran(up, event_id) == 1
    assert runs_of(execution, "Refuse it") == 0
    status = await up.status()
    assert status["events"]["dead"] <= 1  # that of the failed flow above


async def test_quick_flows_call_back_too(up: Up, n8n: N8n) -> None:
    event_ids = [f"evt_{uuid4().hex}" for _ in range(5)]
    async with n8n.secret(CREDENTIAL, SECRET):
        for event_id in event_ids:
            workflow = template("wait-for-callback.json", up, event_id, {"total": 1})
            execution = await n8n.run(await n8n.add(workflow))
            assert execution.status == "success", execution.error
            assert execution.output("Result") == [{"result": {"score": 2, "name": "Zoë ☕"}}]


async def test_a_failed_flow_wakes_the_workflow_to_fail(up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    workflow = template("wait-for-callback.json", up, event_id, {"total": -1, "seconds": 1})
    async with n8n.secret(CREDENTIAL, SECRET):
        execution = await n8n.run(await n8n.add(workflow))
    assert execution.status == "error"
    assert "a negative total" in (execution.error or {})["message"]


def forged(kind: str, event_id: str) -> tuple[bytes, dict[str, str]]:
    """A call to the right address that does not come from us."""
    body = json.dumps({"id": event_id, "state": "completed", "result": "forged"}).encode()
    id, at = f"callback:{uuid4()}:0", int(time.time())
    key = SECRET.encode()
    match kind:
        case "unsigned":
            return body, {}
        case "empty":
            return b"", {}
        case "another secret":
            key += b"x"
        case "another body":
            signed = body.replace(b"forged", b"genuine")
            return body, _signed(id, at, signed, key)
        case "too old":
            at -= 301
        case "another event's":
            body = body.replace(event_id.encode(), b"another")
        case _:
            raise ValueError(kind)
    return body, _signed(id, at, body, key)


def _signed(id: str, at: int, body: bytes, key: bytes) -> dict[str, str]:
    digest = hmac.digest(key, f"{id}.{at}.".encode() + body, hashlib.sha256)
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signature}


async def test_forged_calls_to_the_right_address_are_refused_and_the_genuine_one_taken(
    up: Up, n8n: N8n
) -> None:
    event_id = f"evt_{uuid4().hex}"
    body = {"total": 12.5, "seconds": 15}
    workflow = template("wait-for-callback.json", up, event_id, body)
    kinds = ["unsigned", "empty", "another secret", "another body", "too old", "another event's"]
    async with n8n.secret(CREDENTIAL, SECRET):
        running = asyncio.create_task(n8n.run(await n8n.add(workflow)))
        url = await until(lambda: resume_url(n8n, event_id), what="the waiting execution")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            for kind in kinds:
                answer = await refused(client, url, *forged(kind, event_id))
                assert answer.status_code == 401, (kind, answer.status_code, answer.text)
        execution = await running

    assert execution.status == "success", execution.error
    assert execution.output("Result") == [{"result": {"score": 25, "name": "Zoë ☕"}}]
    assert runs_of(execution, "Refuse it") == len(kinds)
    assert runs_of(execution, "Take it") == 1


async def refused(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str]
) -> httpx.Response:
    """Post to a waiting execution, again while n8n has not stored its wait yet."""

    async def answered() -> httpx.Response | None:
        answer = await client.post(
            url, content=body, headers={"content-type": "application/json"} | headers
        )
        return None if answer.status_code == 409 else answer

    return await until(answered, what="an answer of the waiting execution")


async def resume_url(n8n: N8n, event_id: str) -> str | None:
    """Return the address that wakes the waiting execution which sent the event."""
    found = await n8n.api("GET", "/executions?status=waiting&includeData=true")
    for execution in found["data"]:
        runs = execution["data"]["resultData"]["runData"].get("Message", [])
        items = runs[-1]["data"]["main"][0] if runs else []
        if items and items[0]["json"]["event_id"] == event_id:
            return json.loads(items[0]["json"]["raw_body"])["callback_url"]
    return None
