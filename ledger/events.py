"""One event as its flow needs it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_LOAD = text("""
    SELECT e.event_id AS id, e.type, e.payload AS body, e.headers, p.slug AS endpoint,
           e.received_at, e.traceparent AS trace, e.id AS row_id
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = :id
""")


async def load(connection: AsyncConnection, tenant: UUID, id: UUID) -> dict[str, Any] | None:
    """Return the event's columns under the names of ``flows.event.WebhookEvent``, or None."""
    row = (await connection.execute(_LOAD, {"tenant": tenant, "id": id})).mappings().one_or_none()
    return None if row is None else dict(row)


_RAW = text("""
    SELECT e.body, e.type, e.traceparent AS trace FROM prefect_n8n.webhook_events e
    WHERE e.tenant_id = :tenant AND e.id = :id
""")


async def load_raw(
    connection: AsyncConnection, tenant: UUID, id: UUID
) -> tuple[bytes, str, str | None]:
    """Return the event's body byte for byte, its type and its ``traceparent``."""
    row = (await connection.execute(_RAW, {"tenant": tenant, "id": id})).one()
    return bytes(row.body), row.type, row.trace
