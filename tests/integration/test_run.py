"""Runs on the resident runner: cancelled, lost, left alone, started by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Completed, Running, Scheduled
from sqlalchemy import text

from prefect_n8n import WebhookEvent
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.launcher.prefect_api import PrefectApi
from prefect_n8n.ledger import runs
from prefect_n8n.ledger.database import Database, Role
from support.bridge import Bridge, until
from support.proxy import Proxy

pytestmark = pytest.mark.xdist_group("prefect")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_cancel_in_prefect_stops_the_run_and_calls_its_hooks(
    bridge: Bridge, kind: str
) -> None:
    started, ended = threading.Event(), threading.Event()
    hooked: list[Any] = []

    async def waits() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def works() -> None:
        started.set()
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    def hook(flow: Any, flow_run: Any, state: Any) -> None:
        hooked.append(flow_run.id)

    flow = bridge.webhook(waits if kind == "async" else works, on_cancellation=[hook])
    async with bridge.launcher(flow):
        row = await bridge.record()
        await until(lambda: asyncio.to_thread(started.wait, 1), what="the flow's start")
        (run,) = await bridge.runs()
        await bridge.client.set_flow_run_state(run.id, Cancelling())
        event = await bridge.ended(row)

    assert ended.is_set()
    assert event["state"] == "cancelled"
    assert hooked == [run.id]
    assert (await bridge.run(run.id)).state_type is StateType.CANCELLED


async def test_a_run_whose_runner_was_killed_is_run_again_as_the_same_run(bridge: Bridge) -> None:
    bodies: list[str] = []

    async def on_order(event: WebhookEvent) -> None:
        bodies.append(event.id)

    flow = bridge.webhook(on_order)
    run = await lost_run(bridge, flow)
    async with bridge.launcher(flow):
        (row,) = await rows(bridge)
        event = await bridge.ended(row)

    assert event["state"] == "completed"
    assert len(bodies) == 1
    assert [r.id for r in await bridge.runs()] == [run]
    assert event["executions"][0]["rescues"] == 1
    assert (await bridge.run(run)).state_type is StateType.COMPLETED


async def lost_run(bridge: Bridge, flow: Any) -> Any:
    """Leave behind what a runner does that is killed inside the body: Running, under its lease."""
    await bridge.deploy(flow)
    async with bridge.launcher():
        await bridge.record()
        (run,) = await until(bridge.runs, what="the flow run")
        await until(lambda: launched(bridge), what="the stored run id")
    api = PrefectApi(bridge.client)
    database = Database(bridge.ledger.launcher_url)
    async with database.transaction(None, role=Role.LAUNCHER) as connection:
        assert await runs.take(connection, run.id, owner="killed", lease=0.5)
    await database.close()
    assert await api.claim(run)
    await bridge.client.set_flow_run_state(run.id, Running())
    return run.id


async def rows(bridge: Bridge) -> list[Any]:
    """Return the row ids of all events."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        found = await connection.execute(text("SELECT id FROM prefect_n8n.webhook_events"))
        return [row.id for row in found]


async def launched(bridge: Bridge) -> bool:
    """Whether every event's run id is stored."""
    events = [await bridge.event(row) for row in await rows(bridge)]
    return all(x["flow_run_id"] for event in events for x in event["executions"])


async def test_a_deployment_of_others_is_left_to_its_work_pool(bridge: Bridge) -> None:
    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    await bridge.deploy(flow)
    async with bridge.launcher():
        row = await bridge.record()
        (run,) = await until(bridge.runs, what="the flow run")
        await until(lambda: launched(bridge), what="the stored run id")
        assert (await bridge.run(run.id)).state_type is StateType.SCHEDULED
        assert (await bridge.event(row))["state"] == "processing"
        # What its worker says at the end is heard by the reconciler.
        await bridge.client.set_flow_run_state(run.id, Running())
        await bridge.client.set_flow_run_state(run.id, Completed())
        assert (await bridge.ended(row))["state"] == "completed"


async def test_retry_and_custom_run_in_the_ui_are_recorded_as_executions(bridge: Bridge) -> None:
    fail = [True]

    async def on_order() -> None:
        if fail[0]:
            raise ValueError("broken")

    flow = bridge.webhook(on_order)
    async with bridge.launcher(flow):
        row = await bridge.record()
        assert (await bridge.ended(row))["state"] == "dead"
        fail[0] = False
        (run,) = await bridge.runs()
        await bridge.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
        await until(lambda: in_state(bridge, row, "completed"), what="the retried run's end")

        deployment = await bridge.client.read_deployment_by_name(flow.deployment)
        again = await bridge.client.create_flow_run_from_deployment(
            deployment.id, parameters={"event_id": str(row)}
        )
        await until(lambda: run_ended(bridge, again.id), what="the run started by hand")
        both = [(0, "completed"), (-1, "completed")]
        await until(lambda: has_executions(bridge, row, both), what="both executions' end")

        stranger = await bridge.client.create_flow_run_from_deployment(
            deployment.id, parameters={"event_id": "00000000-0000-4000-8000-00000000dead"}
        )
        await until(lambda: run_ended(bridge, stranger.id), what="the stranger's end")
        found = await bridge.run(stranger.id)
        assert found.state_type is StateType.FAILED
        assert found.state is not None
        assert "There is no event" in str(found.state.message)


async def in_state(bridge: Bridge, row: Any, state: str) -> bool:
    """Whether the event is in that state."""
    return (await bridge.event(row))["state"] == state


async def has_executions(bridge: Bridge, row: Any, wanted: list[tuple[int, str]]) -> bool:
    """Whether the event has just these executions, by redrive number and state."""
    executions = (await bridge.event(row))["executions"]
    return [(x["redrive"], x["state"]) for x in executions] == wanted


async def run_ended(bridge: Bridge, run: Any) -> bool:
    """Whether Prefect has the run in a final state."""
    state = (await bridge.run(run)).state
    return state is not None and state.is_final()


async def test_a_run_deleted_in_prefect_ends_its_event(bridge: Bridge) -> None:
    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    await bridge.deploy(flow)
    async with bridge.launcher():
        row = await bridge.record()
        (run,) = await until(bridge.runs, what="the flow run")
        await until(lambda: launched(bridge), what="the stored run id")
        await bridge.client.delete_flow_run(run.id)
        event = await bridge.ended(row)
    assert (event["state"], event["reason"]) == ("dead", "The flow run was deleted in Prefect.")


async def test_events_wait_while_prefect_is_away_and_go_on_by_themselves(bridge: Bridge) -> None:
    bodies: list[str] = []

    async def on_order(event: WebhookEvent) -> None:
        bodies.append(event.id)

    async with Proxy.before(str(bridge.client.api_url)) as proxy, proxy.client() as client:
        bridge.client = client
        async with bridge.launcher(bridge.webhook(on_order)):
            await bridge.ended(await bridge.record(id="before"))
            await proxy.stop()
            rows = await bridge.record_many([f"while_{i}" for i in range(10)])
            await until(lambda: proxy.refused(bridge), what="an attempt while Prefect is away")
            assert {(await bridge.event(row))["state"] for row in rows} <= {"pending", "processing"}
            await proxy.start()
            events = [await bridge.ended(row, seconds=60) for row in rows]
    assert {event["state"] for event in events} == {"completed"}
    assert sorted(set(bodies)) == sorted(["before", *(f"while_{i}" for i in range(10))])


async def test_a_starved_launcher_does_not_rescue_the_run_it_is_running(bridge: Bridge) -> None:
    bodies: list[str] = []
    hold = threading.Event()

    async def on_order(event: WebhookEvent) -> None:
        bodies.append(event.id)
        await asyncio.to_thread(hold.wait, 30)

    async def looked() -> bool:
        nonlocal turns
        turns += 1
        return turns > 20

    turns = 0
    async with bridge.launcher(bridge.webhook(on_order)):
        row = await bridge.record()
        await until(lambda: asyncio.sleep(0, bool(bodies)), what="the flow's start")
        # As if its renewals had come too late.
        await expire_leases(bridge)
        await until(looked, what="some turns of the reconciler")
        hold.set()
        event = await bridge.ended(row)
    assert event["state"] == "completed"
    assert event["executions"][0]["rescues"] == 0
    assert len(bodies) == 1


async def expire_leases(bridge: Bridge) -> None:
    """Let every run's lease end now."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("UPDATE prefect_n8n.workflow_executions SET lease_expires_at = now()")
        )
