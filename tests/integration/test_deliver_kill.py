"""The launcher killed between any two steps of a delivery, before a target that fails.

Each delivery is done once, and the table of attempts is what the target saw.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from support.bridge import until
from support.command import Command
from support.outgoing import Outgoing
from support.target import Answer, Call

pytestmark = pytest.mark.xdist_group("prefect")

COUNT = 300
KILLS = [
    "after deliver.claim 1",
    "after deliver.create 2",
    "after deliver.store 2",
    "after attempt._prepare 20",
    "before attempt.call 15",
    "after attempt.call 25",
    "after attempt.close 20",
    "after attempt.settle 30",
    "after attempt.ask 1",
    "after deliver.execute 2",
    "after deliver.settle 2",
]


def flaky(chance: random.Random) -> Callable[[Call], Answer]:
    """A script: most calls are well, the others fail in every way that a delivery can."""
    ways = [
        (60, Answer()),
        (12, Answer(500, b"", runs=False)),
        (5, Answer(404, b"", runs=False)),
        (6, Answer(reset=True, runs=False)),
        (6, Answer(reset=True)),
        (6, Answer(delay=0.3)),
        (2, Answer(delay=30.0)),
        (3, Answer(429, b"", {"retry-after": "1"}, runs=False)),
    ]
    weights, answers = zip(*ways, strict=True)
    return lambda _: chance.choices(answers, weights)[0]


async def test_each_delivery_is_done_once_whatever_is_killed(
    outgoing: Outgoing, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outgoing.endpoint(
        retry_policy={"schedule": [0] + [0.1] * 40, "jitter": 0}, timeout_seconds=2.0
    )
    outgoing.target.script = flaky(random.Random(7))
    ids = [f"d-{number:03}" for number in range(COUNT)]
    for id in ids:
        await outgoing.send(id)
    for kill_at in KILLS:
        async with command.running(kill_at) as launcher, asyncio.timeout(90):
            assert await launcher.wait() == -signal.SIGKILL, kill_at
    async with command.running():

        async def all_ended() -> bool:
            query = (
                "SELECT count(*) AS n FROM prefect_n8n.webhook_events WHERE finalized_at IS NULL"
            )
            return (await outgoing.rows(query))[0]["n"] == 0

        try:
            await until(all_ended, seconds=240, what="the end of all deliveries")
        except AssertionError:
            pytest.fail(command.output.read_text()[-6000:])

    states = await outgoing.rows("SELECT state, reason FROM prefect_n8n.webhook_events")
    assert Counter(row["state"] for row in states) == {"completed": COUNT}, states
    assert outgoing.target.deliveries == dict.fromkeys(ids, 1)
    await check_attempts(outgoing)


async def check_attempts(outgoing: Outgoing) -> None:
    """Each call is an attempt in the table; an attempt without a call never went out."""
    query = """
        SELECT e.event_id AS id, a.number, a.outcome FROM prefect_n8n.webhook_attempts a
        JOIN prefect_n8n.webhook_events e ON e.tenant_id = a.tenant_id AND e.id = a.webhook_event_id
    """
    table = {(row["id"], row["number"]): row["outcome"] for row in await outgoing.rows(query)}
    calls = Counter((call.id, call.attempt) for call in outgoing.target.calls)
    assert set(calls.values()) == {1}
    assert calls.keys() <= table.keys()
    silent = {outcome for key, outcome in table.items() if key not in calls}
    assert silent <= {"not_sent"}
    delivered = Counter(key[0] for key, outcome in table.items() if outcome == "delivered")
    assert delivered == outgoing.target.deliveries
