"""The deployment ``redrive``, and what becomes of redriven events, on a real Prefect."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending, Running, Scheduled

from prefect_n8n import WebhookEvent
from prefect_n8n.launcher import shipped
from prefect_n8n.launcher.deploying import SHIPPED
from support.bridge import Bridge, until
from support.falling import Falling
from support.target import Answer

pytestmark = pytest.mark.xdist_group("prefect")


async def press(bridge: Bridge, **parameters: Any) -> Any:
    """Start the deployment as an operator does; return its ended run."""

    async def deployed() -> Any:
        try:
            return await bridge.client.read_deployment_by_name(f"redrive/{SHIPPED}")
        except ObjectNotFound:
            return None

    deployment = await until(deployed, what="the deployment")
    run = await bridge.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return await ended(bridge, run.id)


async def ended(bridge: Bridge, id: Any) -> Any:
    """Wait for the run's end, and return it."""

    async def run_ended() -> Any:
        found = await bridge.run(id)
        return found if found.state is not None and found.state.is_final() else None

    return await until(run_ended, seconds=60, what="the run's end")


async def test_a_dead_event_runs_again_with_a_new_flow_run(bridge: Bridge) -> None:
    fail = [True]
    seen: list[str] = []

    async def on_order(event: WebhookEvent) -> None:
        if fail[0]:
            raise ValueError("no room")
        seen.append(event.id)

    async with bridge.launcher(bridge.webhook(on_order)):
        row = await bridge.record(id="evt_1")
        first = await bridge.ended(row)
        assert first["state"] == "dead"

        dry = await press(bridge, endpoint=bridge.name, dry_run=True)
        assert dry.state.message == "1 events fit; 1 would be redriven."
        assert (await bridge.event(row))["redrive"] == 0

        fail[0] = False
        run = await press(bridge, endpoint=bridge.name, type="order.*")
        assert run.state.message == "1 events redriven."
        event = await bridge.ended(row)

        # Run again, as after its launcher was lost or by Retry, it does nothing twice.
        await bridge.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
        await until(lambda: again(bridge, run.id), what="the repeated run")
    assert (event["state"], event["redrive"], seen) == ("completed", 1, ["evt_1"])
    assert (await bridge.event(row))["redrive"] == 1
    runs = {x["redrive"]: x["flow_run_id"] for x in event["executions"]}
    assert len(set(runs.values())) == 2
    assert len(await bridge.runs()) == 2


async def again(bridge: Bridge, id: Any) -> bool:
    """Whether the run says that it had done it before."""
    state = (await bridge.run(id)).state
    return state is not None and "by this run before" in str(state.message)


async def test_a_dead_delivery_is_made_again_and_has_its_fallback_again(falling: Falling) -> None:
    await falling.ladder({"endpoint": "unknown"})
    async with falling.outgoing.launcher():
        row = await falling.send()
        assert (await falling.ended(row))["state"] == "dead"
        run = await press(falling.bridge, ids=[str(row)])
        assert run.state.message == "1 events redriven."
        await until(lambda: two_fallbacks(falling), seconds=60, what="the second fallback")
        assert (await falling.ended(row))["state"] == "dead"
        falling.outgoing.target.script = lambda _: Answer()
        await press(falling.bridge, direction="outbound", state=["dead"])
        event = await falling.ended(row)
    assert (event["state"], event["redrive"], event["attempts"]) == ("completed", 2, 1)
    attempts = await falling.outgoing.attempts(row)
    assert [(a["number"], a["redrive"]) for a in attempts] == [(1, 0), (2, 1), (3, 2)]


async def two_fallbacks(falling: Falling) -> bool:
    """Whether both redrives have had theirs."""
    found = await falling.fallbacks()
    return [row["redrive"] for row in found if row["state"] == "dead"] == [0, 1]


async def test_a_redrive_whose_launcher_was_lost_is_run_again(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise ValueError("no room")

    async with bridge.launcher(bridge.webhook(fails)):
        await bridge.ended(await bridge.record())
        await press(bridge, dry_run=True)
    # As a launcher leaves it that is killed within the run.
    deployment = await bridge.client.read_deployment_by_name(f"redrive/{SHIPPED}")
    run = await bridge.client.create_flow_run_from_deployment(
        deployment.id, parameters={"type": "nothing"}
    )
    await bridge.client.set_flow_run_state(run.id, Pending())
    await bridge.client.set_flow_run_state(run.id, Running())
    monkeypatch.setattr(shipped, "LOST_SECONDS", 0.5)
    async with bridge.launcher():
        found = await ended(bridge, run.id)
    assert found.state_type is StateType.COMPLETED
    assert found.state.message == "0 events redriven."


async def test_what_cannot_be_asked_for_fails_the_run_with_a_sentence(bridge: Bridge) -> None:
    async with bridge.launcher():
        run = await press(bridge, limit=20_000)
    assert run.state_type is StateType.FAILED
    assert "One redrive takes 1 to 10000 events." in run.state.message
