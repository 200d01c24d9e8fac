"""From a committed event to an ended flow run: what the launcher promises, on a real Prefect."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import StateType
from sqlalchemy import text

from prefect_n8n import WebhookEvent
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.ledger import claims
from support.bridge import Bridge, until

pytestmark = pytest.mark.xdist_group("prefect")


async def test_an_event_becomes_one_completed_run_that_says_which(bridge: Bridge) -> None:
    seen: list[WebhookEvent] = []

    async def on_order(event: WebhookEvent) -> None:
        seen.append(event)

    async with bridge.launcher(bridge.webhook(on_order)):
        row = await bridge.record({"total": 12.5, "api_key": "hush"}, id="evt_1")
        event = await bridge.ended(row)

    assert event["state"] == "completed"
    assert [(e.id, e.type, e.body["api_key"]) for e in seen] == [("evt_1", "order.created", "hush")]
    (run,) = await bridge.runs()
    assert run.state_type is StateType.COMPLETED
    assert event["executions"][0]["flow_run_id"] == run.id
    assert run.name == f"{bridge.name} · order.created · evt_1"
    assert {"n8n", f"endpoint:{bridge.name}", "type:order.created"} <= set(run.tags)
    assert run.parameters == {"event_id": str(row)}
    texts = await artifacts(bridge, run.id)
    assert any("evt_1" in text and "12.5" in text and "hush" not in text for text in texts)
    assert any(f"/api/webhooks/n8n/events/{row}" in text for text in texts)


async def artifacts(bridge: Bridge, run: Any) -> list[str]:
    """Return the texts of the run's artifacts."""
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    found = await bridge.client.read_artifacts(artifact_filter=mine)
    return [str(artifact.data) for artifact in found]


async def test_fields_of_the_body_are_validated_as_parameters(bridge: Bridge) -> None:
    seen: list[object] = []

    def on_order(total: float, note: str = "none") -> None:
        seen.append((total, note))

    async with bridge.launcher(bridge.webhook(on_order)):
        good = await bridge.ended(await bridge.record({"total": "12.5"}))
        bad = await bridge.ended(await bridge.record({"total": "much"}))

    assert seen == [(12.5, "none")]
    assert good["state"] == "completed"
    assert bad["state"] == "dead"
    assert "total" in bad["reason"]
    assert "much" not in bad["reason"]


async def test_only_matching_triggers_start_and_each_event_is_their_sum(bridge: Bridge) -> None:
    started: list[str] = []

    async def on_created() -> None:
        started.append("created")

    async def on_any() -> None:
        started.append("any")
        raise ValueError("broken")

    flows = [
        bridge.webhook(on_created, types=["order.created"]),
        bridge.webhook(on_any, types=["order.*"]),
    ]
    async with bridge.launcher(*flows):
        both = await bridge.ended(await bridge.record(type="order.created"))
        none = await bridge.ended(await bridge.record(type="invoice.paid"))

    assert sorted(started) == ["any", "created"]
    assert both["state"] == "dead"
    assert "broken" in both["reason"]
    assert sorted(x["state"] for x in both["executions"]) == ["completed", "failed"]
    assert (none["state"], none["reason"]) == ("completed", "no trigger matched")
    assert none["executions"] == []


async def test_a_launch_repeated_after_its_lease_ran_out_makes_no_second_run(
    bridge: Bridge,
) -> None:
    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    async with bridge.launcher(flow) as launcher:
        row = await bridge.record()
        await bridge.ended(row)
        # As a launcher that was frozen after claiming, and goes on when all is over.
        stale = claims.Claimed(DEFAULT_TENANT, row, 1)
        assert await launcher.launching.plan(stale) is None
        await launcher.launching.launch(stale)
    assert len(await bridge.runs()) == 1


async def test_replicas_share_the_work_and_start_nothing_twice(bridge: Bridge) -> None:
    bodies: list[str] = []

    async def on_order(event: WebhookEvent) -> None:
        bodies.append(event.id)

    flow = bridge.webhook(on_order)
    ids = [f"evt_{i}" for i in range(30)]
    async with bridge.launcher(flow), bridge.launcher(flow):
        rows = await bridge.record_many(ids)
        events = [await bridge.ended(row) for row in rows]

    assert {event["state"] for event in events} == {"completed"}
    assert sorted(bodies) == sorted(ids)
    assert len(await bridge.runs()) == 30


async def test_a_paused_endpoint_holds_its_events(bridge: Bridge) -> None:
    async def on_order() -> None: ...

    async with bridge.launcher(bridge.webhook(on_order)):
        await set_endpoint_state(bridge, "paused")
        row = await bridge.record()
        other = await bridge.client.read_deployment_by_name(f"on_order-{bridge.name}/{bridge.name}")
        assert other is not None
        assert (await bridge.event(row))["state"] == "pending"
        await set_endpoint_state(bridge, "on")
        assert (await bridge.ended(row))["state"] == "completed"


async def set_endpoint_state(bridge: Bridge, state: str) -> None:
    """Pause or resume the test's endpoint."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("UPDATE prefect_n8n.webhook_endpoints SET state = :state WHERE slug = :slug"),
            {"state": state, "slug": bridge.name},
        )


async def test_an_event_that_breaks_its_launch_is_buried_after_its_claims(bridge: Bridge) -> None:
    async def on_order() -> None: ...

    flow = bridge.webhook(on_order)
    async with bridge.launcher(flow, max_claims=1) as launcher:
        row = await bridge.record()
        await bridge.ended(row)
        # The deployment is gone: nothing can be started for this event any more.
        deployment = await bridge.client.read_deployment_by_name(flow.deployment)
        await bridge.client.delete_deployment(deployment.id)
        lost = await bridge.record()
        await until(lambda: errors_of(bridge, lost), what="an error on the event")
        await make_due(bridge, lost)
        event = await bridge.ended(lost)
        assert launcher.runner.free == launcher._settings.runner_slots
    assert event["state"] == "dead"
    assert flow.deployment in event["reason"]


async def errors_of(bridge: Bridge, row: Any) -> list[str]:
    """Return the errors recorded on the event."""
    return (await bridge.event(row))["errors"]


async def make_due(bridge: Bridge, row: Any) -> None:
    """Let an event that waits for its next attempt be due now."""
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        await connection.execute(
            text("UPDATE prefect_n8n.webhook_events SET scheduled_at = now() WHERE id = :id"),
            {"id": row},
        )
