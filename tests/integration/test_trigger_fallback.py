"""Fallbacks of triggers: an event whose flow run fails for good is done in another way."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Crashed, Running, Scheduled
from sqlalchemy import text

from prefect_n8n import WebhookEvent
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.launcher.deploying import SHIPPED
from prefect_n8n.ledger import launches
from prefect_n8n.ledger.states import ExecutionState
from support.bridge import Bridge, until
from support.falling import Falling

pytestmark = pytest.mark.xdist_group("prefect")


async def fails() -> None:
    """A flow that fails for good."""
    raise ValueError("no room")


async def ladder(bridge: Bridge, *steps: dict[str, Any]) -> None:
    """Give every trigger a ladder."""
    import json

    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("UPDATE prefect_n8n.workflow_triggers SET fallback = CAST(:ladder AS jsonb)"),
            {"ladder": json.dumps(steps)},
        )


async def rows(bridge: Bridge, query: str) -> list[dict[str, Any]]:
    """Return what a query finds."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        return [dict(row) for row in (await connection.execute(text(query))).mappings()]


async def test_a_failing_flow_falls_back_to_a_deployment_that_completes_the_event(
    bridge: Bridge,
) -> None:
    saved: list[str] = []

    async def save_order(event: WebhookEvent) -> None:
        saved.append(event.id)

    from prefect import Flow

    from prefect_n8n import webhook

    other = webhook(f"{bridge.name}-other")(Flow(save_order, name=f"save-{bridge.name}"))
    main = webhook(bridge.name, fallback=[{"deployment": other.deployment}])(
        Flow(fails, name=f"fails-{bridge.name}")
    )
    async with bridge.launcher(main, other):
        row = await bridge.record(id="evt_1")
        event = await bridge.ended(row, seconds=60)

    assert event["state"] == "completed"
    assert event["reason"].endswith(f"by fallback: deployment {other.deployment}")
    assert "no room" in event["reason"]
    assert saved == ["evt_1"]
    own, by_fallback = sorted(event["executions"], key=lambda x: -x["redrive"])
    assert (own["state"], own["redrive"]) == ("completed", 0)
    assert "no room" in own["error"]
    assert (by_fallback["state"], by_fallback["redrive"]) == ("completed", -1)
    assert (await bridge.run(own["flow_run_id"])).state_type is StateType.FAILED


async def test_a_run_that_could_never_be_started_falls_back_too(falling: Falling) -> None:
    bridge = falling.bridge

    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    await bridge.deploy(flow)
    await ladder(bridge, {"endpoint": "backup"})
    # Prefect refuses parameters that the deployment does not have.
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("""UPDATE prefect_n8n.workflow_triggers SET parameters = '{"wrong": 1}'""")
        )
    async with bridge.launcher():
        event = await bridge.ended(await bridge.record({"total": 3}), seconds=60)
    assert event["state"] == "completed"
    assert event["reason"].endswith("by fallback: endpoint backup")
    assert [call.body for call in falling.backup.calls] == [b'{"total": 3}']
    (execution,) = event["executions"]
    assert (execution["state"], execution["flow_run_id"]) == ("completed", None)


async def test_a_deployment_that_is_gone_falls_back_once_its_claims_are_used_up(
    falling: Falling,
) -> None:
    bridge = falling.bridge

    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    await bridge.deploy(flow)
    await ladder(bridge, {"endpoint": "unknown"})
    deployment = await bridge.client.read_deployment_by_name(flow.deployment)
    await bridge.client.delete_deployment(deployment.id)
    row = await bridge.record()
    async with bridge.launcher(max_claims=1):

        async def has_error() -> bool:
            return bool((await bridge.event(row))["errors"])

        await until(has_error, what="an error on the event")
        await falling.outgoing.make_due()
        event = await bridge.ended(row, seconds=60)
    assert event["state"] == "dead"
    assert flow.deployment in event["reason"]
    assert "step 1, endpoint unknown: There is no outbound endpoint" in event["reason"]
    assert [x["state"] for x in event["executions"]] == ["dead"]


async def launched(bridge: Bridge, flow: Any, *steps: dict[str, Any]) -> tuple[UUID, UUID, UUID]:
    """Launch an event's run, which nobody executes; return event, execution and flow run."""
    await bridge.deploy(flow)
    await ladder(bridge, *steps)
    async with bridge.launcher():
        row = await bridge.record()

        async def run_stored() -> Any:
            found = (await bridge.event(row))["executions"]
            return found[0] if found and found[0]["flow_run_id"] else None

        execution = await until(run_stored, what="the stored run id")
    return row, execution["id"], execution["flow_run_id"]


async def end(bridge: Bridge, execution: UUID, error: str) -> bool:
    """End an execution as a launcher does whose run failed."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        return await launches.finish(
            connection,
            DEFAULT_TENANT,
            execution,
            ExecutionState.FAILED,
            error=error,
            actor="launcher test",
        )


async def test_a_crashed_run_that_completed_after_all_needs_no_fallback(falling: Falling) -> None:
    bridge = falling.bridge
    row, execution, run = await launched(bridge, bridge.webhook(fails), {"endpoint": "backup"})
    await bridge.client.set_flow_run_state(run, Crashed(message="lost"), force=True)
    assert await end(bridge, execution, "Crashed: lost")
    assert (await bridge.event(row))["executions"][0]["state"] == "falling_back"
    assert not await end(bridge, execution, "Crashed: lost")
    await bridge.client.set_flow_run_state(run, Completed(), force=True)
    async with bridge.launcher():
        event = await bridge.ended(row)
    assert event["state"] == "completed"
    assert event["reason"] == "Crashed: lost; its flow run completed after all"
    assert falling.backup.calls == []
    assert await falling.steps() == []


async def test_an_execution_that_falls_back_is_left_alone_by_runner_and_reconciler(
    falling: Falling,
) -> None:
    bridge = falling.bridge
    flow = bridge.webhook(fails)
    row, execution, run = await launched(
        bridge, flow, {"deployment": f"{flow.deployment}", "timeout": 60}
    )
    assert await end(bridge, execution, "Failed: by hand")
    async with bridge.launcher():
        await falling.begun()
        # As an operator presses Retry meanwhile: the run waits until the fallback has ended.
        await bridge.client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"), force=True)
        mine = (await bridge.event(row))["executions"]
        assert [x["state"] for x in mine if x["redrive"] == 0] == ["falling_back"]
        (ref,) = await falling.refs()
        await bridge.client.set_flow_run_state(UUID(ref), Running())
        await bridge.client.set_flow_run_state(UUID(ref), Completed())
        assert (await bridge.ended(row))["state"] == "completed"


async def test_a_run_started_again_after_its_fallback_has_no_second_one(falling: Falling) -> None:
    bridge = falling.bridge
    flow = bridge.webhook(fails)
    await bridge.deploy(flow)
    await ladder(bridge, {"endpoint": "unknown"})
    async with bridge.launcher() as _:
        pass
    async with bridge.launcher(flow):
        await ladder(bridge, {"endpoint": "unknown"})
        row = await bridge.record()
        first = await bridge.ended(row, seconds=60)
        assert "endpoint unknown" in first["reason"]
        (run,) = await bridge.runs()
        await bridge.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)

        async def ended_again() -> bool:
            event = await bridge.event(row)
            return event["state"] == "dead" and event["finalized_at"] > first["finalized_at"]

        await until(ended_again, what="the second end")
    assert "endpoint unknown" not in (await bridge.event(row))["reason"]
    assert len(await falling.fallbacks()) == 1


async def test_a_run_of_fall_back_started_by_hand_says_why_it_cannot_be(bridge: Bridge) -> None:
    async with bridge.launcher():

        async def deployed() -> Any:
            from prefect.exceptions import ObjectNotFound

            try:
                return await bridge.client.read_deployment_by_name(f"fall-back/{SHIPPED}")
            except ObjectNotFound:
                return None

        deployment = await until(deployed, what="the deployment")
        run = await bridge.client.create_flow_run_from_deployment(
            deployment.id, parameters={"fallback_id": "00000000-0000-4000-8000-00000000dead"}
        )

        async def run_ended() -> Any:
            found = await bridge.run(run.id)
            return found if found.state is not None and found.state.is_final() else None

        found = await until(run_ended, what="the run's end")
    assert found.state_type is StateType.FAILED
    assert "no such fallback" in str(found.state.message)
