"""The inbox: many arrivals become rows in one statement, each known event id once, for ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, callbacks
from .states import EventState

CHANNEL = "prefect_n8n_events"
"""The NOTIFY channel that wakes launchers."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified event on its way into the inbox."""

    endpoint_id: UUID
    event_id: str
    type: str
    body: bytes
    body_hash: bytes
    headers: dict[str, str]
    traceparent: str | None
    callback_url: str | None = None
    id: UUID = field(default_factory=uuid4)

    @property
    def key(self) -> tuple[UUID, str]:
        """The dedup key within the tenant."""
        return (self.endpoint_id, self.event_id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the inbox holds for an arrival: its row, or the earlier row with the same event id."""

    id: UUID
    state: str
    duplicate: bool
    same_body: bool


# record_arrivals: RETURNING names the new rows; the others met the dedup key.
_RECORD = text("""
    INSERT INTO prefect_n8n.webhook_events
        (tenant_id, id, endpoint_id, event_id, type, body, body_hash, payload, headers, traceparent,
         callback_url)
    SELECT :tenant, a.*
    FROM unnest(CAST(:ids AS uuid[]), CAST(:endpoints AS uuid[]), CAST(:event_ids AS text[]),
                CAST(:types AS text[]), CAST(:bodies AS bytea[]), CAST(:hashes AS bytea[]),
                CAST(:payloads AS jsonb[]), CAST(:headers AS jsonb[]), CAST(:traces AS text[]),
                CAST(:callbacks AS text[])) AS a
    ON CONFLICT (tenant_id, endpoint_id, event_id) DO NOTHING
    RETURNING id
""")

# known_events: a statement of its own, so that it sees rows that another process committed while
# record_arrivals waited for them.
_KNOWN = text("""
    SELECT e.id, e.endpoint_id, e.event_id, e.body_hash, e.state
    FROM prefect_n8n.webhook_events e
    JOIN unnest(CAST(:endpoints AS uuid[]), CAST(:event_ids AS text[])) AS k(endpoint_id, event_id)
      ON e.endpoint_id = k.endpoint_id AND e.event_id = k.event_id
    WHERE e.tenant_id = :tenant
""")

_NOTIFY = text("SELECT pg_notify(:channel, '')")


async def record_arrivals(
    connection: AsyncConnection, tenant: UUID, arrivals: Sequence[Arrival]
) -> dict[UUID, Recorded]:
    """Record ``arrivals`` in the caller's transaction; return what became of each, by its id.

    Nothing is promised before the caller commits. Rows are inserted in the order of their dedup
    key, so that two processes with the same events wait for each other instead of deadlocking.
    """
    ordered = sorted(arrivals, key=lambda a: a.key)
    new = {row.id for row in await connection.execute(_RECORD, _columns(tenant, ordered))}
    outcome = {i: Recorded(i, EventState.PENDING, False, True) for i in new}
    repeated = [a for a in ordered if a.id not in new]
    if repeated:
        outcome |= await _known(connection, tenant, repeated)
    answered = {a.endpoint_id for a in ordered if a.id in new and a.callback_url is not None}
    if answered:
        await callbacks.prepare(connection, tenant, answered, actor="receiver")
    if new:
        await connection.execute(_NOTIFY, {"channel": CHANNEL})
        await audit.record(
            connection,
            tenant,
            actor="receiver",
            action="event.accepted",
            subject="webhook_events",
            after={"ids": sorted(map(str, new))},
        )
    return outcome


async def _known(
    connection: AsyncConnection, tenant: UUID, repeated: Sequence[Arrival]
) -> dict[UUID, Recorded]:
    rows = await connection.execute(
        _KNOWN,
        {
            "tenant": tenant,
            "endpoints": [a.endpoint_id for a in repeated],
            "event_ids": [a.event_id for a in repeated],
        },
    )
    known = {(row.endpoint_id, row.event_id): row for row in rows}
    return {
        a.id: Recorded(
            known[a.key].id,
            known[a.key].state,
            True,
            bytes(known[a.key].body_hash) == a.body_hash,
        )
        for a in repeated
    }


def _columns(tenant: UUID, arrivals: Sequence[Arrival]) -> dict[str, object]:
    return {
        "tenant": tenant,
        "ids": [a.id for a in arrivals],
        "endpoints": [a.endpoint_id for a in arrivals],
        "event_ids": [a.event_id for a in arrivals],
        "types": [a.type for a in arrivals],
        "bodies": [a.body for a in arrivals],
        "hashes": [a.body_hash for a in arrivals],
        "payloads": [a.body.decode() for a in arrivals],
        "headers": [json.dumps(a.headers) for a in arrivals],
        "traces": [a.traceparent for a in arrivals],
        "callbacks": [a.callback_url for a in arrivals],
    }
