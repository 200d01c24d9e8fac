"""The launcher killed between any two of its steps: every event still runs once, none is lost."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest
from prefect.client.schemas.objects import StateType
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from support.bridge import Bridge, until
from support.command import Command

pytestmark = pytest.mark.xdist_group("prefect")

# Each launcher gets a little further before its end, so that all of them have work to lose.
KILLS = [
    "after inbox.claim 1",
    "after launch.plan 6",
    "before launch.create 4",
    "after launch.create 5",
    "after launch.store 7",
    "after launch.end 6",
    "after run.lease 8",
    "after run.claim 6",
    "after run.execute 9",
    "before run.settle 7",
    "after run.settle 8",
    "after rescue._take_over 1",
]


async def states(bridge: Bridge) -> Counter[str]:
    """Count the events by state."""
    query = "SELECT state, count(*) AS n FROM prefect_n8n.webhook_events GROUP BY state"
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        return Counter({row.state: row.n for row in await connection.execute(text(query))})


async def test_killed_at_every_step_under_200_events_each_runs_exactly_once(
    bridge: Bridge, command: Command
) -> None:
    ids = [f"evt_{i:03}" for i in range(200)]
    await bridge.record_many(ids)
    for kill_at in KILLS:
        async with command.running(kill_at) as launcher:
            async with asyncio.timeout(60):
                assert await launcher.wait() == -signal.SIGKILL, kill_at
    async with command.running():

        async def all_completed() -> bool:
            return (await states(bridge))["completed"] == len(ids)

        try:
            await until(all_completed, seconds=150, what="the end of all events")
        except AssertionError:
            pytest.fail(f"{await states(bridge)}\n{command.output.read_text()[-6000:]}")

    runs = await bridge.runs()
    assert Counter(run.state_type for run in runs) == {StateType.COMPLETED: len(ids)}
    assert {run.name.rsplit(" ", 1)[1] for run in runs} == set(ids)
    # Killed between the body and its record, a run is run again: that is all there may be.
    assert set(command.bodies) == set(ids)
    assert command.bodies.total() <= len(ids) + len(KILLS) * 16
    query = "SELECT count(*) FROM prefect_n8n.workflow_executions WHERE state = 'completed'"
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        assert (await connection.execute(text(query))).scalar_one() == len(ids)


async def test_a_stopped_launcher_leaves_the_rest_to_another_at_once(
    bridge: Bridge, command: Command
) -> None:
    command.hold.touch()
    (row,) = await bridge.record_many(["evt_1"])
    long_lease = {"PREFECT_N8N_LEASE_SECONDS": "300", "PREFECT_N8N_DRAIN_SECONDS": "0.2"}
    async with command.running(**long_lease) as first:

        async def started() -> bool:
            return bool(command.bodies)

        await until(started, what="the flow's start")
        first.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await first.wait() == 0
    command.hold.unlink()
    async with command.running(**long_lease):
        event = await bridge.ended(row)

    assert event["state"] == "completed"
    assert command.bodies == {"evt_1": 2}
    assert len(await bridge.runs()) == 1
