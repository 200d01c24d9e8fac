"""A run that is tried again finds the n8n execution that it started: n8n runs once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import PrefectClient
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from prefect_n8n import run_n8n_workflow
from prefect_n8n.blocks.workflow import N8nWorkflowRun
from prefect_n8n.core.errors import N8nExecutionFailed
from support import n8n_caller
from support.bridge import until
from support.n8n import N8n
from support.n8n_receiving import failing, receiving, saved, sleeping
from support.prefect_server import die_with_parent

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.usefixtures("calls_n8n", "prefect"),
]

BODY: dict[str, Any] = {"order_id": "o-1"}


class Lost(Exception):
    """What a test's own code fails with after it has called n8n."""


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
async def test_a_retried_task_finds_its_execution(n8n: N8n, scheme: str) -> None:
    runs: list[N8nWorkflowRun] = []

    @task(retries=2, retry_delay_seconds=0)
    async def send() -> Any:
        runs.append(await there.block.atrigger(BODY))
        if len(runs) < 3:
            raise Lost
        await runs[-1].await_for_completion()
        return await runs[-1].afetch_result()

    @flow
    async def caller() -> Any:
        return await send()

    async with receiving(n8n, sleeping(3), scheme=scheme) as there:
        result = await caller()

    assert result[0]["body"] == BODY
    assert {run.execution_id for run in runs} == {(await there.ended()).id}
    assert [run.reattached for run in runs] == [False, True, True]
    assert len({run.delivery_id for run in runs}) == 1


async def test_a_retried_task_of_a_sync_flow_finds_its_execution(n8n: N8n) -> None:
    runs: list[Any] = []

    @task(retries=1, retry_delay_seconds=0)
    def send() -> Any:
        runs.append(there.block.trigger(BODY))
        if len(runs) < 2:
            raise Lost
        runs[-1].wait_for_completion()
        return runs[-1].fetch_result()

    @flow
    def caller() -> Any:
        return send()

    async with receiving(n8n) as there:
        result = await asyncio.to_thread(caller)

    assert result[0]["body"] == BODY
    assert {run.execution_id for run in runs} == {(await there.ended()).id}


async def test_a_retried_flow_finds_its_executions_in_their_order(n8n: N8n) -> None:
    """Two equal calls are two executions, in each attempt the same two."""
    attempts: list[list[str]] = []

    @flow(retries=1, retry_delay_seconds=0)
    async def caller() -> None:
        runs = [await there.block.atrigger(body) for body in (BODY, BODY, BODY | {"n": 2})]
        attempts.append([run.execution_id for run in runs])
        if len(attempts) < 2:
            raise Lost

    async with receiving(n8n) as there:
        await caller()
        executions = await there.executions()

    first, second = attempts
    assert first == second == [each["id"] for each in executions]
    assert len(set(first)) == 3


async def test_equal_tasks_keep_their_own_executions(n8n: N8n) -> None:
    found: dict[int, list[str]] = {0: [], 1: [], 2: []}

    @task(retries=1, retry_delay_seconds=0)
    async def send(number: int) -> None:
        run = await there.block.atrigger(BODY)
        found[number].append(run.execution_id)
        if len(found[number]) < 2:
            raise Lost

    @flow
    async def caller() -> None:
        futures = send.map([0, 1, 2])
        for future in futures:
            await asyncio.to_thread(future.result)

    async with receiving(n8n) as there:
        await caller()
        executions = await there.executions()

    assert all(first == second for first, second in found.values())
    assert {first for first, _ in found.values()} == {each["id"] for each in executions}
    assert len(executions) == 3


async def test_after_a_failure_in_n8n_a_retry_starts_anew(n8n: N8n) -> None:
    runs: list[N8nWorkflowRun] = []

    @task(retries=2, retry_delay_seconds=0)
    async def send() -> None:
        runs.append(await there.block.atrigger(BODY))
        await runs[-1].await_for_completion()

    @flow
    async def caller() -> None:
        await send()

    async with receiving(n8n, failing()) as there:
        with pytest.raises(N8nExecutionFailed):
            await caller()
        executions = await there.executions()

    assert [run.execution_id for run in runs] == [each["id"] for each in executions]
    base = runs[0].delivery_id
    assert [run.delivery_id for run in runs] == [base, f"{base}.2", f"{base}.3"]


async def test_a_given_event_id_is_the_delivery_id(n8n: N8n) -> None:
    runs: list[N8nWorkflowRun] = []
    event_id = f"order-{uuid4().hex}"

    @flow(retries=1, retry_delay_seconds=0)
    async def caller() -> None:
        runs.append(await there.block.atrigger(BODY, event_id=event_id))
        if len(runs) < 2:
            raise Lost

    async with receiving(n8n) as there:
        await caller()

    execution = await there.ended()
    assert [run.execution_id for run in runs] == [execution.id] * 2
    assert execution.output("Delivery")[0]["delivery_id"] == event_id


@pytest.mark.parametrize("named", [False, True], ids=["by its path", "by its id"])
async def test_the_workflow_is_found(n8n: N8n, named: bool) -> None:
    """Beside another one: its executions are not looked at."""
    runs: list[N8nWorkflowRun] = []

    @flow(retries=1, retry_delay_seconds=0)
    async def caller() -> None:
        await other.block.atrigger(BODY)
        runs.append(await block.atrigger(BODY))
        if len(runs) < 2:
            raise Lost

    async with receiving(n8n) as there, receiving(n8n) as other:
        id = there.workflow_id if named else None
        block = there.block.model_copy(update={"workflow_id": id})
        await caller()
        assert len(await other.executions()) == 1

    assert [run.reattached for run in runs] == [False, True]
    assert {run.execution_id for run in runs} == {(await there.ended()).id}


# Killed


@contextmanager
def caller_process(
    kind: str, flow_run: UUID, folder: Path, api: str, *, dies: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the flow run in a process of its own."""
    env = os.environ | {
        "PREFECT_API_URL": api,
        "CALLER_KIND": kind,
        "CALLER_FLOW_RUN": str(flow_run),
        "CALLER_DIES": "1" if dies else "0",
    }
    with (folder / "caller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, n8n_caller.__file__],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process's end; return its code."""
    return await asyncio.wait_for(asyncio.to_thread(process.wait), 60)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_run_that_was_killed_finds_its_execution(
    n8n: N8n, prefect: PrefectClient, prefect_api: str, tmp_path: Path, kind: str
) -> None:
    async with receiving(n8n, sleeping(2)) as there:
        name = await saved(there)
        made = await prefect.create_flow_run(n8n_caller.CALLERS[kind], parameters={"block": name})
        with caller_process(kind, made.id, tmp_path, prefect_api, dies=True) as first:
            assert await end_of(first) == -signal.SIGKILL
        left = await prefect.read_flow_run(made.id)
        assert left.state is not None
        assert left.state.is_running(), (tmp_path / "caller.log").read_text()

        # As our launcher does with a lost run.
        await prefect.set_flow_run_state(made.id, Scheduled(name="AwaitingRetry"))
        with caller_process(kind, made.id, tmp_path, prefect_api) as second:
            await end_of(second)
        ended = await prefect.read_flow_run(made.id)

    assert ended.state is not None
    assert ended.state.is_completed(), (tmp_path / "caller.log").read_text()
    assert ended.run_count == 2
    assert (await there.ended()).status == "success"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_run_that_gets_sigterm_stops_its_execution(
    n8n: N8n, prefect: PrefectClient, prefect_api: str, tmp_path: Path, kind: str
) -> None:
    """So Prefect's workers cancel a run."""
    async with receiving(n8n, sleeping(60)) as there:
        name = await saved(there)
        made = await prefect.create_flow_run(n8n_caller.CALLERS[kind], parameters={"block": name})
        with caller_process(kind, made.id, tmp_path, prefect_api) as process:
            await until(there.executions, what="an execution", seconds=60)
            await asyncio.sleep(1)
            process.terminate()
            await end_of(process)
        assert (await there.ended()).status == "canceled", (tmp_path / "caller.log").read_text()


async def test_the_flow_of_the_package_finds_its_execution(
    n8n: N8n, prefect: PrefectClient
) -> None:
    """After it has been run whole: *Retry* in the Prefect UI."""
    async with receiving(n8n) as there:
        state = await run_n8n_workflow(await saved(there), BODY, return_state=True)
        first = await state.result()
        id = state.state_details.flow_run_id
        assert id is not None
        await prefect.set_flow_run_state(id, Scheduled(name="AwaitingRetry"), force=True)
        flow_run = await prefect.read_flow_run(id)
        again = await run_flow_async(
            run_n8n_workflow, flow_run=flow_run, parameters=flow_run.parameters
        )

    assert again == first
    assert (await there.ended()).status == "success"
