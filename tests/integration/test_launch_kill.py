"""The launcher killed between any two of its steps: every event still runs once, none is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from support import killed_launcher
from support.bridge import QUICK, Bridge, until
from support.prefect_server import die_with_parent

pytestmark = pytest.mark.xdist_group("prefect")

FLOW = """\
import asyncio, os
from pathlib import Path
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook({name!r})
@flow(name="kill-{name}")
async def on_order(event: WebhookEvent):
    with Path({log!r}).open("a") as log:
        log.write(event.id + "\\n")
    if (hold := Path({hold!r})).exists():
        await asyncio.sleep(60)
"""

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


class Command:
    """Launcher processes over one file of flows."""

    def __init__(self, bridge: Bridge) -> None:
        self.log = bridge.folder / "bodies.log"
        self.hold = bridge.folder / "hold"
        self.file = bridge.folder / "flows.py"
        self.output = bridge.folder / "launcher.log"
        self.file.write_text(FLOW.format(name=bridge.name, log=str(self.log), hold=str(self.hold)))
        self._env = os.environ | {
            "DATABASE_URL": bridge.ledger.app_url,
            "PREFECT_N8N_LAUNCHER_DATABASE_URL": bridge.ledger.launcher_url,
            "PREFECT_N8N_DATA_DIR": str(bridge.folder),
            **{f"PREFECT_N8N_{name}".upper(): str(value) for name, value in QUICK.items()},
            "PREFECT_N8N_LEASE_SECONDS": "2",
        }

    @property
    def bodies(self) -> Counter[str]:
        """How often the user's code ran, by event id."""
        return Counter(self.log.read_text().split() if self.log.exists() else [])

    @asynccontextmanager
    async def running(
        self, kill_at: str | None = None, **env: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a launcher, and kill it at the end if it still lives."""
        with self.output.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(killed_launcher.__file__)),
                "launch",
                str(self.file),
                env=self._env | env | ({"KILL_AT": kill_at} if kill_at else {}),
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def command(bridge: Bridge) -> Command:
    """Launchers of this test."""
    return Command(bridge)


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
