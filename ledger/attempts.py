"""Attempts: a row before the wire, closed after it, and what then becomes of the delivery.

An attempt's outcome is stored first, in a transaction of its own: whatever fails afterwards, it is
known whether the target took the delivery.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, fallbacks
from .states import AttemptOutcome

MAX_STORED = 16_384
"""Bytes of an answer's body that are kept."""

LEASE_MARGIN = 15.0
"""Seconds that a lease outlasts the longest call: nobody takes a delivery that is on the wire."""


@dataclass(frozen=True, slots=True)
class Last:
    """The newest attempt of a delivery's current redrive."""

    id: UUID
    number: int
    outcome: str
    started_at: datetime
    age: float
    """Seconds since it began, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is claimed here, with what its endpoint says now."""

    tenant_id: UUID
    id: UUID
    event_id: str
    type: str
    body: bytes
    trace: str | None
    attempts: int
    claims: int
    redrive: int
    snoozes: int
    parent_event_id: UUID | None
    endpoint_id: UUID
    slug: str
    state: str
    url: str | None
    scheme: str
    scheme_options: dict[str, Any]
    credentials_block: str
    n8n_workflow_id: str | None
    timeout_seconds: float
    max_in_flight: int
    retry_policy: dict[str, Any]
    success_rule: dict[str, Any]
    on_unknown: str
    fallback: list[dict[str, Any]]
    breaker: str
    breaker_seconds: float
    """Until the breaker lets a probe through; 0 where it does now."""
    last: Last | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended; ``headers`` are redacted, ``body`` is the answer's beginning."""

    outcome: AttemptOutcome
    status: int | None = None
    headers: dict[str, str] | None = None
    body: bytes | None = None
    error: str | None = None
    seconds: float | None = None
    execution: str | None = None


# lock_delivery: the delivery with its endpoint, if its lease is still ours.
_LOCK = text("""
    SELECT e.tenant_id, e.id, e.event_id, e.type, e.body, e.traceparent AS trace, e.attempts,
           e.claims, e.redrive, e.parent_event_id, e.endpoint_id, p.slug, p.state,
           coalesce(e.target_url, p.url) AS url, p.scheme, p.scheme_options, p.credentials_block,
           p.n8n_workflow_id, p.timeout_seconds, p.max_in_flight, p.retry_policy, p.success_rule,
           p.on_unknown, p.fallback, p.breaker,
           greatest(coalesce(extract(epoch FROM p.breaker_until - now()), 0), 0)::float8
             AS breaker_seconds,
           (SELECT count(*) FROM prefect_n8n.webhook_attempts s
            WHERE s.tenant_id = e.tenant_id AND s.webhook_event_id = e.id
              AND s.redrive = e.redrive AND s.outcome = 'snoozed') AS snoozes
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = :id AND e.lease_owner = :owner
    FOR UPDATE OF e
""")
_LAST = text("""
    SELECT a.id, a.number, a.outcome, a.started_at,
           extract(epoch FROM now() - a.started_at)::float8 AS age
    FROM prefect_n8n.webhook_attempts a
    WHERE a.tenant_id = :tenant AND a.webhook_event_id = :id AND a.redrive = :redrive
    ORDER BY a.number DESC LIMIT 1
""")
# begin_attempt: before the wire. The lease is made to outlast the call.
_BEGIN = text("""
    WITH held AS (
        UPDATE prefect_n8n.webhook_events
        SET attempts = attempts + 1,
            lease_expires_at = greatest(lease_expires_at, now() + make_interval(secs => :hold))
        WHERE tenant_id = :tenant AND id = :event AND lease_owner = :owner
        RETURNING tenant_id, id, endpoint_id, redrive, flow_run_id)
    INSERT INTO prefect_n8n.webhook_attempts
        (tenant_id, id, webhook_event_id, endpoint_id, redrive, number, owner, flow_run_id)
    SELECT h.tenant_id, :id, h.id, h.endpoint_id, h.redrive,
           1 + coalesce((SELECT max(a.number) FROM prefect_n8n.webhook_attempts a
                         WHERE a.tenant_id = h.tenant_id AND a.webhook_event_id = h.id), 0),
           :owner, h.flow_run_id
    FROM held h
    RETURNING number
""")
# close_attempt: after the wire, or once n8n was asked. A closed one is not changed but for unknown.
_CLOSE = text("""
    UPDATE prefect_n8n.webhook_attempts
    SET outcome = :outcome, status = coalesce(:status, status),
        headers = coalesce(CAST(:headers AS jsonb), headers), body = coalesce(:body, body),
        error = coalesce(:error, error), seconds = coalesce(:seconds, seconds),
        n8n_execution_id = coalesce(:execution, n8n_execution_id), finished_at = now()
    WHERE tenant_id = :tenant AND id = :id AND outcome IN ('open', 'unknown')
""")
_COMPLETE = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'completed', finalized_at = now(), reason = NULL, lease_owner = NULL,
        lease_expires_at = NULL
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
_BURY = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'dead', finalized_at = now(), reason = :reason, lease_owner = NULL,
        lease_expires_at = NULL,
        errors = (errors || CAST(:reason AS text))[greatest(cardinality(errors) - 8, 1):]
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
# hand_over: its fallback goes on with it, and ends it.
_HAND_OVER = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = 'processing', lease_owner = NULL, lease_expires_at = NULL,
        errors = (errors || CAST(:reason AS text))[greatest(cardinality(errors) - 8, 1):]
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
# reschedule: the claim came to an end, so it is not counted; a refunded attempt is not either.
_RESCHEDULE = text("""
    UPDATE prefect_n8n.webhook_events
    SET state = CASE attempts - CAST(:refund AS int) WHEN 0 THEN 'pending' ELSE 'retryable' END,
        attempts = attempts - CAST(:refund AS int), claims = claims - 1, lease_owner = NULL,
        lease_expires_at = NULL, flow_run_id = NULL,
        errors = CASE WHEN CAST(:error AS text) IS NULL THEN errors
                 ELSE (errors || CAST(:error AS text))[greatest(cardinality(errors) - 8, 1):] END,
        scheduled_at = now() + make_interval(secs => :delay)
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")


async def lock(
    connection: AsyncConnection, tenant: UUID, id: UUID, *, owner: str
) -> Delivery | None:
    """Lock a claimed delivery's row and return it, or None if the lease was lost."""
    who = {"tenant": tenant, "id": id}
    found = await connection.execute(_LOCK, who | {"owner": owner})
    row = found.mappings().one_or_none()
    if row is None:
        return None
    newest = await connection.execute(_LAST, who | {"redrive": row["redrive"]})
    last = newest.mappings().one_or_none()
    columns: dict[str, Any] = {**row, "body": bytes(row["body"])}
    return Delivery(**columns, last=None if last is None else Last(**last))


async def begin(connection: AsyncConnection, delivery: Delivery, *, owner: str) -> tuple[UUID, int]:
    """Write the attempt's row and hold the lease for the longest call; return (id, number)."""
    id = uuid4()
    values = {
        "tenant": delivery.tenant_id,
        "event": delivery.id,
        "id": id,
        "owner": owner,
        "hold": delivery.timeout_seconds + LEASE_MARGIN,
    }
    return id, (await connection.execute(_BEGIN, values)).scalar_one()


async def close(connection: AsyncConnection, tenant: UUID, id: UUID, end: Outcome) -> None:
    """Store how the attempt ended."""
    await connection.execute(
        _CLOSE,
        {
            "tenant": tenant,
            "id": id,
            "outcome": end.outcome.value,
            "status": end.status,
            "headers": None if end.headers is None else json.dumps(end.headers),
            "body": None if end.body is None else end.body[:MAX_STORED],
            "error": None if end.error is None else end.error.replace("\x00", ""),
            "seconds": end.seconds,
            "execution": end.execution,
        },
    )


async def complete(connection: AsyncConnection, delivery: Delivery, *, owner: str) -> bool:
    """End the delivery: its target took it. False if the lease was lost."""
    return await _end(connection, _COMPLETE, delivery, "completed", None, owner)


async def bury(connection: AsyncConnection, delivery: Delivery, *, owner: str, reason: str) -> bool:
    """End the delivery: no attempt will do. False if the lease was lost."""
    return await _end(connection, _BURY, delivery, "dead", reason, owner)


async def hand_over(
    connection: AsyncConnection, delivery: Delivery, *, owner: str, reason: str
) -> bool:
    """Leave the delivery to its fallback. False if the lease was lost."""
    return await _end(connection, _HAND_OVER, delivery, "falling_back", reason, owner)


async def reschedule(
    connection: AsyncConnection,
    delivery: Delivery,
    *,
    owner: str,
    delay: float,
    error: str | None = None,
    refund: bool = False,
) -> None:
    """Give the delivery back, due again after ``delay`` seconds.

    ``error`` is what the last attempt came to, None where none was made; ``refund`` takes the last
    attempt back: its target asked for patience.
    """
    values = {"tenant": delivery.tenant_id, "id": delivery.id, "owner": owner, "delay": delay}
    values |= {"error": error, "refund": int(refund)}
    if (await connection.execute(_RESCHEDULE, values)).rowcount and error is not None:
        await _audit(connection, delivery, "event.retryable", error, owner)


async def _end(
    connection: AsyncConnection,
    statement: Any,
    delivery: Delivery,
    state: str,
    reason: str | None,
    owner: str,
) -> bool:
    values = {"tenant": delivery.tenant_id, "id": delivery.id, "owner": owner}
    if reason is not None:
        values["reason"] = reason
    if not (await connection.execute(statement, values)).rowcount:
        return False
    if delivery.parent_event_id is not None:
        await fallbacks.wake(connection, delivery.tenant_id, delivery.id)
    await _audit(connection, delivery, f"event.{state}", reason, owner)
    return True


async def _audit(
    connection: AsyncConnection, delivery: Delivery, action: str, reason: str | None, owner: str
) -> None:
    await audit.record(
        connection,
        delivery.tenant_id,
        actor=f"launcher {owner}",
        action=action,
        subject=f"event/{delivery.id}",
        reason=reason,
    )
