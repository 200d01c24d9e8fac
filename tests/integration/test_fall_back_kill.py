"""The launcher killed between any two steps of a fallback: each goes on, and does nothing twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest
from prefect.client.schemas.objects import StateType

from support.bridge import until
from support.command import Command
from support.falling import Falling
from support.target import Answer, Call

pytestmark = pytest.mark.xdist_group("prefect")

COUNT = 60
KILLS = [
    "after fallback.claim 1",
    "after fallback.create 2",
    "after fallback.store 2",
    "after climb.begin_step 3",
    "before action.store 1",
    "after climb.start 4",
    "before climb.close_step 2",
    "after climb.close_step 3",
    "before climb.end 1",
    "after climb.end 2",
    "after fallback.execute 3",
    "before fallback.settle 2",
]


async def test_killed_at_every_step_each_fallback_ends_and_does_nothing_twice(
    falling: Falling, command: Command
) -> None:
    name = falling.bridge.name
    deployment = f"kill-{name}/{name}"
    falling.backup.script = lambda call: (
        Answer() if number(call) % 2 == 0 else Answer(500, runs=False)
    )
    await falling.ladder({"endpoint": "backup"}, {"deployment": deployment})
    for i in range(COUNT):
        await falling.send(f"d-{i:03}", order=i)
    for kill_at in KILLS:
        async with command.running(kill_at) as launcher, asyncio.timeout(120):
            assert await launcher.wait() == -signal.SIGKILL, kill_at
    async with command.running():

        async def all_ended() -> bool:
            query = """
                SELECT count(*) AS n FROM prefect_n8n.webhook_events
                WHERE finalized_at IS NULL AND parent_event_id IS NULL
            """
            return (await falling.outgoing.rows(query))[0]["n"] == 0

        try:
            await until(all_ended, seconds=240, what="the end of all deliveries")
        except AssertionError:
            pytest.fail(command.output.read_text()[-6000:])

    ends = await falling.outgoing.rows("""
        SELECT state, reason, (payload->>'order')::int AS number FROM prefect_n8n.webhook_events
        WHERE parent_event_id IS NULL
    """)
    assert Counter(row["state"] for row in ends) == {"completed": COUNT}
    for row in ends:
        by = "endpoint backup" if row["number"] % 2 == 0 else f"deployment {deployment}"
        assert row["reason"] == f"by fallback: {by}"
    # One delivery and, where that failed, one flow run for each; and each attempted once.
    assert len(await falling.children()) == COUNT
    assert set(Counter(number(call) for call in falling.backup.runs).values()) == {1}
    assert len(falling.backup.calls) == COUNT
    runs = await falling.bridge.runs()
    assert Counter(run.state_type for run in runs) == {StateType.COMPLETED: COUNT // 2}
    assert set(command.bodies) == {f"d-{i:03}" for i in range(1, COUNT, 2)}
    steps = Counter((kind, state) for kind, _, state, _ in await falling.steps())
    assert steps == {
        ("endpoint", "completed"): COUNT // 2,
        ("endpoint", "failed"): COUNT // 2,
        ("deployment", "completed"): COUNT // 2,
    }


def number(call: Call) -> int:
    """The order's number in a call."""
    return int(call.body.split(b":")[1].strip(b" }"))
