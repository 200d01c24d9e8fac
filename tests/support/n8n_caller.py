"""A process that runs a flow which calls n8n, for tests that end it: ``python n8n_caller.py``.

Its environment says which flow run, block and kind of flow, and whether it kills itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_n8n import N8nWorkflow

BODY = {"order_id": "o-1"}


def die_if_told() -> None:
    """End as a machine does whose power fails."""
    if os.environ.get("CALLER_DIES") == "1":
        os.kill(os.getpid(), signal.SIGKILL)


@flow(name="n8n-caller-async")
async def async_caller(block: str) -> str:
    """Call n8n and wait."""
    workflow = await N8nWorkflow.aload(block)
    run = await workflow.atrigger(BODY)
    die_if_told()
    await run.await_for_completion()
    return run.execution_id


@flow(name="n8n-caller-sync")
def sync_caller(block: str) -> str:
    """Call n8n and wait."""
    workflow: Any = N8nWorkflow.load(block)
    run = workflow.trigger(BODY)
    die_if_told()
    run.wait_for_completion()
    return run.execution_id


CALLERS: dict[str, Flow[..., Any]] = {"async": async_caller, "sync": sync_caller}


def main() -> None:
    """Run the flow run."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(os.environ["CALLER_FLOW_RUN"]))
    kind = os.environ["CALLER_KIND"]
    done = run_flow(CALLERS[kind], flow_run=flow_run, parameters=flow_run.parameters)
    if kind == "async":
        asyncio.run(done)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
