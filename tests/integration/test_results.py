"""What a flow returns ends in the ledger, and at the sender's callback."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect import task
from prefect.flow_engine import run_flow
from pydantic import BaseModel

from prefect_n8n import WebhookEvent
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.signing import StandardScheme, claim_of, verify
from prefect_n8n.ledger import adoption
from support import ends, killed_launcher
from support.bridge import QUICK, Bridge, until
from support.outgoing import SECRET, Outgoing, outgoing
from support.prefect_server import die_with_parent
from support.target import Answer

pytestmark = pytest.mark.xdist_group("prefect")
outgoing = outgoing


class Invoice(BaseModel):
    number: str
    total: float


@dataclass
class Line:
    n: int


@task
def doubled(n: int) -> int:
    return 2 * n


async def test_what_a_resident_flow_returns_is_kept(bridge: Bridge) -> None:
    async def plain(event: WebhookEvent) -> Any:
        return {"invoice": Invoice(number="i-1", total=event.body["total"]), "lines": [Line(1)]}

    def in_a_thread() -> Any:
        return [1, None, "Zoë"]

    async def of_tasks() -> Any:
        return [doubled.submit(2), doubled.submit(3)]

    async def stored() -> Any:
        return {"kept": "elsewhere"}

    async def nothing() -> None: ...

    async def unfit() -> Any:
        return object()

    async def fails() -> Any:
        raise ValueError("broken")

    away = {"persist_result": True, "cache_result_in_memory": False}
    flows = [
        *(bridge.webhook(fn) for fn in (plain, in_a_thread, of_tasks, nothing, unfit, fails)),
        bridge.webhook(stored, **away),
    ]
    async with bridge.launcher(*flows):
        event = await bridge.ended(await bridge.record(), seconds=60)

    found = {x["trigger"].partition("-")[0]: x for x in event["executions"]}
    results = {name: x["result"] for name, x in found.items()}
    assert results == {
        "plain": {"invoice": {"number": "i-1", "total": 12.5}, "lines": [{"n": 1}]},
        "in_a_thread": [1, None, "Zoë"],
        "of_tasks": [4, 6],
        "stored": {"kept": "elsewhere"},
        "nothing": None,
        "unfit": None,
        "fails": None,
    }
    errors = {name: x["error"] for name, x in found.items() if x["error"] is not None}
    assert set(errors) == {"unfit", "fails"}
    assert found["unfit"]["state"] == "completed"
    assert errors["unfit"].startswith("The result is not kept: it is no JSON: object")
    assert "broken" in errors["fails"]
    assert "broken" in event["reason"]


async def test_a_run_elsewhere_gives_what_it_persisted_as_json(bridge: Bridge) -> None:
    async def as_json() -> Any:
        return {"total": 1.5}

    async def as_pickle() -> Any:
        return {"total": 2.5}

    async def not_at_all() -> Any:
        return {"total": 3.5}

    flows = [
        bridge.webhook(as_json, persist_result=True, result_serializer="json"),
        bridge.webhook(as_pickle, persist_result=True, result_serializer="pickle"),
        bridge.webhook(not_at_all, persist_result=False),
    ]
    deployed = await bridge.deploy(*flows)
    async with bridge.launcher():
        row = await bridge.record()

        async def launched() -> bool:
            executions = (await bridge.event(row))["executions"]
            return len(executions) == 3 and all(x["flow_run_id"] for x in executions)

        await until(launched, what="the flow runs")
        # As a worker of the user's does.
        for run in await bridge.runs():
            flow = deployed[run.deployment_id]  # type: ignore[index]
            await run_flow(flow, flow_run=run, parameters=run.parameters, return_type="state")  # type: ignore[misc]
        event = await bridge.ended(row)

    found = {x["trigger"].partition("-")[0]: x for x in event["executions"]}
    assert event["state"] == "completed"
    assert found["as_json"]["result"] == {"total": 1.5}
    assert found["as_json"]["error"] is None
    assert found["as_pickle"]["result"] is found["not_at_all"]["result"] is None
    assert 'set result_serializer="json"' in found["as_pickle"]["error"]
    assert "the flow does not persist it" in found["not_at_all"]["error"]


async def test_a_callback_is_delivered_signed(outgoing: Outgoing) -> None:
    async def on_order(event: WebhookEvent) -> Any:
        return {"order": event.id}

    bridge = outgoing.bridge
    outgoing.target.script = lambda _: next(answers)
    # n8n has not stored its wait yet when a quick flow calls back.
    answers = iter([Answer(409, b'{"message": "The execution is running already."}'), Answer()])
    url = f"{outgoing.target.base}/webhook-waiting/38?signature=c0ffee&x=%20a"
    async with bridge.launcher(bridge.webhook(on_order)):
        row = await bridge.record(id="o-1", callback_url=url, block=outgoing.block)
        await bridge.ended(row)
        (callback,) = await outgoing.rows(
            "SELECT id FROM prefect_n8n.webhook_events WHERE direction = 'outbound'"
        )
        delivered = await outgoing.ended(callback["id"])

    assert (delivered["state"], delivered["attempts"]) == ("completed", 2)
    call = outgoing.target.calls[-1]
    assert call.id == call.headers["webhook-id"] == f"callback:{row}:0"
    pairs = [(name.encode(), value.encode()) for name, value in call.headers.items()]
    claim = claim_of(StandardScheme(), pairs)
    assert verify(claim, call.body, [SECRET.encode()], now=int(claim.timestamp or 0))
    assert b'"result": {"order": "o-1"}' in call.body


FLOW = """\
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook({name!r})
@flow(name="kill-{name}")
async def on_order(event: WebhookEvent):
    return event.id
"""


@contextmanager
def output_of(bridge: Bridge) -> Iterator[Any]:
    with (bridge.folder / "launcher.log").open("ab") as log:
        yield log


async def launch_killed(bridge: Bridge, file: Path, kill_at: str) -> int:
    """Run a launcher until it kills itself."""
    env = os.environ | {
        "DATABASE_URL": bridge.ledger.app_url,
        "PREFECT_N8N_LAUNCHER_DATABASE_URL": bridge.ledger.launcher_url,
        "PREFECT_N8N_DATA_DIR": str(bridge.folder),
        "PREFECT_N8N_LEASE_SECONDS": "2",
        "KILL_AT": kill_at,
        **{f"PREFECT_N8N_{name}".upper(): str(value) for name, value in QUICK.items()},
    }
    with output_of(bridge) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(killed_launcher.__file__)),
            "launch",
            str(file),
            env=env,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
        async with asyncio.timeout(60):
            return await process.wait()


@pytest.mark.parametrize(
    "kill_at", ["after run.execute 3", "before run.settle 3", "after run.settle 3"]
)
async def test_killed_around_the_end_each_event_has_one_callback(
    outgoing: Outgoing, kill_at: str
) -> None:
    bridge = outgoing.bridge
    # The one that a file's endpoints are deployed with.
    outgoing.block = "default"
    await outgoing.credentials()
    file = bridge.folder / "flows.py"
    file.write_text(FLOW.format(name=bridge.name))
    ids = [f"evt_{i}" for i in range(6)]
    url = f"{outgoing.target.base}/webhook-waiting/38?signature=c0ffee"
    rows = await bridge.record_many(ids, callback_url=url, block=outgoing.block)
    assert await launch_killed(bridge, file, kill_at) == -signal.SIGKILL

    async def on_order(event: WebhookEvent) -> Any:
        return event.id

    flow = bridge.webhook(on_order)
    flow.name = f"kill-{bridge.name}"
    async with bridge.launcher(flow, lease_seconds=2.0):
        for row in rows:
            assert (await bridge.ended(row, seconds=60))["state"] == "completed"
        query = "SELECT id, event_id FROM prefect_n8n.webhook_events WHERE direction = 'outbound'"
        callbacks = await outgoing.rows(query)
        assert {c["event_id"] for c in callbacks} == {f"callback:{row}:0" for row in rows}
        for callback in callbacks:
            assert (await outgoing.ended(callback["id"], seconds=60))["state"] == "completed"
    assert outgoing.target.deliveries == dict.fromkeys((c["event_id"] for c in callbacks), 1)


async def test_a_run_scheduled_again_in_prefect_forgets_its_result(bridge: Bridge) -> None:
    row = await bridge.record()
    await ends.end(bridge.database, row, result="1")
    (execution,) = (await bridge.event(row))["executions"]
    assert execution["result"] == 1
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        assert await adoption.reopen(connection, DEFAULT_TENANT, execution["flow_run_id"])
    (execution,) = (await bridge.event(row))["executions"]
    assert execution["result"] is None
