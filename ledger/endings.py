"""What belongs to every end of an inbound event, in the transaction that ends it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, callbacks

CHANNEL = "prefect_n8n_ended"
"""The NOTIFY channel of ends; the payload is the event's row id."""

_NOTIFY = text("SELECT pg_notify(:channel, :event)")


async def conclude(
    connection: AsyncConnection,
    tenant: UUID,
    event: UUID,
    state: str,
    reason: str | None,
    *,
    actor: str,
) -> None:
    """Follow up the event's end: tell who waits for it, record its callback, write the audit."""
    await connection.execute(_NOTIFY, {"channel": CHANNEL, "event": str(event)})
    await callbacks.record(connection, tenant, event, actor=actor)
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"event.{state}",
        subject=f"event/{event}",
        reason=reason,
    )
