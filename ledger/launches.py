"""From a claimed event to launched executions, and from their ends to the event's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, endings, fallbacks
from .claims import Claimed
from .states import EXECUTION_FINAL, ExecutionState


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of the event's endpoint."""

    id: UUID
    name: str
    types: tuple[str, ...]
    deployment: str
    parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a claimed event; ``flow_run_id`` is None until it is launched."""

    id: UUID
    trigger_id: UUID
    state: str
    flow_run_id: UUID | None
    redrive: int


_LOCK_EVENT = text("""
    SELECT e.event_id AS id, e.type, e.payload AS body, e.headers, p.slug AS endpoint,
           e.received_at, e.traceparent AS trace, e.id AS row_id, e.endpoint_id, e.redrive,
           e.errors
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = :id AND e.lease_owner = :owner
    FOR UPDATE OF e
""")
_TRIGGERS = text("""
    SELECT id, name, types, deployment, parameters FROM prefect_n8n.workflow_triggers
    WHERE tenant_id = :tenant AND endpoint_id = :endpoint AND state = 'on' ORDER BY name
""")
# plan_executions: decided once; a later claim of the same event finds the same rows.
_PLAN = text("""
    INSERT INTO prefect_n8n.workflow_executions
        (tenant_id, id, webhook_event_id, trigger_id, redrive)
    SELECT :tenant, x.id, :event, x.trigger, :redrive
    FROM unnest(CAST(:ids AS uuid[]), CAST(:triggers AS uuid[])) AS x(id, trigger)
    ON CONFLICT (tenant_id, webhook_event_id, trigger_id, redrive) DO NOTHING
""")
_PLANNED = text("""
    SELECT x.id, x.trigger_id, x.state, x.flow_run_id, x.redrive
    FROM prefect_n8n.workflow_executions x
    WHERE x.tenant_id = :tenant AND x.webhook_event_id = :event AND x.redrive = :redrive
""")
_TRIGGERS_OF_PLANNED = text("""
    SELECT t.id, t.name, t.types, t.deployment, t.parameters
    FROM prefect_n8n.workflow_triggers t
    WHERE t.tenant_id = :tenant AND t.id = ANY(CAST(:ids AS uuid[]))
""")
_LAUNCHED = text("""
    UPDATE prefect_n8n.workflow_executions x
    SET state = 'launched', flow_run_id = :run, link = :link
    FROM prefect_n8n.webhook_events e
    WHERE x.tenant_id = :tenant AND x.id = :id AND x.state = 'pending'
      AND e.tenant_id = x.tenant_id AND e.id = x.webhook_event_id AND e.lease_owner = :owner
""")
_UNLAUNCHED = text("""
    SELECT id FROM prefect_n8n.workflow_executions
    WHERE tenant_id = :tenant AND webhook_event_id = :event AND state = 'pending' ORDER BY id
""")
_REFUSED = text("""
    UPDATE prefect_n8n.workflow_executions SET state = 'dead', finished_at = now(), error = :error
    WHERE tenant_id = :tenant AND id = :id AND state = 'pending'
""")
_END_LEASE = text("""
    UPDATE prefect_n8n.webhook_events SET lease_owner = NULL, lease_expires_at = NULL
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
_FINISH = text("""
    UPDATE prefect_n8n.workflow_executions
    SET state = :state, finished_at = now(), error = :error, result = CAST(:result AS jsonb),
        started_at = coalesce(started_at, now()), lease_owner = NULL, lease_expires_at = NULL
    WHERE tenant_id = :tenant AND id = :id AND finished_at IS NULL AND state <> 'falling_back'
    RETURNING webhook_event_id
""")
_END_FALLEN = text("""
    UPDATE prefect_n8n.workflow_executions
    SET state = CASE WHEN :state = 'failed' AND flow_run_id IS NULL THEN 'dead' ELSE :state END,
        finished_at = now(), error = :error
    WHERE tenant_id = :tenant AND id = :id AND state = 'falling_back'
    RETURNING webhook_event_id
""")
_LOCK_EVENT_OF = text("""
    SELECT e.id FROM prefect_n8n.webhook_events e
    WHERE e.tenant_id = :tenant AND e.id = (
        SELECT webhook_event_id FROM prefect_n8n.workflow_executions
        WHERE tenant_id = :tenant AND id = :id)
    FOR UPDATE
""")
# sum_event: an event ends when the last of its executions has; the worst end is its own. Those of
# other redrives, or started by hand or by a fallback, do not count.
_SUM = text("""
    UPDATE prefect_n8n.webhook_events e
    SET state = s.state, finalized_at = now(), reason = s.reason
    FROM (
        SELECT CASE WHEN count(*) FILTER (WHERE x.state IN ('failed', 'dead')) > 0 THEN 'dead'
                    WHEN count(*) FILTER (WHERE x.state = 'cancelled') > 0 THEN 'cancelled'
                    ELSE 'completed' END AS state,
               coalesce(min(x.error) FILTER (WHERE x.state <> 'completed'),
                        min(x.error) FILTER (WHERE f.id IS NOT NULL)) AS reason,
               count(*) AS executions,
               count(*) FILTER (WHERE x.finished_at IS NULL) AS open
        FROM prefect_n8n.webhook_events o
        JOIN prefect_n8n.workflow_executions x
          ON x.tenant_id = o.tenant_id AND x.webhook_event_id = o.id AND x.redrive = o.redrive
        LEFT JOIN prefect_n8n.fallbacks f
          ON f.tenant_id = x.tenant_id AND f.subject_id = x.id AND f.redrive = x.redrive
        WHERE o.tenant_id = :tenant AND o.id = :id
    ) s
    WHERE e.tenant_id = :tenant AND e.id = :id AND e.state = 'processing'
      AND e.lease_owner IS NULL AND s.executions > 0 AND s.open = 0
    RETURNING e.state, e.reason
""")


async def lock_event(
    connection: AsyncConnection, event: Claimed, *, owner: str
) -> dict[str, Any] | None:
    """Lock the claimed event's row and return it, or None if the lease was lost."""
    values = {"tenant": event.tenant_id, "id": event.id, "owner": owner}
    row = (await connection.execute(_LOCK_EVENT, values)).mappings().one_or_none()
    return None if row is None else dict(row)


async def triggers_of(connection: AsyncConnection, tenant: UUID, endpoint: UUID) -> list[Trigger]:
    """Return the endpoint's triggers that are on."""
    rows = await connection.execute(_TRIGGERS, {"tenant": tenant, "endpoint": endpoint})
    return [_trigger(row) for row in rows.mappings()]


async def plan(
    connection: AsyncConnection,
    tenant: UUID,
    event: UUID,
    redrive: int,
    matched: Sequence[Trigger],
) -> list[tuple[Execution, Trigger]]:
    """Record one execution for each matched trigger, unless a former claim has decided already.

    Returns the executions decided, each with its trigger.
    """
    who = {"tenant": tenant, "event": event, "redrive": redrive}
    planned = (await connection.execute(_PLANNED, who)).mappings().all()
    if not planned and matched:
        ids = {"ids": [uuid4() for _ in matched], "triggers": [t.id for t in matched]}
        await connection.execute(_PLAN, who | ids)
        planned = (await connection.execute(_PLANNED, who)).mappings().all()
    triggers = await connection.execute(
        _TRIGGERS_OF_PLANNED, {"tenant": tenant, "ids": [row["trigger_id"] for row in planned]}
    )
    by_id = {row["id"]: _trigger(row) for row in triggers.mappings()}
    return [(Execution(**row), by_id[row["trigger_id"]]) for row in planned]


async def record_launched(
    connection: AsyncConnection,
    event: Claimed,
    execution: UUID,
    *,
    run: UUID,
    link: str | None,
    owner: str,
) -> None:
    """Store the flow run's id: from here on the execution is launched."""
    values = {"tenant": event.tenant_id, "id": execution, "run": run, "link": link, "owner": owner}
    await connection.execute(_LAUNCHED, values)


async def refuse_execution(
    connection: AsyncConnection, event: Claimed, execution: UUID, error: str, *, owner: str
) -> bool:
    """End an execution that can never be started; True where its trigger's fallback goes on."""
    who = {"tenant": event.tenant_id, "id": execution}
    actor = f"launcher {owner}"
    if await fallbacks.begin_for(connection, event.tenant_id, execution, error, actor=actor):
        return True
    await connection.execute(_REFUSED, who | {"error": error})
    return False


async def end_launch(connection: AsyncConnection, event: Claimed, *, owner: str) -> None:
    """Give up the lease: every execution of the event is launched or has ended."""
    values = {"tenant": event.tenant_id, "id": event.id, "owner": owner}
    if (await connection.execute(_END_LEASE, values)).rowcount:
        await audit.record(
            connection,
            event.tenant_id,
            actor=f"launcher {owner}",
            action="event.launched",
            subject=f"event/{event.id}",
        )
        await _sum_event(connection, event.tenant_id, event.id, actor=f"launcher {owner}")


async def bury(connection: AsyncConnection, event: Claimed, *, owner: str, reason: str) -> None:
    """End an event that cannot be launched: its unlaunched executions are dead, and so is it,
    unless a trigger's fallback goes on with it."""
    who = {"tenant": event.tenant_id, "event": event.id}
    pending = [row.id for row in await connection.execute(_UNLAUNCHED, who)]
    falling = [await refuse_execution(connection, event, x, reason, owner=owner) for x in pending]
    if any(falling):
        await end_launch(connection, event, owner=owner)
        return
    await connection.execute(
        text("""
            UPDATE prefect_n8n.webhook_events
            SET state = 'dead', finalized_at = now(), reason = :reason, lease_owner = NULL,
                lease_expires_at = NULL
            WHERE tenant_id = :tenant AND id = :event AND lease_owner = :owner
        """),
        who | {"reason": reason, "owner": owner},
    )
    await endings.conclude(
        connection, event.tenant_id, event.id, "dead", reason, actor=f"launcher {owner}"
    )


async def complete_unmatched(connection: AsyncConnection, event: Claimed, *, owner: str) -> None:
    """End an event that no trigger matches."""
    reason = "no trigger matched"
    await connection.execute(
        text("""
            UPDATE prefect_n8n.webhook_events
            SET state = 'completed', finalized_at = now(), reason = :reason, lease_owner = NULL,
                lease_expires_at = NULL
            WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
        """),
        {"tenant": event.tenant_id, "id": event.id, "owner": owner, "reason": reason},
    )
    await endings.conclude(
        connection, event.tenant_id, event.id, "completed", reason, actor=f"launcher {owner}"
    )


async def finish(
    connection: AsyncConnection,
    tenant: UUID,
    execution: UUID,
    state: ExecutionState,
    *,
    error: str | None,
    result: str | None = None,
    actor: str,
) -> bool:
    """End an execution, and its event with the last one; False if it had ended already.

    ``result`` is JSON, of what its flow returned. With ``completed``, ``error`` says why there is
    none. A failed one whose trigger has a fallback does not end yet: it falls back.
    """
    assert state in EXECUTION_FINAL
    who = {"tenant": tenant, "id": execution}
    # The event first: of two executions that end at once, the second then sees the first's end.
    await connection.execute(_LOCK_EVENT_OF, who)
    if state is ExecutionState.FAILED and await fallbacks.begin_for(
        connection, tenant, execution, error, actor=actor
    ):
        return True
    values = {"state": state.value, "error": error, "result": result}
    done = await connection.execute(_FINISH, who | values)
    event: UUID | None = done.scalar_one_or_none()
    if event is None:
        return False
    await _sum_event(connection, tenant, event, actor=actor)
    return True


async def end_fallen(
    connection: AsyncConnection,
    tenant: UUID,
    execution: UUID,
    state: ExecutionState,
    *,
    error: str,
    actor: str,
) -> None:
    """End an execution whose fallback has ended; a failed one that never had a run is dead."""
    who = {"tenant": tenant, "id": execution}
    await connection.execute(_LOCK_EVENT_OF, who)
    done = await connection.execute(_END_FALLEN, who | {"state": state.value, "error": error})
    event: UUID | None = done.scalar_one_or_none()
    if event is not None:
        await _sum_event(connection, tenant, event, actor=actor)


async def _sum_event(connection: AsyncConnection, tenant: UUID, event: UUID, *, actor: str) -> None:
    row = (await connection.execute(_SUM, {"tenant": tenant, "id": event})).one_or_none()
    if row is not None:
        await endings.conclude(connection, tenant, event, row.state, row.reason, actor=actor)


def _trigger(row: Any) -> Trigger:
    return Trigger(
        row["id"], row["name"], tuple(row["types"]), row["deployment"], row["parameters"]
    )
