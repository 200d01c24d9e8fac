"""The main job: a user's file, ``up`` and a real n8n, from a click to a finished flow run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from support.bridge import until
from support.n8n import N8n, Workflow, fill, n8n_workflow, node_of
from support.up import Up, new_up

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.asyncio(loop_scope="module"),
]

SECRET = "a-secret-for-the-main-job-0123456789"
CREDENTIAL = "Prefect webhook secret"
FILE = """\
from pathlib import Path
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook("standard", types=["order.*"])
@flow
def over_standard(event: WebhookEvent, total: float):
    Path("standard.txt").write_text(f"{event.id} {event.body['order_id']} {total}")

@webhook("hmac", types=["order.*"], scheme="hmac")
@flow
def over_hmac(event: WebhookEvent, total: float):
    Path("hmac.txt").write_text(f"{event.id} {event.body['order_id']} {total}")
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up() -> AsyncIterator[Up]:
    """A running ``up``."""
    async with new_up(N8N_WEBHOOK_SECRET=SECRET) as up:
        (up.folder / "flows.py").write_text(FILE)
        await up.start("flows.py")
        yield up


def order(scheme: str, up: Up, event_id: str) -> Workflow:
    """The shipped workflow, filled in as a user does."""
    workflow = n8n_workflow(f"send-event-{scheme}.json")
    body = json.dumps({"order_id": "o-1", "total": 12.5})
    fill(
        workflow,
        "Settings",
        receiver_url=up.url,
        endpoint=scheme,
        event_id=event_id,
        event_type="order.created",
        body=body,
    )
    node_of(workflow, "Send")["waitBetweenTries"] = 1
    return workflow


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
async def test_a_click_in_n8n_is_one_completed_flow_run(scheme: str, up: Up, n8n: N8n) -> None:
    event_id = f"evt_{uuid4().hex}"
    async with n8n.secret(CREDENTIAL, SECRET):
        workflow = await n8n.add(order(scheme, up, event_id))
        first = await n8n.run(workflow)
        assert first.status == "success", first.error
        run = await until(lambda: completed(up, event_id), what="the completed flow run")
        again = await n8n.run(workflow)

    assert (up.folder / f"{scheme}.txt").read_text() == f"{event_id} o-1 12.5"
    (sent,) = first.output("Send")
    assert run["parameters"] == {"event_id": sent["id"]}
    assert again.output("Send") == [{"id": sent["id"], "state": "completed", "duplicate": True}]
    assert [r["id"] for r in await up.runs() if event_id in r["name"]] == [run["id"]]


async def completed(up: Up, event_id: str) -> dict[str, object] | None:
    """Return the event's flow run once it is completed and the ledger knows."""
    found = [run for run in await up.runs() if event_id in run["name"]]
    done = found and found[0]["state_type"] == "COMPLETED"
    return found[0] if done and (await up.status())["events"]["processing"] == 0 else None


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
async def test_a_wrong_secret_gets_401_and_stores_nothing(scheme: str, up: Up, n8n: N8n) -> None:
    before = (await up.status())["events"]
    event_id = f"evt_{uuid4().hex}"
    async with n8n.secret(CREDENTIAL, SECRET + "x"):
        execution = await n8n.run(await n8n.add(order(scheme, up, event_id)))

    assert execution.status == "error"
    assert execution.error is not None
    assert str(execution.error["httpCode"]) == "401"
    assert (await up.status())["events"] == before
    assert not [run for run in await up.runs() if event_id in run["name"]]
