"""The block N8nWorkflow on a real n8n, alone and in flows of a real Prefect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.runtime import flow_run as this_run

from prefect_n8n import (
    N8nWorkflow,
    aget_n8n_execution,
    atrigger_n8n_workflow,
    get_n8n_execution,
    run_n8n_workflow,
    trigger_n8n_workflow,
)
from prefect_n8n.core.errors import (
    CallRefused,
    N8nConflict,
    N8nExecutionCancelled,
    N8nExecutionFailed,
    N8nExecutionGone,
    N8nExecutionUnfinished,
    N8nTriggerFailed,
    N8nUnauthorized,
    OutcomeUnknown,
)
from prefect_n8n.core.settings import settings
from support.n8n import N8n, Workflow, node_of
from support.n8n_receiving import (
    STARTING,
    bare,
    before,
    failing,
    receiving,
    saved,
    sleeping,
)
from support.proxy import Proxy

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.usefixtures("calls_n8n"),
]

BODY: dict[str, Any] = {"order_id": "o-1", "name": "Zoë ☕", "lines": [{"n": 1}]}


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
async def test_start_wait_result(n8n: N8n, scheme: str) -> None:
    async with receiving(n8n, scheme=scheme) as there:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()
        result = await run.afetch_result()

    assert result == [{"delivery_id": run.delivery_id, "body": BODY}]
    assert run.link == f"{n8n.url}/workflow/{there.workflow_id}/executions/{run.execution_id}"
    assert (await there.ended()).id == run.execution_id


async def test_start_wait_result_in_sync_code(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(1)) as there:

        def work() -> tuple[str, Any]:
            run: Any = there.block.trigger(BODY)
            run.wait_for_completion()
            return run.execution_id, run.fetch_result()

        execution_id, result = await asyncio.to_thread(work)

    assert result[0]["body"] == BODY
    assert (await there.ended()).id == execution_id


async def test_a_result_that_is_not_there_yet(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        run = await there.block.atrigger(BODY)
        with pytest.raises(N8nExecutionUnfinished, match="has not ended"):
            await run.afetch_result()
        with pytest.raises(N8nExecutionUnfinished):
            await run.aretry()
        await run.astop()
        with pytest.raises(N8nExecutionCancelled, match="was stopped"):
            await run.await_for_completion()
        await run.astop()  # again: it stays as it is

    assert (await there.ended()).status == "canceled"


async def test_a_failure_says_where_and_why_and_can_be_retried(n8n: N8n) -> None:
    async with receiving(n8n, failing("No such customer")) as there:
        run = await there.block.atrigger(BODY)
        with pytest.raises(N8nExecutionFailed) as caught:
            await run.await_for_completion()
        again = await run.aretry()
        with pytest.raises(N8nExecutionFailed):
            await again.await_for_completion()
        executions = await there.executions()

    error = caught.value
    assert (error.node, error.reason) == ("Your work", "No such customer")
    assert (error.execution_id, error.status) == (run.execution_id, "error")
    assert error.link == f"{n8n.url}/workflow/{there.workflow_id}/executions/{run.execution_id}"
    assert str(error).startswith(
        f"n8n execution {run.execution_id} failed at node 'Your work': No such customer. http"
    )
    assert [(each["id"], each["retryOf"]) for each in executions] == [
        (run.execution_id, None),
        (again.execution_id, run.execution_id),
    ]


async def test_a_retry_that_takes_long_is_found_while_it_runs(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(5), call_seconds=2.0) as there:
        run = await there.block.atrigger(BODY)
        await run.astop()
        with pytest.raises(N8nExecutionCancelled):
            await run.await_for_completion()
        again = await run.aretry()
        assert not (await again.afetch_execution()).ended
        await again.await_for_completion()
        executions = await there.executions()

    assert [(each["id"], each["status"]) for each in executions] == [
        (run.execution_id, "canceled"),
        (again.execution_id, "success"),
    ]


async def test_a_time_limit_stops_the_execution(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60), timeout_seconds=1.0) as there:
        run = await there.block.atrigger(BODY)
        with pytest.raises(N8nExecutionUnfinished, match="within 1 s"):
            await run.await_for_completion()

    assert (await there.ended()).status == "canceled"


async def test_what_n8n_has_deleted_is_gone(n8n: N8n) -> None:
    async with receiving(n8n) as there:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()
        await n8n.api("DELETE", f"/executions/{run.execution_id}")
        with pytest.raises(N8nExecutionGone, match=f"execution {run.execution_id}"):
            await run.await_for_completion()
        with pytest.raises(N8nExecutionGone):
            await run.afetch_result()


async def test_a_success_is_not_retried(n8n: N8n) -> None:
    async with receiving(n8n) as there:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()
        with pytest.raises(N8nConflict, match="cannot be retried"):
            await run.aretry()


# What is no start


async def test_an_n8n_that_starts_is_waited_for(n8n: N8n) -> None:
    """It answers 200 to everything."""
    async with (
        receiving(n8n) as there,
        before(n8n.url, STARTING, STARTING) as url,
    ):
        block = there.block.model_copy(update={"webhook": f"{url}/webhook/{there.path}"})
        run = await block.atrigger(BODY)
        await run.await_for_completion()

    assert (await there.ended()).id == run.execution_id


async def test_a_swallowed_answer_starts_nothing_twice(n8n: N8n) -> None:
    async with receiving(n8n) as there, before(n8n.url, None) as url:
        block = there.block.model_copy(update={"webhook": f"{url}/webhook/{there.path}"})
        run = await block.atrigger(BODY)
        assert await run.afetch_result()

    assert (await there.ended()).id == run.execution_id


async def test_an_unpublished_workflow(n8n: N8n) -> None:
    async with receiving(n8n, start_seconds=2.0) as there:
        await there.unpublish()
        with pytest.raises(N8nTriggerFailed, match="is not registered") as caught:
            await there.block.atrigger(BODY)
        assert await there.executions() == []
    assert (caught.value.status, caught.value.target) == (404, n8n.url)


async def test_a_workflow_that_comes_up_late(n8n: N8n) -> None:
    async with receiving(n8n) as there:
        await there.unpublish()
        trigger = asyncio.create_task(there.block.atrigger(BODY))
        await asyncio.sleep(0.5)
        await n8n.publish(there.workflow_id)
        run = await trigger
        await run.await_for_completion()

    assert (await there.ended()).id == run.execution_id


async def test_another_secret_is_refused_by_the_workflow(n8n: N8n) -> None:
    async with receiving(n8n) as there:
        keys = there.block.credentials.model_copy(
            update={"webhook_secrets": [type(there.block.credentials.api_key)("x" * 30)]}
        )
        block = there.block.model_copy(update={"credentials": keys})
        with pytest.raises(N8nTriggerFailed, match="401"):
            await block.atrigger(BODY)


async def test_a_target_that_is_not_allowed(n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(n8n) as there:
        monkeypatch.delenv("PREFECT_N8N_ALLOWED_TARGETS")
        settings.cache_clear()
        with pytest.raises(CallRefused):
            await there.block.atrigger(BODY)
        assert await there.executions() == []


# Answers without an execution id


def last_node(workflow: Workflow) -> None:
    """Answer with the last node's item."""
    node_of(workflow, "Webhook")["parameters"]["responseMode"] = "lastNode"
    bare(workflow)


def at_once(workflow: Workflow) -> None:
    """Answer before anything is done, with n8n's own words."""
    node_of(workflow, "Webhook")["parameters"]["responseMode"] = "onReceived"
    bare(workflow)


@pytest.mark.parametrize("change", [last_node, at_once])
async def test_an_answer_without_an_execution_id(n8n: N8n, change: Any) -> None:
    async with receiving(n8n, sleeping(1), change=change) as there:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()

    assert (await there.ended()).id == run.execution_id


async def test_a_failure_behind_a_500_is_that_of_the_execution(n8n: N8n) -> None:
    """In "last node" mode n8n answers 500 without id and reason."""
    async with receiving(n8n, failing("No stock"), change=last_node) as there:
        run = await there.block.atrigger(BODY)
        with pytest.raises(N8nExecutionFailed, match="'Your work': No stock"):
            await run.await_for_completion()

    assert (await there.ended()).id == run.execution_id


async def test_a_last_node_that_takes_longer_than_the_call(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(4), change=last_node, call_seconds=1.0) as there:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()

    assert (await there.ended()).id == run.execution_id


async def test_without_an_api_key_what_is_not_named_is_not_known(n8n: N8n) -> None:
    async with receiving(n8n, start_seconds=1.0) as there:
        keyless = there.block.credentials.model_copy(update={"api_key": None})
        block = there.block.model_copy(update={"credentials": keyless})
        run = await block.atrigger(BODY)
        assert (run.execution_id, run.link) == ((await there.ended()).id, None)
        with pytest.raises(N8nUnauthorized):
            await run.await_for_completion()
        async with before(n8n.url, None) as url:
            block = block.model_copy(update={"webhook": f"{url}/webhook/{there.path}"})
            with pytest.raises(OutcomeUnknown):
                await block.atrigger(BODY)


async def test_n8n_may_be_away_while_it_is_waited_for(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(3)) as there, Proxy.before(n8n.url) as proxy:
        run = await there.block.atrigger(BODY)
        away = there.block.credentials.model_copy(
            update={"base_url": f"http://127.0.0.1:{proxy.port}"}
        )
        run.workflow = there.block.model_copy(update={"credentials": away})
        waiting = asyncio.create_task(run.await_for_completion())
        await asyncio.sleep(0.5)
        await proxy.stop()
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await proxy.start()
        await waiting


# In flows


async def test_in_a_flow_the_ui_links_to_the_execution(n8n: N8n, prefect: PrefectClient) -> None:
    @flow
    async def caller() -> tuple[str, str, str]:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()
        return str(this_run.id), run.execution_id, run.link or ""

    async with receiving(n8n) as there:
        flow_run, execution_id, link = await caller()

    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))  # type: ignore[arg-type]
    (artifact,) = await prefect.read_artifacts(artifact_filter=wanted)
    assert artifact.key == "n8n-execution"
    assert f"[n8n execution {execution_id}]({link})" in str(artifact.data)
    seen = (await there.ended()).output("Delivery")
    assert seen[0]["flow_run"] == flow_run


async def test_the_flow_of_the_package(n8n: N8n, prefect: PrefectClient) -> None:
    async with receiving(n8n) as there, receiving(n8n, failing()) as bad:
        result = await run_n8n_workflow(await saved(there), BODY)
        state = await run_n8n_workflow(await saved(bad), BODY, return_state=True)

    assert result[0]["body"] == BODY
    assert state.is_failed()
    assert "failed at node 'Your work'" in (state.message or "")
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    assert (await prefect.read_flow_runs(flow_run_filter=wanted))[0].name


@pytest.mark.usefixtures("prefect")
async def test_the_tasks_in_async_flows(n8n: N8n) -> None:
    @flow
    async def caller(name: str) -> dict[str, Any]:
        execution_id = await atrigger_n8n_workflow(name, BODY)
        block = await N8nWorkflow.aload(name)
        await block.run_of(execution_id).await_for_completion()
        return await aget_n8n_execution(name, execution_id)

    async with receiving(n8n) as there:
        found = await caller(await saved(there))

    assert (found["id"], found["status"], found["ended"]) == (
        (await there.ended()).id,
        "success",
        True,
    )
    assert found["items"][0]["body"] == BODY
    assert found["link"].endswith(f"/executions/{found['id']}")


@pytest.mark.usefixtures("prefect")
async def test_the_tasks_in_sync_flows(n8n: N8n) -> None:
    @flow
    def caller(name: str) -> dict[str, Any]:
        execution_id = trigger_n8n_workflow(name, BODY)
        block: Any = N8nWorkflow.load(name)
        with pytest.raises(N8nExecutionFailed):
            block.run_of(execution_id).wait_for_completion()
        return get_n8n_execution(name, execution_id)

    async with receiving(n8n, failing("On purpose")) as there:
        name = await saved(there)
        found = await asyncio.to_thread(caller, name)

    assert found["status"] == "error"
    assert found["error"]["node"] == "Your work"
    assert found["error"]["message"] == "On purpose"
    assert (await there.ended()).id == found["id"]
