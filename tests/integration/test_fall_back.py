"""Fallbacks of deliveries: each kind of step, their order, their undoing, on a real Prefect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Completed, Running

from prefect_n8n import WebhookEvent
from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger.configuration import set_state
from prefect_n8n.ledger.kinds import ENDPOINTS
from prefect_n8n.ledger.states import EndpointState
from support.bridge import until
from support.falling import ONCE, Falling
from support.target import Answer

pytestmark = pytest.mark.xdist_group("prefect")

BACKUP = {"endpoint": "backup"}


async def test_another_endpoint_takes_the_same_bytes_and_the_delivery_is_completed(
    falling: Falling,
) -> None:
    await falling.ladder(BACKUP)
    async with falling.outgoing.launcher():
        row = await falling.send("order-7", total=12.5)
        event = await falling.ended(row)

    assert (event["state"], event["reason"]) == ("completed", "by fallback: endpoint backup")
    assert "500" in event["errors"][-1]
    (call,) = falling.backup.calls
    assert call.body == b'{"total": 12.5}'
    (child,) = await falling.children()
    assert child["event_id"] == f"fallback:{row}:0:1" == call.id
    assert (child["parent_event_id"], child["state"]) == (row, "completed")
    assert await falling.refs() == [str(child["id"])]
    assert await falling.steps() == [("endpoint", "backup", "completed", None)]
    (fallback,) = await falling.fallbacks()
    assert (fallback["state"], fallback["reason"]) == (
        "completed",
        "by fallback: endpoint backup",
    )
    assert await falling.outgoing.audited(f"fallback/{fallback['id']}") == [
        "fallback.begun",
        "fallback.step_begun",
        "fallback.step_completed",
        "fallback.completed",
    ]
    assert (await falling.outgoing.audited(f"event/{row}"))[-2:] == [
        "event.falling_back",
        "event.completed",
    ]


async def test_steps_are_taken_in_order_until_one_does_it(falling: Falling) -> None:
    async def save_order(note: str, total: float) -> None:
        saved.append((note, total))

    saved: list[Any] = []
    falling.backup.script = lambda _: Answer(500, runs=False)
    flow = falling.bridge.webhook(save_order)
    ladder = [
        BACKUP,
        {"deployment": "nobody/knows"},
        await falling.notice(),
        {"deployment": flow.deployment},
        {"endpoint": "never"},
    ]
    await falling.ladder(*ladder)
    async with falling.bridge.launcher(flow):
        row = await falling.send(note="e", total=12.5)
        event = await falling.ended(row)

    assert event["state"] == "completed"
    assert event["reason"] == f"by fallback: deployment {flow.deployment}"
    assert saved == [("e", 12.5)]
    steps = await falling.steps()
    assert [(kind, state) for kind, _, state, _ in steps] == [
        ("endpoint", "failed"),
        ("deployment", "failed"),
        ("notification", "completed"),
        ("deployment", "completed"),
    ]
    assert "500" in str(steps[0][3])
    assert steps[1][3] == "Prefect has no deployment 'nobody/knows'"
    assert len(falling.notices) == 1


async def test_where_no_step_does_it_the_delivery_is_dead_with_the_cause_and_every_error(
    falling: Falling,
) -> None:
    async def fails() -> None:
        raise ValueError("no room")

    falling.backup.script = lambda _: Answer(410, runs=False)
    flow = falling.bridge.webhook(fails)
    await falling.ladder(BACKUP, {"deployment": flow.deployment}, await falling.notice())
    async with falling.bridge.launcher(flow):
        row = await falling.send(api_key="hush")
        event = await falling.ended(row)

    assert event["state"] == "dead"
    for part in ("500", "step 1, endpoint backup: dead: ", "410", "step 2, deployment", "no room"):
        assert part in event["reason"]
    (notice,) = falling.notices
    subject, _, body = notice.partition("\n")
    assert subject == f"n8n delivery failed on crm: {row}"
    assert f"prefect-n8n events redrive {row}" in body
    assert f"/api/webhooks/n8n/events/{row}" in body
    assert "500" in body
    assert "no room" in body
    assert "hush" not in notice
    assert "order-7" not in notice


async def test_a_deployment_gets_the_parameters_of_its_template(falling: Falling) -> None:
    async def save_order(event: WebhookEvent) -> None: ...

    flow = falling.bridge.webhook(save_order)
    await falling.bridge.deploy(flow)
    deployment = await falling.bridge.client.read_deployment_by_name(flow.deployment)
    # As of a work pool: nobody here executes it.
    template = {"event_id": "{{ event.row_id }}"}
    await falling.ladder({"deployment": flow.deployment, "parameters": template, "timeout": 60})
    async with falling.outgoing.launcher():
        row = await falling.send()
        (ref,) = await falling.begun()
        run = await falling.bridge.run(ref)  # type: ignore[arg-type]
        assert run.deployment_id == deployment.id
        assert run.parameters == {"event_id": str(row)}
        assert run.idempotency_key == f"n8n:fallback:{DEFAULT_TENANT}:{row}:0:1"
        # No run of the fallback is held meanwhile, and its end is seen without one.
        await until(lambda: is_given_back(falling), what="the fallback given back")
        await falling.bridge.client.set_flow_run_state(run.id, Running())
        await falling.bridge.client.set_flow_run_state(run.id, Completed())
        assert (await falling.ended(row))["state"] == "completed"
    assert [run.id for run in await falling.bridge.runs()] == [run.id]


async def is_given_back(falling: Falling) -> bool:
    """Whether no launcher holds the fallback."""
    (row,) = await falling.fallbacks()
    return row["state"] == "pending" and row["scheduled_at"] > row["created_at"]


async def test_the_end_of_its_delivery_wakes_a_fallback_at_once(falling: Falling) -> None:
    await falling.ladder(BACKUP)
    await pause(falling, "backup")
    async with falling.outgoing.launcher():
        row = await falling.send()
        await falling.begun()

        async def asleep() -> bool:
            await falling.outgoing.execute("""
                UPDATE prefect_n8n.fallbacks SET scheduled_at = now() + interval '1 hour'
                WHERE state = 'pending'
            """)
            (fallback,) = await falling.fallbacks()
            return fallback["scheduled_at"] > fallback["created_at"] + timedelta(minutes=30)

        await until(asleep, what="the fallback's sleep")
        await falling.outgoing.execute("UPDATE prefect_n8n.webhook_endpoints SET state = 'on'")
        assert (await falling.ended(row, seconds=30))["state"] == "completed"


async def test_a_delivery_that_is_not_made_in_time_is_cancelled(falling: Falling) -> None:
    await falling.ladder(BACKUP | {"timeout": 1}, await falling.notice())
    await pause(falling, "backup")
    async with falling.outgoing.launcher():
        row = await falling.send()
        event = await falling.ended(row)
    assert event["state"] == "dead"
    assert "step 1, endpoint backup: not done within 1 s" in event["reason"]
    (child,) = await falling.children()
    assert child["state"] == "cancelled"
    assert falling.backup.calls == []
    assert len(falling.notices) == 1


async def pause(falling: Falling, slug: str) -> None:
    """Hold an endpoint's deliveries."""
    async with falling.bridge.database.transaction(DEFAULT_TENANT) as connection:
        await set_state(
            connection, DEFAULT_TENANT, ENDPOINTS, slug, EndpointState.PAUSED, actor="test"
        )


async def test_a_delivery_on_the_wire_when_time_is_up_is_waited_for(falling: Falling) -> None:
    falling.backup.script = lambda _: Answer(delay=6.0)
    await falling.other.endpoint("backup", retry_policy=ONCE, timeout_seconds=30)
    await falling.ladder(BACKUP | {"timeout": 1})
    async with falling.outgoing.launcher():
        row = await falling.send()
        event = await falling.ended(row)
    assert (event["state"], event["reason"]) == ("completed", "by fallback: endpoint backup")
    assert len(falling.backup.runs) == 1


async def test_a_flow_run_that_takes_too_long_is_cancelled(falling: Falling) -> None:
    async def waits() -> None: ...

    flow = falling.bridge.webhook(waits)
    await falling.bridge.deploy(flow)
    await falling.ladder({"deployment": flow.deployment, "timeout": 1})
    async with falling.outgoing.launcher():
        row = await falling.send()
        event = await falling.ended(row)
    assert event["state"] == "dead"
    assert "not done within 1 s" in event["reason"]
    (run,) = await falling.bridge.runs()
    assert run.state_type is StateType.CANCELLED


@pytest.mark.parametrize(
    ("options", "says"),
    [({"fails": True}, "not sent: RuntimeError"), ({"sleeps": 3}, "not done within 1 s")],
    ids=["failure", "timeout"],
)
async def test_a_notice_that_cannot_be_sent_is_recorded_and_its_secret_is_not(
    falling: Falling, options: dict[str, Any], says: str
) -> None:
    await falling.ladder(await falling.notice(**options) | {"timeout": 1})
    async with falling.outgoing.launcher():
        event = await falling.ended(await falling.send())
    assert event["state"] == "dead"
    assert says in event["reason"]
    assert "hooks.example" not in event["reason"]


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"endpoint": "unknown"}, "There is no outbound endpoint 'unknown'"),
        ({"workflow": "unknown"}, "unknown"),
        ({"notification": "slack-webhook/unknown"}, "not sent"),
        ({"deployment": "a/b", "parameters": {"x": "{{ body.nothing }}"}}, "template"),
    ],
    ids=["endpoint", "workflow", "notification", "template"],
)
async def test_a_step_that_cannot_be_started_fails_alone(
    falling: Falling, step: dict[str, Any], says: str
) -> None:
    await falling.ladder(step, BACKUP)
    async with falling.outgoing.launcher():
        event = await falling.ended(await falling.send())
    assert event["state"] == "completed"
    steps = await falling.steps()
    assert [state for _, _, state, _ in steps] == ["failed", "completed"]
    assert says in str(steps[0][3])


async def test_endpoints_that_fall_back_to_each_other_make_no_circle(falling: Falling) -> None:
    falling.backup.script = lambda _: Answer(500, runs=False)
    await falling.ladder(BACKUP)
    await falling.other.endpoint("backup", retry_policy=ONCE, fallback=[{"endpoint": "crm"}])
    async with falling.outgoing.launcher():
        row = await falling.send()
        assert (await falling.ended(row))["state"] == "dead"
    assert len(await falling.fallbacks()) == 1
    assert len(await falling.children()) == 1
    assert (len(falling.outgoing.target.calls), len(falling.backup.calls)) == (1, 1)


async def test_two_launchers_take_each_step_once(falling: Falling) -> None:
    started: list[str] = []

    async def save_order(event: WebhookEvent) -> None:
        started.append(event.id)

    flow = falling.bridge.webhook(save_order)
    falling.backup.script = lambda _: Answer(500, runs=False)
    await falling.ladder(BACKUP, await falling.notice(), {"deployment": flow.deployment})
    ids = [f"order-{i}" for i in range(8)]
    async with falling.bridge.launcher(flow), falling.bridge.launcher(flow):
        rows = [await falling.send(id) for id in ids]
        events = [await falling.ended(row, seconds=90) for row in rows]
    assert {event["state"] for event in events} == {"completed"}
    assert sorted(started) == sorted(ids)
    assert set(falling.backup.deliveries.values()) <= {1}
    assert len(falling.backup.calls) == len(falling.notices) == len(ids)
    assert len(await falling.bridge.runs()) == len(ids)


async def test_a_fallback_claimed_too_often_is_buried(falling: Falling) -> None:
    await falling.ladder(BACKUP)
    row = await falling.send()
    await pause(falling, "backup")
    async with falling.outgoing.launcher():
        await falling.begun()
    await falling.outgoing.execute(
        "UPDATE prefect_n8n.fallbacks SET claims = 20, scheduled_at = now()"
    )
    async with falling.outgoing.launcher():
        event = await falling.ended(row)
    assert event["state"] == "dead"
    assert "the fallback was claimed 20 times without an end" in event["reason"]
    assert "endpoint backup: cut short" in event["reason"]


async def test_an_endpoint_refuses_what_is_no_ladder(falling: Falling) -> None:
    with pytest.raises(ConfigurationError, match="Step 2 of the fallback"):
        await falling.ladder(BACKUP, {"deployment": "no-name"})


async def test_cancel_of_its_run_in_prefect_ends_the_fallback(falling: Falling) -> None:
    await falling.ladder(await falling.notice(sleeps=4), BACKUP)
    async with falling.outgoing.launcher():
        row = await falling.send()

        async def in_step() -> Any:
            found = await falling.fallbacks()
            return found[0]["flow_run_id"] if found and await falling.steps() else None

        run = await until(in_step, what="the step's begin")
        await falling.bridge.client.set_flow_run_state(run, Cancelling())
        event = await falling.ended(row)

        async def is_cancelled() -> bool:
            return (await falling.bridge.run(run)).state_type is StateType.CANCELLED

        await until(is_cancelled, what="the run's end")
    assert event["state"] == "dead"
    assert "cancelled in Prefect" in event["reason"]
    assert falling.backup.calls == []
