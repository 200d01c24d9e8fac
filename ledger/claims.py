"""The queue: events claimed under a lease, and given back. Times are the database's.

Claiming runs as the launcher role, over all tenants; everything after it in the event's tenant.
Each statement that changes a claimed event is guarded by its owner, so that a launcher that lost
its lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event under this launcher's lease; ``claims`` counts all claims of it so far."""

    tenant_id: UUID
    id: UUID
    claims: int


_TAKE = """
    UPDATE prefect_n8n.webhook_events e
    SET state = 'processing', claims = e.claims + 1, lease_owner = :owner,
        lease_expires_at = now() + make_interval(secs => :lease)
    FROM found f WHERE e.tenant_id = f.tenant_id AND e.id = f.id
    RETURNING e.tenant_id, e.id, e.claims
"""

# claim_lost: leases that ran out, oldest first (index ix_webhook_events_lease).
_CLAIM_LOST = text(f"""
    WITH found AS (
        SELECT tenant_id, id FROM prefect_n8n.webhook_events
        WHERE lease_owner IS NOT NULL AND lease_expires_at < now() AND direction = 'inbound'
        ORDER BY lease_expires_at LIMIT :most FOR UPDATE SKIP LOCKED)
    {_TAKE}
""")  # noqa: S608 - constants only

# claim_due: due events, oldest first (index ix_webhook_events_due). A paused endpoint holds its
# own, and so does one that starts a deployment which has no room now.
_CLAIM_DUE = text(f"""
    WITH found AS (
        SELECT tenant_id, id FROM prefect_n8n.webhook_events d
        WHERE direction = 'inbound' AND state IN ('pending', 'retryable') AND scheduled_at <= now()
          AND NOT EXISTS (SELECT FROM prefect_n8n.webhook_endpoints p
                          WHERE p.tenant_id = d.tenant_id AND p.id = d.endpoint_id
                            AND p.state <> 'on')
          AND NOT EXISTS (SELECT FROM prefect_n8n.workflow_triggers t
                          WHERE t.tenant_id = d.tenant_id AND t.endpoint_id = d.endpoint_id
                            AND t.state = 'on' AND t.deployment = ANY(CAST(:held AS text[])))
        ORDER BY scheduled_at LIMIT :most FOR UPDATE OF d SKIP LOCKED)
    {_TAKE}
""")  # noqa: S608 - constants only

# snooze: due again later; the claim is not counted, for nothing was wrong with the event.
_SNOOZE = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'pending', claims = claims - 1, lease_owner = NULL, lease_expires_at = NULL,
        scheduled_at = now() + make_interval(secs => :delay)
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")

# retry: the event itself could not be launched; the claim counts.
_RETRY = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'retryable', lease_owner = NULL, lease_expires_at = NULL,
        errors = (errors || CAST(:error AS text))[greatest(cardinality(errors) - 8, 1):],
        scheduled_at = now() + make_interval(secs => :delay)
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")

_RENEW = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'processing', lease_expires_at = now() + make_interval(secs => :lease)
    WHERE lease_owner = :owner
""")


async def claim(
    connection: AsyncConnection,
    *,
    owner: str,
    lease: float,
    most: int,
    held: Sequence[str] = (),
) -> list[Claimed]:
    """Claim up to ``most`` events for ``owner`` for ``lease`` seconds: lost ones first, then due
    ones. Events of endpoints that start a deployment in ``held`` stay in the inbox."""
    values = {"owner": owner, "lease": lease}
    rows = list(await connection.execute(_CLAIM_LOST, values | {"most": most}))
    if len(rows) < most:
        due = {"most": most - len(rows), "held": list(held)}
        rows += list(await connection.execute(_CLAIM_DUE, values | due))
    return [Claimed(row.tenant_id, row.id, row.claims) for row in rows]


async def renew(connection: AsyncConnection, *, owner: str, lease: float) -> None:
    """Extend all event leases of ``owner``."""
    await connection.execute(_RENEW, {"owner": owner, "lease": lease})


async def expire(connection: AsyncConnection, *, owner: str) -> None:
    """End all event leases of ``owner``, so that another launcher takes the events at once."""
    await connection.execute(_RENEW, {"owner": owner, "lease": 0})


async def snooze(connection: AsyncConnection, event: Claimed, *, owner: str, delay: float) -> None:
    """Give the event back unharmed, due again after ``delay`` seconds."""
    await connection.execute(
        _SNOOZE,
        {"tenant": event.tenant_id, "id": event.id, "owner": owner, "delay": delay},
    )


async def retry(
    connection: AsyncConnection, event: Claimed, *, owner: str, delay: float, error: str
) -> None:
    """Give the event back with an ``error``, due again after ``delay`` seconds."""
    values = {"tenant": event.tenant_id, "id": event.id, "owner": owner, "delay": delay}
    done = await connection.execute(_RETRY, values | {"error": error})
    if done.rowcount:
        await audit.record(
            connection,
            event.tenant_id,
            actor=f"launcher {owner}",
            action="event.retryable",
            subject=f"event/{event.id}",
            reason=error,
        )
