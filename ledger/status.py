"""What operators ask: how many events are where, how old, who works on them, what failed last."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from .states import EventState

LAUNCHER_NAME = "prefect-n8n launcher "
"""Start of the application_name of a launcher's listening connection; its id follows."""

_COUNTS = text("""
    SELECT state, count(*) AS events FROM prefect_n8n.webhook_events
    WHERE tenant_id = :tenant GROUP BY state
""")
_OLDEST = text("""
    SELECT extract(epoch FROM now() - min(received_at))::float8
    FROM prefect_n8n.webhook_events WHERE tenant_id = :tenant AND state IN ('pending', 'retryable')
""")
_LEASES = text("""
    SELECT lease_owner AS launcher, count(*) AS leases,
           extract(epoch FROM min(lease_expires_at) - now())::float8 AS expires_in_seconds
    FROM (SELECT tenant_id, lease_owner, lease_expires_at FROM prefect_n8n.webhook_events
          WHERE lease_owner IS NOT NULL
          UNION ALL
          SELECT tenant_id, lease_owner, lease_expires_at FROM prefect_n8n.workflow_executions
          WHERE finished_at IS NULL AND lease_owner IS NOT NULL
          UNION ALL
          SELECT tenant_id, lease_owner, lease_expires_at FROM prefect_n8n.fallbacks
          WHERE finished_at IS NULL AND lease_owner IS NOT NULL) held
    WHERE tenant_id = :tenant GROUP BY lease_owner ORDER BY lease_owner
""")
_LISTENING = text("""
    SELECT DISTINCT substr(application_name, length(:prefix) + 1) FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, :prefix) ORDER BY 1
""")
_LAST_ERROR = text("""
    SELECT x.webhook_event_id AS event, x.error, x.finished_at AS at
    FROM prefect_n8n.workflow_executions x
    WHERE x.tenant_id = :tenant AND x.error IS NOT NULL AND x.state <> 'completed'
    ORDER BY x.created_at DESC LIMIT 1
""")
_EVENT = text("""
    SELECT e.id, p.slug AS endpoint, e.event_id, e.type, e.state, e.reason, e.received_at,
           e.finalized_at, e.claims, e.redrive, e.errors, e.headers, e.payload, e.traceparent,
           e.callback_url
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = :id
""")
_EXECUTIONS = text("""
    SELECT x.id, t.name AS trigger, t.deployment, x.state, x.redrive, x.flow_run_id, x.link,
           x.rescues, x.error, x.result, x.created_at, x.started_at, x.finished_at
    FROM prefect_n8n.workflow_executions x
    JOIN prefect_n8n.workflow_triggers t ON t.tenant_id = x.tenant_id AND t.id = x.trigger_id
    WHERE x.tenant_id = :tenant AND x.webhook_event_id = :id ORDER BY x.created_at, x.id
""")


_FALLBACKS = text("""
    SELECT f.id, f.execution_id, f.redrive, f.state, f.cause, f.reason, f.flow_run_id,
           f.created_at, f.finished_at,
           (SELECT coalesce(jsonb_agg(jsonb_build_object(
                       'number', s.number, 'kind', s.kind, 'target', s.target, 'state', s.state,
                       'ref', s.ref, 'error', s.error) ORDER BY s.number), '[]')
            FROM prefect_n8n.fallback_steps s
            WHERE s.tenant_id = f.tenant_id AND s.fallback_id = f.id) AS steps
    FROM prefect_n8n.fallbacks f
    WHERE f.tenant_id = :tenant AND f.webhook_event_id = :id ORDER BY f.created_at, f.id
""")


async def overview(connection: AsyncConnection, tenant: UUID) -> dict[str, Any]:
    """Return the tenant's counts by state, oldest pending age, leases, and last error."""
    who = {"tenant": tenant}
    counts = {row.state: row.events for row in await connection.execute(_COUNTS, who)}
    listening = await connection.execute(_LISTENING, {"prefix": LAUNCHER_NAME})
    leases = (await connection.execute(_LEASES, who)).mappings()
    last = (await connection.execute(_LAST_ERROR, who)).mappings().one_or_none()
    return {
        "events": {state.value: counts.get(state.value, 0) for state in EventState},
        "oldest_pending_seconds": (await connection.execute(_OLDEST, who)).scalar_one(),
        "launchers": [row[0] for row in listening],
        "leases": [dict(row) for row in leases],
        "last_error": None if last is None else dict(last),
    }


async def event_with_executions(
    connection: AsyncConnection, tenant: UUID, id: UUID
) -> dict[str, Any] | None:
    """Return one event of the tenant with its executions and fallbacks, or None."""
    who = {"tenant": tenant, "id": id}
    event = (await connection.execute(_EVENT, who)).mappings().one_or_none()
    if event is None:
        return None
    executions = (await connection.execute(_EXECUTIONS, who)).mappings()
    fallbacks = (await connection.execute(_FALLBACKS, who)).mappings()
    return dict(event) | {
        "executions": [dict(row) for row in executions],
        "fallbacks": [dict(row) for row in fallbacks],
    }
