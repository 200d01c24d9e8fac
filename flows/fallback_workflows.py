"""What a fallback asks of an ``N8nWorkflow`` block, and of n8n about an execution of it."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

from prefect.blocks.core import Block

from ..blocks.arrivals import find_arrival
from ..blocks.client import N8nClient
from ..core.errors import CallFailed, N8nConflict, N8nNotFound, OutcomeUnknown


async def load(name: str) -> Any:
    """Return the ``N8nWorkflow`` block of that name.

    Raises:
        ValueError: there is none.
    """
    return await Block.aload(f"n8n-workflow/{name}")


async def find(block: Any, delivery: str, *, since: datetime) -> str | None:
    """Return the execution that a call with this delivery id started; None where there is none.

    Raises:
        OutcomeUnknown: n8n does not say whether there is one.
    """
    client: N8nClient
    async with block.credentials.get_client() as client:
        target = client.webhook_address(block.webhook)
        arrival = await find_arrival(
            client,
            target=target,
            delivery_id=delivery,
            since=since,
            workflow_id=block.workflow_id,
        )
    if arrival.verdict == "not_arrived":
        return None
    if arrival.execution is None:
        raise OutcomeUnknown(arrival.reason)
    return arrival.execution.id


async def look(name: str, execution: str) -> str | None:
    """Return why the execution has no success: empty for a success, None while it is not ended, or
    while n8n does not say."""
    block = await load(name)
    client: N8nClient
    async with block.credentials.get_client() as client:
        try:
            found = await client.execution(execution)
            if not found.ended:
                return None
            if found.status == "success":
                return ""
            found = await client.execution(execution, include_data=True)
        except N8nNotFound:
            return f"n8n does not have execution {execution} any more"
        except CallFailed:
            return None
    why = "" if found.error is None else f": {found.error.message}"
    where = "" if found.error is None or found.error.node is None else f" in {found.error.node}"
    return f"execution {execution} ended as {found.status}{where}{why}"


async def stop(name: str, execution: str) -> None:
    """Stop the execution; one that has ended, or is gone, stays as it is.

    Raises:
        CallFailed: n8n does not answer, or does not stop it.
    """
    block = await load(name)
    client: N8nClient
    async with block.credentials.get_client() as client:
        with contextlib.suppress(N8nConflict, N8nNotFound):
            await client.stop_execution(execution)
