"""Callbacks: an ended event's answer as a delivery to the URL that its sender gave with it.

They go through outbound endpoints of their own, one for each credentials block: what a sender
signs with, its callback is signed with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit
from .answers import Answer, ended
from .states import EventState

logger = logging.getLogger("prefect_n8n.ledger")

ENDPOINT = "callbacks"
"""Slug of the outbound endpoint of credentials block ``default``, and how the others begin."""

TYPES = {
    EventState.COMPLETED: "flow.completed",
    EventState.DEAD: "flow.failed",
    EventState.CANCELLED: "flow.cancelled",
}

_SLUG = re.compile(r"[a-z0-9_-]{1,53}")

_BLOCKS = text("""
    SELECT DISTINCT credentials_block FROM prefect_n8n.webhook_endpoints
    WHERE tenant_id = :tenant AND id = ANY(CAST(:endpoints AS uuid[])) ORDER BY 1
""")
# ensure_callbacks: only where it is missing. An operator's changes to it stay.
_ENSURE = text("""
    INSERT INTO prefect_n8n.webhook_endpoints (tenant_id, id, slug, direction, credentials_block)
    VALUES (:tenant, :id, :slug, 'outbound', :block)
    ON CONFLICT (tenant_id, slug) DO NOTHING
""")
_OF_EVENT = text("""
    SELECT e.redrive, e.callback_url, e.traceparent, p.credentials_block
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = :id AND e.callback_url IS NOT NULL
""")
_RECORD = text("""
    SELECT row_id FROM prefect_n8n.record_delivery(
        CAST(:tenant AS uuid), :endpoint, :delivery, :type, :raw, CAST(:trace AS text), 0,
        :url, NULL, :actor)
""")


def endpoint_of(block: str) -> str:
    """Return the slug of the outbound endpoint whose deliveries are signed with ``block``."""
    if block == "default":
        return ENDPOINT
    known = _SLUG.fullmatch(block)
    return f"{ENDPOINT}-{block if known else hashlib.sha256(block.encode()).hexdigest()[:16]}"


def is_reserved(slug: str) -> bool:
    """Whether an endpoint of that slug is one of callbacks."""
    return slug == ENDPOINT or slug.startswith(f"{ENDPOINT}-")


async def prepare(
    connection: AsyncConnection, tenant: UUID, endpoints: Iterable[UUID], *, actor: str
) -> None:
    """Make the outbound endpoints for callbacks of events of these inbound ``endpoints``."""
    ids = {"tenant": tenant, "endpoints": list(endpoints)}
    for row in (await connection.execute(_BLOCKS, ids)).all():
        await _ensure(connection, tenant, row.credentials_block, actor=actor)


async def record(connection: AsyncConnection, tenant: UUID, event: UUID, *, actor: str) -> None:
    """Record the callback of an event that ends in the caller's transaction, if it has one.

    A redrive's end is another callback; any other repeat is known by its id and changes nothing.
    """
    row = (await connection.execute(_OF_EVENT, {"tenant": tenant, "id": event})).one_or_none()
    if row is None:
        return
    answer = (await ended(connection, tenant, [event]))[event]
    kind = TYPES[EventState(answer.state)]
    # Again: the inbound endpoint may have changed its block since the event came.
    endpoint = await _ensure(connection, tenant, row.credentials_block, actor=actor)
    values = {"endpoint": endpoint, "url": row.callback_url, "trace": row.traceparent}
    values |= {"delivery": f"callback:{event}:{row.redrive}", "type": kind}
    values |= {"tenant": tenant, "actor": actor, "raw": body_of(answer, kind)}
    if (await connection.execute(_RECORD, values)).one_or_none() is None:
        logger.error("event %s has no callback: %r is an inbound endpoint", event, endpoint)


def body_of(answer: Answer, type: str) -> bytes:
    """Return the callback's JSON."""
    who = {"id": answer.event_id, "event": str(answer.id), "endpoint": answer.endpoint}
    fields = who | {"type": type} | answer.outcome()
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()


async def _ensure(connection: AsyncConnection, tenant: UUID, block: str, *, actor: str) -> str:
    slug = endpoint_of(block)
    values = {"tenant": tenant, "id": uuid4(), "slug": slug, "block": block}
    if (await connection.execute(_ENSURE, values)).rowcount:
        await audit.record(
            connection,
            tenant,
            actor=actor,
            action="endpoint.saved",
            subject=f"endpoint/{slug}",
            after={"slug": slug, "direction": "outbound", "credentials_block": block},
        )
    return slug
