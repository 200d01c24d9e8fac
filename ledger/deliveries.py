"""The queue of deliveries: claimed endpoint by endpoint under a lease, and given back.

Claiming runs as the launcher role, over all tenants; everything after it in the delivery's tenant.
Each statement that changes a claimed delivery is guarded by its owner, so that a launcher that
lost its lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, fallbacks


@dataclass(frozen=True, slots=True)
class Group:
    """Deliveries to one endpoint under this launcher's lease; a ``probe`` tests an open breaker."""

    tenant_id: UUID
    endpoint_id: UUID
    slug: str
    deliveries: tuple[UUID, ...]
    probe: bool


# claim_endpoint: one that has deliveries due and may be called now. Any of them: none starves.
_CLAIM_ENDPOINT = text("""
    SELECT p.tenant_id, p.id, p.slug, p.breaker <> 'closed' AS probe
    FROM prefect_n8n.webhook_endpoints p
    WHERE p.direction = 'outbound' AND p.state = 'on'
      AND (p.breaker = 'closed' OR p.breaker_until <= now())
      AND p.id <> ALL (CAST(:busy AS uuid[]))
      AND EXISTS (SELECT FROM prefect_n8n.webhook_events e
                  WHERE e.tenant_id = p.tenant_id AND e.endpoint_id = p.id
                    AND e.direction = 'outbound' AND e.state IN ('pending', 'retryable')
                    AND e.scheduled_at <= now())
    ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED
""")
# claim_deliveries: due ones, oldest first (index ix_webhook_events_outbox).
_CLAIM = text("""
    WITH found AS (
        SELECT tenant_id, id FROM prefect_n8n.webhook_events
        WHERE tenant_id = :tenant AND endpoint_id = :endpoint AND direction = 'outbound'
          AND state IN ('pending', 'retryable') AND scheduled_at <= now()
        ORDER BY scheduled_at LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE prefect_n8n.webhook_events e
    SET state = 'processing', claims = e.claims + 1, lease_owner = :owner,
        lease_expires_at = now() + make_interval(secs => :lease)
    FROM found f WHERE e.tenant_id = f.tenant_id AND e.id = f.id
    RETURNING e.id
""")
# probe: the next one may go after so long, should this one be lost.
_PROBE = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET breaker = 'half_open', breaker_until = now() + make_interval(secs => :lease)
    WHERE tenant_id = :tenant AND id = :endpoint
""")
# claim_lost_deliveries: their launcher is gone; the new owner gives them back.
_CLAIM_LOST = text("""
    WITH found AS (
        SELECT tenant_id, id FROM prefect_n8n.webhook_events
        WHERE lease_owner IS NOT NULL AND lease_expires_at < now() AND direction = 'outbound'
        ORDER BY lease_expires_at LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE prefect_n8n.webhook_events e
    SET state = 'processing', lease_owner = :owner,
        lease_expires_at = now() + make_interval(secs => :lease)
    FROM found f WHERE e.tenant_id = f.tenant_id AND e.id = f.id
    RETURNING e.tenant_id, e.id
""")
_LIVE_RUNS = text("""
    SELECT flow_run_id FROM prefect_n8n.webhook_events
    WHERE lease_owner IS NOT NULL AND lease_expires_at >= now()
      AND flow_run_id = ANY (CAST(:runs AS uuid[]))
""")
_SET_RUN = text("""
    UPDATE prefect_n8n.webhook_events SET flow_run_id = :run
    WHERE tenant_id = :tenant AND id = ANY (CAST(:ids AS uuid[])) AND lease_owner = :owner
""")
# give_back: due again after a while; attempts that were spent stay spent.
_GIVE_BACK = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = CASE attempts WHEN 0 THEN 'pending' ELSE 'retryable' END, flow_run_id = NULL,
        claims = claims - CAST(:uncounted AS int), lease_owner = NULL, lease_expires_at = NULL,
        scheduled_at = now() + make_interval(secs => :delay)
    WHERE tenant_id = :tenant AND id = ANY (CAST(:ids AS uuid[])) AND lease_owner = :owner
    RETURNING id
""")
_CANCEL = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'cancelled', finalized_at = now(), reason = :reason, lease_owner = NULL,
        lease_expires_at = NULL
    WHERE tenant_id = :tenant AND id = ANY (CAST(:ids AS uuid[])) AND lease_owner = :owner
    RETURNING id
""")


async def claim(
    connection: AsyncConnection, *, owner: str, lease: float, most: int, busy: Sequence[UUID]
) -> Group | None:
    """Claim up to ``most`` due deliveries of one endpoint that is not ``busy``, as the launcher.

    None where nothing is due anywhere. Past an open breaker a single delivery goes, as a probe.
    """
    found = await connection.execute(_CLAIM_ENDPOINT, {"busy": list(busy)})
    row = found.one_or_none()
    if row is None:
        return None
    where = {"tenant": row.tenant_id, "endpoint": row.id, "lease": lease}
    values = where | {"most": 1 if row.probe else most, "owner": owner}
    claimed = tuple(each.id for each in await connection.execute(_CLAIM, values))
    if not claimed:
        return None
    if row.probe:
        await connection.execute(_PROBE, where)
    return Group(row.tenant_id, row.id, row.slug, claimed, row.probe)


async def claim_lost(
    connection: AsyncConnection, *, owner: str, lease: float, most: int
) -> dict[UUID, list[UUID]]:
    """Take over deliveries whose launcher is gone; return them by tenant, to be given back."""
    values = {"owner": owner, "lease": lease, "most": most}
    found: dict[UUID, list[UUID]] = {}
    for row in await connection.execute(_CLAIM_LOST, values):
        found.setdefault(row.tenant_id, []).append(row.id)
    return found


async def live_runs(connection: AsyncConnection, runs: Sequence[UUID]) -> set[UUID]:
    """Return those of the flow runs whose deliveries a live launcher holds, as the launcher."""
    found = await connection.execute(_LIVE_RUNS, {"runs": list(runs)})
    return {row.flow_run_id for row in found}


async def set_run(connection: AsyncConnection, group: Group, run: UUID, *, owner: str) -> None:
    """Store which flow run makes the attempts."""
    values = {"tenant": group.tenant_id, "ids": list(group.deliveries), "run": run}
    await connection.execute(_SET_RUN, values | {"owner": owner})


async def give_back(
    connection: AsyncConnection,
    tenant: UUID,
    deliveries: Sequence[UUID],
    *,
    owner: str,
    delay: float,
    counted: bool = True,
) -> list[UUID]:
    """Give back those that ``owner`` still holds, due again after ``delay`` seconds.

    A claim that was not ``counted`` leaves no trace: nothing was wrong with the delivery.
    """
    values = {"tenant": tenant, "ids": list(deliveries), "owner": owner, "delay": delay}
    done = await connection.execute(_GIVE_BACK, values | {"uncounted": 0 if counted else 1})
    return [row.id for row in done]


async def cancel(
    connection: AsyncConnection, tenant: UUID, deliveries: Sequence[UUID], *, owner: str
) -> None:
    """End those that ``owner`` still holds: an operator cancelled their flow run."""
    reason = "cancelled in Prefect"
    values = {"tenant": tenant, "ids": list(deliveries), "owner": owner, "reason": reason}
    for row in (await connection.execute(_CANCEL, values)).all():
        await fallbacks.wake(connection, tenant, row.id)
        await audit.record(
            connection,
            tenant,
            actor="prefect",
            action="event.cancelled",
            subject=f"event/{row.id}",
            reason=reason,
        )
