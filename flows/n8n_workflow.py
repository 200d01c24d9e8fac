"""Run n8n workflows from Prefect: a flow of its own, and tasks for flows of yours.

``workflow`` is always the name of an ``N8nWorkflow`` block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect import flow, task

from ..blocks.workflow import N8nWorkflow, N8nWorkflowRun

if TYPE_CHECKING:
    from ..blocks.answers import Execution

Json = dict[str, Any]


@flow(name="run-n8n-workflow", validate_parameters=True)
async def run_n8n_workflow(
    workflow: str, body: Json | None = None, event_id: str | None = None
) -> list[Json]:
    """Start an n8n workflow, wait for its end, and return the items of its last node.

    Run again, it finds the execution that it started before. Cancelled or timed out, it stops it.

    Raises:
        CallFailed: the workflow was not started, or n8n was away for too long.
        N8nExecutionError: the execution did not end in success.
    """
    block = await N8nWorkflow.aload(workflow)
    run = await block.atrigger(body, event_id=event_id)
    await run.await_for_completion()
    return await run.afetch_result()


@task(name="trigger-n8n-workflow")
async def atrigger_n8n_workflow(
    workflow: str, body: Json | None = None, event_id: str | None = None
) -> str:
    """Start an n8n workflow and return the id of its execution, from async flows.

    A retry of the task returns the execution that was started before.

    Raises:
        CallFailed: the workflow was not started, or it is not known whether it was.
    """
    block = await N8nWorkflow.aload(workflow)
    return (await block.atrigger(body, event_id=event_id)).execution_id


@task(name="trigger-n8n-workflow")
def trigger_n8n_workflow(
    workflow: str, body: Json | None = None, event_id: str | None = None
) -> str:
    """Start an n8n workflow and return the id of its execution, from sync flows.

    A retry of the task returns the execution that was started before.

    Raises:
        CallFailed: the workflow was not started, or it is not known whether it was.
    """
    # Prefect's dual methods: in a sync task they return the value itself.
    block = cast(N8nWorkflow, N8nWorkflow.load(workflow))
    run = cast(N8nWorkflowRun, block.trigger(body, event_id=event_id))
    return run.execution_id


@task(name="get-n8n-execution")
async def aget_n8n_execution(workflow: str, execution_id: str) -> Json:
    """Return an execution as it is now, from async flows; see :func:`get_n8n_execution`.

    Raises:
        CallFailed: n8n was away for too long, or does not let us ask.
        N8nExecutionGone: n8n does not have it any more.
    """
    block = await N8nWorkflow.aload(workflow)
    run = block.run_of(execution_id)
    return _described(await run.afetch_execution(), run.link)


@task(name="get-n8n-execution")
def get_n8n_execution(workflow: str, execution_id: str) -> Json:
    """Return an execution as it is now; it does not wait.

    The fields: ``id``, ``status`` (n8n's, such as ``running`` or ``success``), ``ended``,
    ``started_at`` and ``stopped_at`` (ISO 8601 or None), ``link``, ``error`` (None, or ``message``,
    ``node``, ``description``), ``items`` (the JSON items of the last node that has run).

    Raises:
        CallFailed: n8n was away for too long, or does not let us ask.
        N8nExecutionGone: n8n does not have it any more.
    """
    block = cast(N8nWorkflow, N8nWorkflow.load(workflow))
    run = block.run_of(execution_id)
    return _described(cast("Execution", run.fetch_execution()), run.link)


def _described(execution: Execution, link: str | None) -> Json:
    why = execution.error
    return {
        "id": execution.id,
        "status": execution.status.value,
        "ended": execution.ended,
        "started_at": execution.started_at and execution.started_at.isoformat(),
        "stopped_at": execution.stopped_at and execution.stopped_at.isoformat(),
        "link": link,
        "error": why and {"message": why.message, "node": why.node, "description": why.description},
        "items": execution.last_output(),
    }
