"""The launcher killed between any two steps of a fallback: each goes on, and does nothing twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger import fallbacks
from support.bridge import until
from support.command import Command
from support.falling import Falling
from support.target import Answer, Call

pytestmark = pytest.mark.xdist_group("prefect")

COUNT = 36
FAILING = COUNT // 3

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
    falling.backup.script = lambda call: Answer(422, runs=False) if fails(call) else Answer()
    # A launcher that is killed may take an attempt with it.
    schedule = [0] + [0.1] * 20
    await falling.other.endpoint("backup", retry_policy={"schedule": schedule, "jitter": 0})
    await dead_deliveries(falling, [{"endpoint": "backup"}, {"deployment": deployment}])
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
        SELECT id, state, reason, (payload->>'order')::int AS number FROM prefect_n8n.webhook_events
        WHERE parent_event_id IS NULL
    """)
    assert Counter(row["state"] for row in ends) == {"completed": COUNT}
    for row in ends:
        by = f"deployment {deployment}" if row["number"] % 3 == 0 else "endpoint backup"
        if row["reason"] != f"by fallback: {by}":
            pytest.fail(f"{row} {await told(falling, row['id'])}")
    # One delivery and, where that failed, one flow run for each; no work is done twice.
    assert len(await falling.children()) == COUNT
    done = Counter(number(call) for call in falling.backup.runs)
    assert done == dict.fromkeys((i for i in range(COUNT) if i % 3), 1)
    runs = await falling.bridge.runs()
    assert Counter(run.state_type for run in runs) == {StateType.COMPLETED: FAILING}
    assert set(command.bodies) == {f"d-{i:03}" for i in range(0, COUNT, 3)}
    steps = Counter((kind, state) for kind, _, state, _ in await falling.steps())
    assert steps == {
        ("endpoint", "completed"): COUNT - FAILING,
        ("endpoint", "failed"): FAILING,
        ("deployment", "completed"): FAILING,
    }


async def dead_deliveries(falling: Falling, ladder: list[dict[str, Any]]) -> None:
    """Leave deliveries behind whose attempts are used up, each with its fallback begun."""
    for i in range(COUNT):
        row = await falling.send(f"d-{i:03}", order=i)
        async with falling.bridge.database.transaction(DEFAULT_TENANT) as connection:
            await connection.execute(
                text("UPDATE prefect_n8n.webhook_events SET state = 'processing' WHERE id = :id"),
                {"id": row},
            )
            await fallbacks.begin(
                connection,
                DEFAULT_TENANT,
                event=row,
                execution=None,
                redrive=0,
                ladder=ladder,
                cause="failed",
                actor="test",
            )


async def told(falling: Falling, event: UUID) -> list[dict[str, Any]]:
    """Return all that is known of an event's fallback: its steps, and the attempts of the child."""
    return await falling.outgoing.rows(
        """
        SELECT s.kind, s.state, s.error, c.state AS child, c.errors, a.number, a.outcome, a.status,
               a.error AS why
        FROM prefect_n8n.fallbacks f
        JOIN prefect_n8n.fallback_steps s ON s.fallback_id = f.id
        LEFT JOIN prefect_n8n.webhook_events c
          ON s.kind = 'endpoint' AND CAST(c.id AS text) = s.ref
        LEFT JOIN prefect_n8n.webhook_attempts a ON a.webhook_event_id = c.id
        WHERE f.webhook_event_id = :event ORDER BY s.number, a.number
        """,
        event=event,
    )


def fails(call: Call) -> bool:
    """The backup does not take every third order."""
    return number(call) % 3 == 0


def number(call: Call) -> int:
    """The order's number in a call."""
    return int(call.body.split(b":")[1].strip(b" }"))
