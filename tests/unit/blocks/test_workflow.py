"""The workflow block: Prefect's rules for blocks, and what it says before any call."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import Any

import pytest
from prefect.blocks.abstract import JobBlock
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_n8n.blocks import starting
from prefect_n8n.blocks.credentials import N8nCredentials
from prefect_n8n.blocks.starting import Order, Started
from prefect_n8n.blocks.workflow import N8nWorkflow, N8nWorkflowRun
from prefect_n8n.core.errors import ConfigurationError, N8nExecutionFailed

SECRET = "hunter2-hunter2-hunter2-new"


class TestPrefectsRules(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return N8nWorkflow

    @pytest.mark.skip(reason="It downloads the logo.")
    def test_has_a_valid_image(self, block: type[Block]) -> None: ...


def made(**fields: Any) -> N8nWorkflow:
    credentials = N8nCredentials(webhook_secrets=[SecretStr(SECRET)])
    return N8nWorkflow(**{"credentials": credentials, "webhook": "orders", **fields})


def test_its_names_stay() -> None:
    """Stored blocks are found by them."""
    assert N8nWorkflow.get_block_type_slug() == "n8n-workflow"
    assert issubclass(N8nWorkflow, JobBlock)
    assert set(N8nWorkflow.model_fields) == {
        "credentials", "webhook", "scheme", "workflow_id", "call_seconds", "start_seconds",
        "timeout_seconds", "poll_seconds", "away_seconds",
    }  # fmt: skip


def test_every_method_has_its_async_twin() -> None:
    pairs = [
        (N8nWorkflow, "trigger", "atrigger"),
        (N8nWorkflowRun, "wait_for_completion", "await_for_completion"),
        (N8nWorkflowRun, "fetch_result", "afetch_result"),
        (N8nWorkflowRun, "fetch_execution", "afetch_execution"),
        (N8nWorkflowRun, "stop", "astop"),
        (N8nWorkflowRun, "retry", "aretry"),
    ]
    for owner, name, twin in pairs:
        assert getattr(owner, name).aio is getattr(owner, twin)
        assert list(inspect.signature(getattr(owner, name)).parameters) == list(
            inspect.signature(getattr(owner, twin)).parameters
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"webhook": ""},
        {"scheme": "none"},
        {"call_seconds": 0},
        {"poll_seconds": 0},
        {"timeout_seconds": 0},
        {"start_seconds": -1},
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(**fields)


async def test_without_a_secret_nothing_is_called() -> None:
    with pytest.raises(ConfigurationError, match="no webhook secret"):
        await made(credentials=N8nCredentials()).atrigger({})


@pytest.mark.parametrize("event_id", ["", "with space", "ä", "x" * 201, "a\nb"])
async def test_an_odd_event_id_is_refused(event_id: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        await made().atrigger({}, event_id=event_id)


@pytest.mark.parametrize("body", [float("nan"), {"a": {1, 2}}, object()])
async def test_a_body_that_is_no_json_is_refused(body: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        await made().atrigger(body)


def test_a_run_can_be_the_result_of_a_task() -> None:
    run = made().run_of("57")
    again = pickle.loads(pickle.dumps(run))
    assert (again.execution_id, again.workflow.webhook) == ("57", "orders")


def test_errors_survive_a_stored_state() -> None:
    error = N8nExecutionFailed(
        "It failed.", execution_id="57", status="error", link="http://n8n/57", node="A", reason="b"
    )
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == "It failed. http://n8n/57"


def test_in_async_code_the_plain_names_are_awaited() -> None:
    async def call() -> bool:
        found = made().run_of("1").stop()
        assert inspect.iscoroutine(found)
        found.close()
        return True

    assert asyncio.run(call())


@pytest.mark.parametrize("started", [False, True])
async def test_a_start_that_is_cancelled_is_undone(
    monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """Whether the execution was known by then, or not."""
    waits, stopped = asyncio.Event(), list[str]()

    class FakeStarter:
        def __init__(self, client: object, order: Order) -> None:
            self.delivery_id = order.delivery.id()

        async def start(self) -> Started:
            return Started("57", self.delivery_id, False) if started else await self.hang()

        async def stop(self) -> None:
            stopped.append("by its delivery")

        async def hang(self, *_: object) -> Any:
            waits.set()
            await asyncio.sleep(60)

    async def astop(run: N8nWorkflowRun) -> None:
        stopped.append(run.execution_id)

    monkeypatch.setattr(starting, "Starter", FakeStarter)
    monkeypatch.setattr(N8nWorkflow, "_link", FakeStarter.hang)
    monkeypatch.setattr(N8nWorkflowRun, "astop", astop)
    trigger = asyncio.create_task(made().atrigger({}))
    await waits.wait()
    trigger.cancel()
    await asyncio.wait([trigger])
    assert trigger.cancelled()
    assert stopped == (["57"] if started else ["by its delivery"])
