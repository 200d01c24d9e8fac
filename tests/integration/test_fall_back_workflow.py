"""The workflow step of a fallback: started once, asked about, stopped when it takes too long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefect_n8n.blocks.answers import Execution
from prefect_n8n.blocks.arrivals import Arrival
from prefect_n8n.core.errors import OutcomeUnknown
from prefect_n8n.flows import fallback_workflows
from support.falling import Falling

pytestmark = pytest.mark.xdist_group("prefect")


class Workflow:
    """Stands in for an N8nWorkflow block, its n8n, and the run that it returns."""

    def __init__(self, status: str, unknown: int = 0) -> None:
        self.status = status
        self.unknown = unknown
        self.triggered: list[tuple[Any, str]] = []
        self.stopped: list[str] = []
        self.execution_id = "77"
        self.credentials = self
        self.webhook = "by-hand"
        self.workflow_id = "w1"

    async def load(self, name: str) -> Workflow:
        """Load it."""
        assert name == "by hand"
        return self

    async def atrigger(self, body: Any, *, event_id: str) -> Workflow:
        """Trigger it; the first times nobody knows what came of it."""
        self.triggered.append((body, event_id))
        if len(self.triggered) <= self.unknown:
            raise OutcomeUnknown("no answer", target="n8n")
        return self

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[Workflow]:
        """Its n8n."""
        yield self

    def webhook_address(self, webhook: str) -> str:
        """Where its calls go."""
        return f"http://n8n/webhook/{webhook}"

    async def execution(self, id: str, *, include_data: bool = False) -> Execution:
        """Its execution."""
        error = {"resultData": {"error": {"message": "no room", "node": {"name": "Save"}}}}
        values = {"id": id, "workflowId": "w1", "status": self.status, "data": error}
        return Execution.model_validate(values)

    async def stop_execution(self, id: str) -> None:
        """Stop it."""
        self.stopped.append(id)


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        ("success", "completed", "by fallback: workflow by hand"),
        ("error", "dead", "execution 77 ended as error in Save: no room"),
        ("running", "dead", "not done within 1 s"),
    ],
    ids=["success", "failure", "timeout"],
)
async def test_an_n8n_workflow_is_run_or_stopped(
    falling: Falling, monkeypatch: pytest.MonkeyPatch, status: str, state: str, says: str
) -> None:
    workflow = Workflow(status)
    monkeypatch.setattr(fallback_workflows, "load", workflow.load)
    await falling.ladder({"workflow": "by hand", "timeout": 1})
    async with falling.outgoing.launcher():
        row = await falling.send(total=1)
        event = await falling.ended(row)
    assert event["state"] == state
    assert says in event["reason"]
    assert workflow.triggered == [({"total": 1}, f"fallback:{row}:0:1")]
    assert await falling.refs() == ["77"]
    assert workflow.stopped == ([] if state == "completed" else ["77"])


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_workflow_that_may_have_been_started_is_asked_about_before_another_call(
    falling: Falling, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    workflow = Workflow("success", unknown=1)
    asked: list[str] = []

    async def find(client: Any, *, delivery_id: str, **_: Any) -> Arrival:
        asked.append(delivery_id)
        if len(asked) == 1:
            return Arrival("not_known", "it runs")
        found = await workflow.execution("77")
        return Arrival("arrived", "", found) if arrived else Arrival("not_arrived", "")

    monkeypatch.setattr(fallback_workflows, "load", workflow.load)
    monkeypatch.setattr(fallback_workflows, "find_arrival", find)
    await falling.ladder({"workflow": "by hand"})
    async with falling.outgoing.launcher():
        row = await falling.send()
        event = await falling.ended(row)
    assert event["state"] == "completed"
    assert asked == [f"fallback:{row}:0:1"] * 2
    assert len(workflow.triggered) == (1 if arrived else 2)
