"""Runs that an operator starts in the Prefect UI: by hand, or again after their end."""

from __future__ import annotations

from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit

_KNOWN = text("""
    SELECT id FROM prefect_n8n.workflow_executions
    WHERE tenant_id = :tenant AND flow_run_id = :run
""")
_REOPEN = text("""
    UPDATE prefect_n8n.workflow_executions
    SET state = 'launched', finished_at = NULL, error = NULL, result = NULL
    WHERE tenant_id = :tenant AND flow_run_id = :run AND finished_at IS NOT NULL
    RETURNING webhook_event_id, redrive
""")
# reopen_event: only of its newest redrive; older runs do not change what the event came to.
_REOPEN_EVENT = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'processing', finalized_at = NULL, reason = NULL
    WHERE tenant_id = :tenant AND id = :event AND redrive = :redrive
      AND state IN ('completed', 'dead', 'cancelled')
""")
# adopt: a redrive number below all others, so that it never meets one that a redrive gives out.
_ADOPT = text("""
    INSERT INTO prefect_n8n.workflow_executions
        (tenant_id, id, webhook_event_id, trigger_id, redrive, state, flow_run_id, link)
    SELECT :tenant, :id, e.id, t.id,
           least((SELECT min(x.redrive) FROM prefect_n8n.workflow_executions x
                  WHERE x.tenant_id = e.tenant_id AND x.webhook_event_id = e.id
                    AND x.trigger_id = t.id), 0) - 1,
           'launched', :run, :link
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.workflow_triggers t
      ON t.tenant_id = e.tenant_id
         AND (t.endpoint_id = e.endpoint_id OR CAST(:anywhere AS boolean))
    WHERE e.tenant_id = :tenant AND e.id = :event AND t.deployment = :deployment
    ORDER BY t.name LIMIT 1
    ON CONFLICT DO NOTHING
""")


async def is_known(connection: AsyncConnection, tenant: UUID, run: UUID) -> bool:
    """Whether an execution has this flow run."""
    return (await connection.execute(_KNOWN, {"tenant": tenant, "run": run})).rowcount > 0


async def reopen(connection: AsyncConnection, tenant: UUID, run: UUID) -> bool:
    """Open the ended execution of a flow run that Prefect has scheduled again."""
    done = await connection.execute(_REOPEN, {"tenant": tenant, "run": run})
    row = done.one_or_none()
    if row is None:
        return False
    event = {"event": row.webhook_event_id, "redrive": row.redrive}
    await connection.execute(_REOPEN_EVENT, {"tenant": tenant} | event)
    await _audit(connection, tenant, "execution.reopened", run)
    return True


async def adopt(
    connection: AsyncConnection,
    tenant: UUID,
    run: UUID,
    *,
    event: UUID,
    deployment: str,
    link: str | None,
    anywhere: bool = False,
) -> bool:
    """Record a flow run that was started by hand for an event; False if the event is not known,
    or the deployment is not one of its endpoint's triggers (``anywhere``: of any, as a fallback
    chooses). The event's own state stays."""
    values = {"event": event, "deployment": deployment, "link": link, "run": run}
    values |= {"anywhere": anywhere}
    done = await connection.execute(_ADOPT, {"tenant": tenant, "id": uuid4()} | values)
    if not done.rowcount:
        return False
    await _audit(connection, tenant, "execution.adopted", run)
    return True


async def _audit(connection: AsyncConnection, tenant: UUID, action: str, run: UUID) -> None:
    await audit.record(
        connection,
        tenant,
        actor="prefect",
        action=action,
        subject=f"flow-run/{run}",
        reason="started in Prefect",
    )
