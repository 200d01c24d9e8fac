"""The end of a fallback, and with it of what failed: a delivery or an execution."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, fallbacks, launches
from .states import ExecutionState, FallbackState

MAX_REASON = 2_000

_LOCK = text("""
    SELECT webhook_event_id, execution_id, redrive, cause FROM prefect_n8n.fallbacks
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner AND finished_at IS NULL
    FOR UPDATE
""")
_END = text("""
    UPDATE prefect_n8n.fallbacks
    SET state = :state, reason = :reason, finished_at = now(), lease_owner = NULL,
        lease_expires_at = NULL
    WHERE tenant_id = :tenant AND id = :id
""")
# cut_steps: the fallback ended while a step was under way.
_CUT_STEPS = text("""
    UPDATE prefect_n8n.fallback_steps
    SET state = 'failed', error = 'cut short', finished_at = now()
    WHERE tenant_id = :tenant AND fallback_id = :id AND state = 'started'
""")
_END_DELIVERY = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = :state, reason = :reason, finalized_at = now()
    WHERE tenant_id = :tenant AND id = :event AND redrive = :redrive AND direction = 'outbound'
      AND state = 'processing' AND lease_owner IS NULL
""")
# cancel_child: a delivery that nobody is making at this moment.
_CANCEL_CHILD = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'cancelled', finalized_at = now(), lease_owner = NULL, lease_expires_at = NULL,
        reason = 'not delivered within the time of its fallback step'
    WHERE tenant_id = :tenant AND id = :child AND parent_event_id IS NOT NULL
      AND (state IN ('pending', 'retryable')
           OR state = 'processing' AND coalesce(lease_expires_at < now(), true))
""")


async def end(
    connection: AsyncConnection,
    tenant: UUID,
    id: UUID,
    state: FallbackState,
    *,
    by: str | None = None,
    owner: str,
) -> bool:
    """End the fallback and its subject; False if the lease was lost.

    ``by`` says what saved the subject, or why the ladder was left early. The subject keeps the
    cause; a dead one also says what every step came to.
    """
    who = {"tenant": tenant, "id": id}
    row = (await connection.execute(_LOCK, who | {"owner": owner})).one_or_none()
    if row is None:
        return False
    await connection.execute(_CUT_STEPS, who)
    trail = fallbacks.trail(await fallbacks.steps_of(connection, tenant, id))
    saved = state is FallbackState.COMPLETED
    parts = [by] if saved else [by, f"fallback: {trail}" if trail else None]
    reason = "; ".join(part for part in parts if part)[:MAX_REASON]
    await connection.execute(_END, who | {"state": state.value, "reason": reason})
    actor = f"launcher {owner}"
    text_of = f"{row.cause}; {reason}"[:MAX_REASON] if reason else row.cause
    if row.execution_id is not None:
        end = ExecutionState.COMPLETED if saved else ExecutionState.FAILED
        await launches.end_fallen(
            connection, tenant, row.execution_id, end, error=text_of, actor=actor
        )
    else:
        why = reason if saved else text_of
        event = {"event": row.webhook_event_id, "redrive": row.redrive, "reason": why}
        await _end_delivery(connection, tenant, state.value, event, actor=actor)
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"fallback.{state.value}",
        subject=f"fallback/{id}",
        reason=reason,
    )
    return True


async def cancel_child(
    connection: AsyncConnection, tenant: UUID, child: UUID, *, owner: str
) -> None:
    """Cancel a step's delivery, unless it has ended or is being made at this moment."""
    done = await connection.execute(_CANCEL_CHILD, {"tenant": tenant, "child": child})
    if done.rowcount:
        await audit.record(
            connection,
            tenant,
            actor=f"launcher {owner}",
            action="event.cancelled",
            subject=f"event/{child}",
            reason="its fallback step took too long",
        )


async def _end_delivery(
    connection: AsyncConnection,
    tenant: UUID,
    state: str,
    event: Mapping[str, object],
    *,
    actor: str,
) -> None:
    done = await connection.execute(_END_DELIVERY, {"tenant": tenant, "state": state, **event})
    if done.rowcount:
        await audit.record(
            connection,
            tenant,
            actor=actor,
            action=f"event.{state}",
            subject=f"event/{event['event']}",
            reason=str(event["reason"]),
        )
