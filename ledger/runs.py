"""Leases on executions: which runner runs a flow run, and which runs were lost with theirs.

These statements run as the launcher role, over all tenants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that has a flow run and has not ended."""

    tenant_id: UUID
    id: UUID
    flow_run_id: UUID
    state: str
    leased: bool
    rescues: int


_COLUMNS = "tenant_id, id, flow_run_id, state, lease_owner IS NOT NULL AS leased, rescues"

_SET_LEASE = """
    UPDATE prefect_n8n.workflow_executions
    SET state = 'running', started_at = coalesce(started_at, now()), lease_owner = :owner,
        lease_expires_at = now() + make_interval(secs => :lease)
    WHERE flow_run_id = :run AND finished_at IS NULL AND state <> 'falling_back'
"""
# take: one runner wins. A lost lease is not for the taking: its run may have ended in Prefect.
_TAKE = text(f"{_SET_LEASE} AND lease_owner IS NULL RETURNING {_COLUMNS}")
# take_over: one reconciler wins a lost lease.
_TAKE_OVER = text(
    f"{_SET_LEASE} AND lease_owner IS NOT NULL AND lease_expires_at < now() RETURNING {_COLUMNS}"
)
_RENEW = text("""
    UPDATE prefect_n8n.workflow_executions
    SET lease_expires_at = now() + make_interval(secs => :lease)
    WHERE lease_owner = :owner AND finished_at IS NULL
    RETURNING flow_run_id
""")
_RELEASE = text("""
    UPDATE prefect_n8n.workflow_executions
    SET state = 'launched', lease_owner = NULL, lease_expires_at = NULL
    WHERE flow_run_id = :run AND lease_owner = :owner AND finished_at IS NULL
""")
_EXPIRE = text("""
    UPDATE prefect_n8n.workflow_executions SET lease_expires_at = now()
    WHERE lease_owner = :owner AND finished_at IS NULL
      AND (CAST(:run AS uuid) IS NULL OR flow_run_id = :run)
""")
# open_runs: lost leases, and unleased runs that someone else may have ended (index
# ix_workflow_executions_run).
_OPEN = text(f"""
    SELECT {_COLUMNS} FROM prefect_n8n.workflow_executions
    WHERE finished_at IS NULL AND flow_run_id IS NOT NULL AND state <> 'falling_back'
      AND (lease_owner IS NULL OR lease_expires_at < now())
      AND (CAST(:after AS uuid) IS NULL OR flow_run_id > :after)
    ORDER BY flow_run_id LIMIT :most
""")  # noqa: S608 - constants only
# rescue: by the launcher that took the lost lease over, once Prefect has the run Scheduled again.
_RESCUE = text("""
    UPDATE prefect_n8n.workflow_executions
    SET state = 'launched', rescues = rescues + 1, lease_owner = NULL, lease_expires_at = NULL
    WHERE flow_run_id = :run AND lease_owner = :owner AND finished_at IS NULL
""")


async def take(connection: AsyncConnection, run: UUID, *, owner: str, lease: float) -> Run | None:
    """Lease the flow run's execution, or None: not ours, ended, or under a lease."""
    values = {"run": run, "owner": owner, "lease": lease}
    row = (await connection.execute(_TAKE, values)).mappings().one_or_none()
    return None if row is None else Run(**row)


async def take_over(connection: AsyncConnection, run: UUID, *, owner: str, lease: float) -> bool:
    """Lease an execution whose lease ran out; False if another was quicker."""
    values = {"run": run, "owner": owner, "lease": lease}
    return (await connection.execute(_TAKE_OVER, values)).rowcount > 0


async def renew(connection: AsyncConnection, *, owner: str, lease: float) -> set[UUID]:
    """Extend all run leases of ``owner``; return the flow runs it still holds."""
    rows = await connection.execute(_RENEW, {"owner": owner, "lease": lease})
    return {row.flow_run_id for row in rows}


async def release(connection: AsyncConnection, run: UUID, *, owner: str) -> None:
    """Give the lease back: the run is not being executed any more and has not ended."""
    await connection.execute(_RELEASE, {"run": run, "owner": owner})


async def expire(connection: AsyncConnection, *, owner: str, run: UUID | None = None) -> None:
    """End the owner's lease on ``run``, or all of its leases, so that a rescue comes at once."""
    await connection.execute(_EXPIRE, {"owner": owner, "run": run})


async def open_runs(
    connection: AsyncConnection, *, most: int, after: UUID | None = None
) -> Sequence[Run]:
    """Return runs that no live runner of ours holds, in the order of their flow run's id."""
    rows = await connection.execute(_OPEN, {"most": most, "after": after})
    return [Run(**row) for row in rows.mappings()]


async def rescue(connection: AsyncConnection, run: UUID, *, owner: str) -> None:
    """Give back the lease of a lost run that may now be run again, and count that."""
    await connection.execute(_RESCUE, {"run": run, "owner": owner})
