"""Deliveries to a real n8n, through the launcher and a real Prefect: done once, whatever fails."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import HttpUrl, SecretStr

from support.bridge import until
from support.command import Command
from support.n8n import N8n
from support.n8n_receiving import SECRET, STARTING, Receiving, before, receiving, sleeping
from support.outgoing import Outgoing

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.usefixtures("calls_n8n"),
]

BODY: dict[str, Any] = {"order_id": "o-1", "name": "Zoë ☕"}
AGAIN = {"schedule": [0, 0.2, 0.2, 0.5, 0.5, 1, 1, 1, 1, 1, 1, 1], "jitter": 0}


@pytest_asyncio.fixture
async def road(outgoing: Outgoing, n8n: N8n) -> AsyncIterator[Outgoing]:
    """The outbound road, with credentials of the real n8n."""
    await outgoing.credentials(
        base_url=HttpUrl(n8n.url),
        api_key=SecretStr(n8n.api_key),
        webhook_secrets=[SecretStr(SECRET)],
    )
    yield outgoing


async def to(road: Outgoing, there: Receiving, **changes: Any) -> None:
    """Let endpoint ``crm`` lead to the workflow."""
    values = {"url": there.path, "n8n_workflow_id": None, "retry_policy": AGAIN}
    await road.endpoint(**values | {"success_rule": {"fields": ["execution_id"]}} | changes)


async def ask_now(road: Outgoing, row: Any) -> None:
    """Wait until the delivery is to be asked about, and let that be now."""

    async def is_unknown() -> bool:
        found = await road.state(row)
        return found["state"] == "retryable" and "unknown" in found["errors"][-1]

    await until(is_unknown, what="an unknown outcome")
    await road.make_due()


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
async def test_n8n_verifies_and_runs_it_once(road: Outgoing, n8n: N8n, scheme: str) -> None:
    async with receiving(n8n, scheme=scheme) as there, road.launcher():
        await to(road, there, scheme=scheme)
        sent = await road.send("order-1", **BODY)
        row = await road.ended(sent.id)
        execution = await there.ended()
    assert (row["state"], row["attempts"]) == ("completed", 1)
    (attempt,) = await road.attempts(sent.id)
    assert attempt["n8n_execution_id"] == execution.id
    assert (execution.status, execution.output("Your work")[0]["body"]) == ("success", BODY)


@pytest.mark.parametrize("work", ["ended", "under way"])
async def test_an_answer_that_is_swallowed_costs_no_second_run(
    road: Outgoing, n8n: N8n, work: str
) -> None:
    """The call reaches n8n, its answer never comes back."""
    seconds = sleeping(6) if work == "under way" else None
    async with receiving(n8n, seconds) as there, before(n8n.url, None) as deaf, road.launcher():
        await to(road, there, url=f"{deaf}/webhook/{there.path}", timeout_seconds=5.0)
        sent = await road.send("order-1", **BODY)
        await ask_now(road, sent.id)
        row = await road.ended(sent.id, seconds=60)
        execution = await there.ended()
    assert (row["state"], row["attempts"]) == ("completed", 1)
    (attempt,) = await road.attempts(sent.id)
    assert (attempt["outcome"], attempt["n8n_execution_id"]) == ("delivered", execution.id)


async def test_a_launcher_killed_on_the_wire_costs_no_second_run(
    road: Outgoing, n8n: N8n, command: Command
) -> None:
    async with receiving(n8n) as there:
        await to(road, there)
        sent = await road.send("order-1", **BODY)
        async with command.running("after attempt.call 1") as launcher:
            assert await launcher.wait() == -signal.SIGKILL
        async with command.running():
            row = await road.ended(sent.id, seconds=60)
        execution = await there.ended()
    assert (row["state"], row["attempts"]) == ("completed", 1)
    (attempt,) = await road.attempts(sent.id)
    assert (attempt["outcome"], attempt["n8n_execution_id"]) == ("delivered", execution.id)


async def test_a_starting_n8n_is_no_delivery(road: Outgoing, n8n: N8n) -> None:
    async with receiving(n8n) as there, before(n8n.url, STARTING, STARTING) as starting:
        await to(road, there, url=f"{starting}/webhook/{there.path}")
        async with road.launcher():
            sent = await road.send("order-1", **BODY)
            row = await road.ended(sent.id)
        await there.ended()
    assert (row["state"], row["attempts"]) == ("completed", 3)


async def test_a_workflow_that_is_not_published_yet_gets_it_later(road: Outgoing, n8n: N8n) -> None:
    async with receiving(n8n) as there:
        await there.unpublish()
        await to(road, there)
        async with road.launcher():
            sent = await road.send("order-1", **BODY)

            async def refused() -> bool:
                return len(await road.attempts(sent.id)) > 1

            await until(refused)
            await n8n.publish(there.workflow_id)
            row = await road.ended(sent.id)
        await there.ended()
    assert row["state"] == "completed"
    first = (await road.attempts(sent.id))[0]
    assert (first["status"], first["outcome"]) == (404, "failed")


async def test_a_wrong_secret_is_refused_by_n8n_and_dead(road: Outgoing, n8n: N8n) -> None:
    await road.credentials(
        base_url=HttpUrl(n8n.url),
        api_key=SecretStr(n8n.api_key),
        webhook_secrets=[SecretStr("another-secret-of-printable-text")],
    )
    async with receiving(n8n) as there, road.launcher():
        await to(road, there)
        sent = await road.send("order-1", **BODY)
        row = await road.ended(sent.id)
        execution = await there.ended()
    assert (row["state"], row["reason"]) == ("dead", "the target answered 401")
    assert execution.output("Your work") == []
