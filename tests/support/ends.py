"""Ends of events without Prefect: their executions are launched and finished in the ledger."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.specs import Trigger
from prefect_n8n.ledger import launches
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.states import ExecutionState

_ENDPOINT = text("""
    SELECT p.slug, e.redrive FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.id = e.endpoint_id WHERE e.id = :event
""")
_PROCESSING = text("UPDATE prefect_n8n.webhook_events SET state = 'processing' WHERE id = :event")
_LAUNCH = text("""
    INSERT INTO prefect_n8n.workflow_executions
        (tenant_id, id, webhook_event_id, trigger_id, redrive, state, flow_run_id, link)
    SELECT :tenant, :id, :event, t.id, :redrive, 'launched', :run, 'http://prefect/' || t.name
    FROM prefect_n8n.workflow_triggers t WHERE t.name = :trigger
""")
_REDRIVE = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'pending', finalized_at = NULL, reason = NULL, redrive = redrive + 1
    WHERE id = :event AND finalized_at IS NOT NULL
""")


async def launch(database: Database, event: object, *triggers: str) -> list[UUID]:
    """Launch one execution for each of the triggers, which are made; return their ids."""
    ids = [uuid4() for _ in triggers]
    async with database.transaction(DEFAULT_TENANT) as connection:
        who = {"event": event}
        endpoint, redrive = (await connection.execute(_ENDPOINT, who)).one()
        for id, name in zip(ids, triggers, strict=True):
            spec = Trigger(name, endpoint, f"{name}/orders")
            await save(connection, DEFAULT_TENANT, spec, actor="test")
            values = {"id": id, "run": uuid4(), "trigger": name, "redrive": redrive}
            await connection.execute(_LAUNCH, values | who | {"tenant": DEFAULT_TENANT})
        await connection.execute(_PROCESSING, who)
    return ids


async def finish(
    database: Database,
    execution: UUID,
    state: ExecutionState = ExecutionState.COMPLETED,
    **end: Any,
) -> bool:
    """End an execution as a launcher does; ``end`` is its ``result`` (JSON) or its ``error``."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        return await launches.finish(
            connection,
            DEFAULT_TENANT,
            execution,
            state,
            actor="launcher test",
            **({"error": None} | end),
        )


async def end(
    database: Database,
    event: object,
    state: ExecutionState = ExecutionState.COMPLETED,
    **end: Any,
) -> None:
    """Launch one execution for trigger ``on_order`` and end it."""
    (execution,) = await launch(database, event, "on_order")
    assert await finish(database, execution, state, **end)


async def redrive(database: Database, event: object) -> None:
    """Send an ended event again, as an operator does."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        assert (await connection.execute(_REDRIVE, {"event": event})).rowcount == 1
