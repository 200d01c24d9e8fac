"""Fallbacks: begun with what failed, claimed under a lease, climbed step by step.

A step's row is written before the step acts and closed after it, so that whoever takes a lost
lease over goes on where the other stopped. Claiming runs as the launcher role, over all tenants;
everything after it in the fallback's tenant, each statement guarded by the lease's owner.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit
from .claims import Claimed
from .inbox import CHANNEL
from .states import StepState


@dataclass(frozen=True, slots=True)
class BegunStep:
    """A step that was begun. ``seconds`` is its age; the child is the delivery of an endpoint step.

    Numbers are counted from 1.
    """

    number: int
    kind: str
    target: str
    state: str
    ref: str | None
    error: str | None
    seconds: float
    child_state: str | None
    child_reason: str | None


@dataclass(frozen=True, slots=True)
class Fallback:
    """A fallback under its owner's lease.

    ``step`` is how many steps are closed; ``failed_run_id`` the flow run in whose place it stands.
    """

    tenant_id: UUID
    id: UUID
    event_id: UUID
    execution_id: UUID | None
    subject_id: UUID
    redrive: int
    ladder: list[dict[str, Any]]
    step: int
    claims: int
    cause: str
    flow_run_id: UUID | None
    failed_run_id: UUID | None
    steps: tuple[BegunStep, ...]

    @property
    def begun(self) -> BegunStep | None:
        """The step that was begun and is not closed."""
        return next((s for s in self.steps if s.number == self.step + 1), None)


_BEGIN = text("""
    INSERT INTO prefect_n8n.fallbacks
        (tenant_id, id, webhook_event_id, execution_id, subject_id, redrive, ladder, cause)
    VALUES (:tenant, :id, :event, :execution, :subject, :redrive, CAST(:ladder AS jsonb), :cause)
    ON CONFLICT (tenant_id, subject_id, redrive) DO NOTHING
""")
# fall_back: where the trigger has a ladder and this run of it none yet. A run that an operator or
# another fallback started (redrive below 0) has none: fallbacks make no circle.
_FALL_BACK = text("""
    UPDATE prefect_n8n.workflow_executions x
    SET state = 'falling_back', error = :error, lease_owner = NULL, lease_expires_at = NULL
    FROM prefect_n8n.workflow_triggers t
    WHERE x.tenant_id = :tenant AND x.id = :id AND x.redrive >= 0
      AND x.finished_at IS NULL AND x.state <> 'falling_back'
      AND t.tenant_id = x.tenant_id AND t.id = x.trigger_id AND t.fallback <> '[]'::jsonb
      AND NOT EXISTS (SELECT FROM prefect_n8n.fallbacks f
                      WHERE f.tenant_id = x.tenant_id AND f.subject_id = x.id
                        AND f.redrive = x.redrive)
    RETURNING x.webhook_event_id, x.redrive, t.fallback
""")
_NOTIFY = text("SELECT pg_notify(:channel, '')")
# claim_fallbacks: due ones and lost ones, oldest first (index ix_fallbacks_due).
_CLAIM = text("""
    WITH found AS (
        SELECT tenant_id, id FROM prefect_n8n.fallbacks
        WHERE finished_at IS NULL AND (CAST(:one AS uuid) IS NULL OR id = :one)
          AND (state = 'pending' AND scheduled_at <= now()
               OR state = 'processing' AND lease_expires_at < now())
        ORDER BY scheduled_at LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE prefect_n8n.fallbacks f
    SET state = 'processing', claims = f.claims + 1, lease_owner = :owner,
        lease_expires_at = now() + make_interval(secs => :lease)
    FROM found WHERE f.tenant_id = found.tenant_id AND f.id = found.id
    RETURNING f.tenant_id, f.id, f.claims
""")
_RENEW = text("""
    UPDATE prefect_n8n.fallbacks SET lease_expires_at = now() + make_interval(secs => :lease)
    WHERE lease_owner = :owner AND finished_at IS NULL
""")
_TAKEN = text("""
    SELECT id FROM prefect_n8n.fallbacks
    WHERE finished_at IS NULL AND lease_owner <> :owner AND id = ANY(CAST(:ids AS uuid[]))
""")
# live_runs: those that a launcher is climbing in now.
_LIVE = text("""
    SELECT flow_run_id FROM prefect_n8n.fallbacks
    WHERE finished_at IS NULL AND lease_expires_at > now()
      AND flow_run_id = ANY(CAST(:runs AS uuid[]))
""")
_LOAD = text("""
    SELECT f.tenant_id, f.id, f.webhook_event_id AS event_id, f.execution_id, f.subject_id,
           f.redrive, f.ladder, f.step, f.claims, f.cause, f.flow_run_id,
           x.flow_run_id AS failed_run_id
    FROM prefect_n8n.fallbacks f
    LEFT JOIN prefect_n8n.workflow_executions x
      ON x.tenant_id = f.tenant_id AND x.id = f.execution_id
    WHERE f.tenant_id = :tenant AND f.id = :id AND f.lease_owner = :owner
""")
_STEPS = text("""
    SELECT s.number, s.kind, s.target, s.state, s.ref, s.error,
           extract(epoch FROM now() - s.started_at)::float8 AS seconds,
           c.state AS child_state, c.reason AS child_reason
    FROM prefect_n8n.fallback_steps s
    LEFT JOIN prefect_n8n.webhook_events c
      ON c.tenant_id = s.tenant_id
         AND c.id = CASE s.kind WHEN 'endpoint' THEN CAST(s.ref AS uuid) END
    WHERE s.tenant_id = :tenant AND s.fallback_id = :id ORDER BY s.number
""")
_SET_RUN = text("""
    UPDATE prefect_n8n.fallbacks SET flow_run_id = :run
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
_BEGIN_STEP = text("""
    INSERT INTO prefect_n8n.fallback_steps (tenant_id, fallback_id, number, kind, target)
    SELECT f.tenant_id, f.id, :number, :kind, :target FROM prefect_n8n.fallbacks f
    WHERE f.tenant_id = :tenant AND f.id = :id AND f.lease_owner = :owner AND f.step = :number - 1
    ON CONFLICT (tenant_id, fallback_id, number) DO NOTHING
""")
_SET_REF = text("""
    UPDATE prefect_n8n.fallback_steps s SET ref = :ref
    FROM prefect_n8n.fallbacks f
    WHERE s.tenant_id = :tenant AND s.fallback_id = :id AND s.number = :number
      AND s.state = 'started'
      AND f.tenant_id = s.tenant_id AND f.id = s.fallback_id AND f.lease_owner = :owner
""")
# next_step: the ladder goes on; what was claimed for the step before counts no more.
_NEXT_STEP = text("""
    UPDATE prefect_n8n.fallbacks SET step = :number, claims = 0
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner AND step = :number - 1
""")
_CLOSE_STEP = text("""
    UPDATE prefect_n8n.fallback_steps SET state = :state, error = :error, finished_at = now()
    WHERE tenant_id = :tenant AND fallback_id = :id AND number = :number AND state = 'started'
""")
# give_back: due again after a while. A look at something under way is no claim to count.
_GIVE_BACK = text("""
    UPDATE prefect_n8n.fallbacks
    SET state = 'pending', lease_owner = NULL, lease_expires_at = NULL, flow_run_id = NULL,
        scheduled_at = now() + make_interval(secs => :delay),
        claims = greatest(claims - CAST(:refund AS int), 0)
    WHERE tenant_id = :tenant AND id = :id AND lease_owner = :owner
""")
# wake: by the end of a delivery that a fallback waits for. One under a lease looks by itself.
_WAKE = text("""
    UPDATE prefect_n8n.fallbacks f SET scheduled_at = now()
    FROM prefect_n8n.webhook_events c
    WHERE c.tenant_id = :tenant AND c.id = :child AND f.tenant_id = c.tenant_id
      AND f.webhook_event_id = c.parent_event_id AND f.state = 'pending'
""")


async def begin(
    connection: AsyncConnection,
    tenant: UUID,
    *,
    event: UUID,
    execution: UUID | None,
    redrive: int,
    ladder: list[dict[str, Any]],
    cause: str,
    actor: str,
) -> bool:
    """Begin a fallback for an execution, or for a delivery where there is none.

    False, and nothing is written, where this run of it has had its fallback already.
    """
    id = uuid4()
    values = {
        "tenant": tenant,
        "id": id,
        "event": event,
        "execution": execution,
        "subject": execution or event,
        "redrive": redrive,
        "ladder": json.dumps(ladder),
        "cause": cause,
    }
    if not (await connection.execute(_BEGIN, values)).rowcount:
        return False
    await connection.execute(_NOTIFY, {"channel": CHANNEL})
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action="fallback.begun",
        subject=f"fallback/{id}",
        after={"event": str(event), "steps": len(ladder)},
        reason=cause,
    )
    return True


async def begin_for(
    connection: AsyncConnection, tenant: UUID, execution: UUID, error: str | None, *, actor: str
) -> bool:
    """Let an execution that failed fall back; False where its trigger has no fallback for it."""
    who = {"tenant": tenant, "id": execution}
    row = (await connection.execute(_FALL_BACK, who | {"error": error})).one_or_none()
    return row is not None and await begin(
        connection,
        tenant,
        event=row.webhook_event_id,
        execution=execution,
        redrive=row.redrive,
        ladder=row.fallback,
        cause=error or "failed",
        actor=actor,
    )


async def claim(
    connection: AsyncConnection, *, owner: str, lease: float, most: int, one: UUID | None = None
) -> list[Claimed]:
    """Claim up to ``most`` due fallbacks, or that ``one`` if it is due."""
    values = {"owner": owner, "lease": lease, "most": most, "one": one}
    rows = await connection.execute(_CLAIM, values)
    return [Claimed(row.tenant_id, row.id, row.claims) for row in rows]


async def renew(connection: AsyncConnection, *, owner: str, lease: float) -> None:
    """Extend all fallback leases of ``owner``."""
    await connection.execute(_RENEW, {"owner": owner, "lease": lease})


async def taken(connection: AsyncConnection, ids: Sequence[UUID], *, owner: str) -> set[UUID]:
    """Return those of the fallbacks that another owner holds."""
    rows = await connection.execute(_TAKEN, {"owner": owner, "ids": list(ids)})
    return {row.id for row in rows}


async def expire(connection: AsyncConnection, *, owner: str) -> None:
    """End all fallback leases of ``owner``, so that another launcher goes on at once."""
    await connection.execute(_RENEW, {"owner": owner, "lease": 0})


async def live_runs(connection: AsyncConnection, runs: Sequence[UUID]) -> set[UUID]:
    """Return those of the flow runs in which a fallback is climbed under a live lease."""
    rows = await connection.execute(_LIVE, {"runs": list(runs)})
    return {row.flow_run_id for row in rows}


async def load(
    connection: AsyncConnection, tenant: UUID, id: UUID, *, owner: str
) -> Fallback | None:
    """Return the fallback, or None where ``owner`` does not hold it."""
    who = {"tenant": tenant, "id": id}
    row = (await connection.execute(_LOAD, who | {"owner": owner})).mappings().one_or_none()
    if row is None:
        return None
    return Fallback(**row, steps=await steps_of(connection, tenant, id))


async def steps_of(connection: AsyncConnection, tenant: UUID, id: UUID) -> tuple[BegunStep, ...]:
    """Return the fallback's steps that were begun, in their order."""
    rows = await connection.execute(_STEPS, {"tenant": tenant, "id": id})
    return tuple(BegunStep(**row) for row in rows.mappings())


async def set_run(
    connection: AsyncConnection, tenant: UUID, id: UUID, run: UUID, *, owner: str
) -> bool:
    """Store which flow run climbs; False if the lease was lost."""
    values = {"tenant": tenant, "id": id, "run": run, "owner": owner}
    return (await connection.execute(_SET_RUN, values)).rowcount > 0


async def begin_step(
    connection: AsyncConnection, fallback: Fallback, *, kind: str, target: str, owner: str
) -> bool:
    """Record the next step before it acts; False where it is recorded, or the lease was lost."""
    values = _next(fallback, owner) | {"kind": kind, "target": target}
    if not (await connection.execute(_BEGIN_STEP, values)).rowcount:
        return False
    await _audit(connection, fallback, "fallback.step_begun", owner, f"{kind} {target}")
    return True


async def set_ref(connection: AsyncConnection, fallback: Fallback, ref: str, *, owner: str) -> bool:
    """Store what the next step started; False if the lease was lost."""
    values = _next(fallback, owner) | {"ref": ref}
    return (await connection.execute(_SET_REF, values)).rowcount > 0


async def close_step(
    connection: AsyncConnection,
    fallback: Fallback,
    state: StepState,
    *,
    error: str | None,
    owner: str,
) -> bool:
    """Close the step that was begun; False if the lease was lost."""
    values = _next(fallback, owner)
    if not (await connection.execute(_NEXT_STEP, values)).rowcount:
        return False
    await connection.execute(_CLOSE_STEP, values | {"state": state.value, "error": error})
    what = f"step {fallback.step + 1}" + (f": {error}" if error else "")
    await _audit(connection, fallback, f"fallback.step_{state.value}", owner, what)
    return True


async def give_back(
    connection: AsyncConnection, claimed: Claimed, *, owner: str, delay: float, counts: bool
) -> None:
    """Give the lease back, due again after ``delay`` seconds; ``counts``: the claim went wrong."""
    values = {"tenant": claimed.tenant_id, "id": claimed.id, "owner": owner, "delay": delay}
    await connection.execute(_GIVE_BACK, values | {"refund": 0 if counts else 1})


async def wake(connection: AsyncConnection, tenant: UUID, child: UUID) -> None:
    """Let the fallback that waits for this delivery look at once: it has ended."""
    done = await connection.execute(_WAKE, {"tenant": tenant, "child": child})
    if done.rowcount:
        await connection.execute(_NOTIFY, {"channel": CHANNEL})


def trail(steps: Sequence[BegunStep]) -> str:
    """What each step came to, in one line."""
    return "; ".join(f"step {s.number}, {s.kind} {s.target}: {s.error or s.state}" for s in steps)


def _next(fallback: Fallback, owner: str) -> dict[str, Any]:
    number = fallback.step + 1
    return {
        "tenant": fallback.tenant_id,
        "id": fallback.id,
        "number": number,
        "owner": owner,
    }


async def _audit(
    connection: AsyncConnection, fallback: Fallback, action: str, owner: str, reason: str
) -> None:
    await audit.record(
        connection,
        fallback.tenant_id,
        actor=f"launcher {owner}",
        action=action,
        subject=f"fallback/{fallback.id}",
        reason=reason,
    )
