"""The health of an endpoint: failing, breaker, probe, recovered, disabled; agreed by replicas."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger import health
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.health import Change
from support.bridge import until
from support.outgoing import Outgoing
from support.postgres import Ledger
from support.target import Answer

pytestmark = pytest.mark.xdist_group("prefect")

DOWN = Answer(500, b"", runs=False)


async def broken(outgoing: Outgoing) -> None:
    """Let the breaker open: ten deliveries fail once each, their next attempts are hours away."""
    await outgoing.endpoint(retry_policy={"schedule": [0, 3600, 3600], "jitter": 0})
    outgoing.target.script = lambda _: DOWN
    for _ in range(10):
        await outgoing.send()

    async def is_open() -> bool:
        found = await outgoing.health()
        return found["breaker"] == "open" and found["failures"] == 10

    await until(is_open)


async def let_probe(outgoing: Outgoing) -> None:
    """Let the breaker's pause be over."""
    await outgoing.execute("UPDATE prefect_n8n.webhook_endpoints SET breaker_until = now()")


async def test_an_open_breaker_holds_deliveries_and_spends_no_attempt(outgoing: Outgoing) -> None:
    async with outgoing.launcher(), outgoing.launcher():
        await broken(outgoing)
        calls = len(outgoing.target.calls)
        held = [(await outgoing.send()).id for _ in range(5)]
        await outgoing.endpoint("other")
        other = await outgoing.send(endpoint="other")
        outgoing.target.script = lambda _: Answer()
        await outgoing.ended(other.id)
        for row in held:
            found = await outgoing.state(row)
            assert (found["state"], found["attempts"]) == ("pending", 0)
        assert len(outgoing.target.calls) == calls + 1


async def test_one_delivery_probes_and_lets_the_others_go_on(outgoing: Outgoing) -> None:
    async with outgoing.launcher(), outgoing.launcher():
        await broken(outgoing)
        held = [(await outgoing.send()).id for _ in range(5)]
        calls = len(outgoing.target.calls)
        gate: list[Answer] = [DOWN]
        outgoing.target.script = lambda _: gate[0]
        await let_probe(outgoing)

        async def probed() -> bool:
            found = await outgoing.health()
            return len(outgoing.target.calls) > calls and found["breaker"] == "open"

        await until(probed)
        assert len(outgoing.target.calls) == calls + 1
        gate[0] = Answer()
        await let_probe(outgoing)
        states = [(await outgoing.ended(row))["state"] for row in held[1:]]
        found = await outgoing.health()
    assert states == ["completed"] * 4
    assert (found["breaker"], found["failures"], found["failing_since"]) == ("closed", 0, None)
    audited = await outgoing.audited("endpoint/crm")
    assert [a for a in audited if a != "endpoint.saved"] == [
        "endpoint.failing",
        "endpoint.breaker_opened",
        "endpoint.breaker_opened",
        "endpoint.recovered",
    ]


async def test_a_lost_probe_is_followed_by_another(outgoing: Outgoing) -> None:
    async with outgoing.launcher(lease_seconds=5.0):
        await broken(outgoing)
        held = await outgoing.send()
        outgoing.target.script = lambda _: Answer()
        await outgoing.execute(
            "UPDATE prefect_n8n.webhook_endpoints SET breaker = 'half_open', breaker_until ="
            " now() + interval '1 second'"
        )
        assert (await outgoing.ended(held.id))["state"] == "completed"


async def test_a_failing_endpoint_is_reported_to_prefect(outgoing: Outgoing) -> None:
    resource = f"prefect-n8n.endpoint.{DEFAULT_TENANT}.{outgoing.block}"
    await outgoing.endpoint(outgoing.block, retry_policy={"schedule": [0, 0, 0, 0], "jitter": 0})
    outgoing.target.script = lambda _: DOWN
    async with outgoing.launcher():
        sent = await outgoing.send(endpoint=outgoing.block)
        await outgoing.ended(sent.id)

        async def reported() -> list[Any]:
            wanted = EventFilter(
                event=EventNameFilter(name=["n8n.endpoint.failing"]),
                resource=EventResourceFilter(id=[resource]),
            )
            answer = await outgoing.bridge.client._client.post(
                "/events/filter", json={"filter": wanted.model_dump(mode="json")}
            )
            return answer.json()["events"]

        (event,) = await until(reported)
    assert event["payload"]["reason"] == "the target answered 500"


# The rules, without a target

WHERE = dict[str, Any]


async def fail(
    database: Database, where: WHERE, times: int = 1, *, probe: bool = False
) -> list[list[Change]]:
    found: list[list[Change]] = []
    for _ in range(times):
        async with database.transaction(DEFAULT_TENANT) as connection:
            found.append(
                await health.failed(connection, **where, reason="500", actor="test", probe=probe)
            )
    return found


@pytest.fixture
async def where(outgoing: Outgoing) -> WHERE:
    """The endpoint, as the functions of ``ledger.health`` want it."""
    return {"tenant": DEFAULT_TENANT, "endpoint": (await outgoing.health())["id"]}


async def test_it_is_failing_after_four_and_open_after_ten(
    outgoing: Outgoing, where: WHERE
) -> None:
    changes = await fail(outgoing.bridge.database, where, 12)
    assert [i for i, found in enumerate(changes, 1) if Change.FAILING in found] == [4]
    assert [i for i, found in enumerate(changes, 1) if Change.OPENED in found] == [10]
    async with outgoing.bridge.database.transaction(DEFAULT_TENANT) as connection:
        assert await health.succeeded(connection, **where, actor="test") == [Change.RECOVERED]
        assert await health.succeeded(connection, **where, actor="test") == []


async def test_calls_made_before_do_not_speak_for_the_probe(
    outgoing: Outgoing, where: WHERE
) -> None:
    await fail(outgoing.bridge.database, where, 10)
    await outgoing.execute("UPDATE prefect_n8n.webhook_endpoints SET breaker = 'half_open'")
    assert await fail(outgoing.bridge.database, where) == [[]]
    assert await fail(outgoing.bridge.database, where, probe=True) == [[Change.OPENED]]


async def test_a_few_failures_in_a_row_are_no_news(outgoing: Outgoing, where: WHERE) -> None:
    await fail(outgoing.bridge.database, where, 3)
    async with outgoing.bridge.database.transaction(DEFAULT_TENANT) as connection:
        assert await health.succeeded(connection, **where, actor="test") == []
    assert (await outgoing.health())["failures"] == 0


async def test_it_opens_when_most_calls_of_five_minutes_failed(
    outgoing: Outgoing, where: WHERE
) -> None:
    sent = await outgoing.send()

    async def record(outcome: str, count: int, minutes: int) -> None:
        await outgoing.execute(
            "INSERT INTO prefect_n8n.webhook_attempts (tenant_id, id, webhook_event_id,"
            " endpoint_id, number, outcome, finished_at, owner)"
            " SELECT :tenant, gen_random_uuid(), :event, :endpoint, n + (SELECT count(*) FROM"
            " prefect_n8n.webhook_attempts), :outcome, now() - make_interval(mins => :minutes), 'x'"
            " FROM generate_series(1, :count) n",
            **where,
            event=sent.id,
            outcome=outcome,
            count=count,
            minutes=minutes,
        )

    await record("delivered", 100, 6)
    await record("snoozed", 100, 1)
    await record("delivered", 3, 1)
    await record("unknown", 2, 1)
    await record("not_sent", 2, 1)
    await record("failed", 2, 1)
    assert await fail(outgoing.bridge.database, where) == [[]]
    await record("failed", 1, 1)
    assert await fail(outgoing.bridge.database, where) == [[Change.OPENED]]


async def test_after_five_days_of_failure_it_is_disabled(outgoing: Outgoing, where: WHERE) -> None:
    await fail(outgoing.bridge.database, where)
    await outgoing.execute(
        "UPDATE prefect_n8n.webhook_endpoints SET failing_since = now() - interval '121 hours'"
    )
    assert await fail(outgoing.bridge.database, where, 2) == [[Change.DISABLED], []]
    found = await outgoing.health()
    assert found["state"] == "disabled"
    assert found["state_reason"] == "nothing but failure for five days; the last: 500"


async def test_failures_at_once_are_each_counted(
    outgoing: Outgoing, where: WHERE, ledger: Ledger
) -> None:
    database = Database(ledger.app_url, pool_size=10)
    changes = await asyncio.gather(*(fail(database, where) for _ in range(20)))
    await database.close()
    flat = [change for found in changes for each in found for change in each]
    assert sorted(flat) == [Change.OPENED, Change.FAILING]
    assert (await outgoing.health())["failures"] == 20
