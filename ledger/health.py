"""The health of an outbound endpoint, agreed on by all replicas: breaker, failing, disabled.

A breaker opens after ``CONSECUTIVE`` failures in a row, or once ``SHARE`` of at least ``MIN_CALLS``
calls within ``WINDOW_SECONDS`` failed; ``OPEN_SECONDS`` later one delivery probes.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit

CONSECUTIVE = 10
MIN_CALLS = 10
SHARE = 0.7
WINDOW_SECONDS = 300
OPEN_SECONDS = 30
FAILING_AFTER = 4
DISABLED_AFTER_SECONDS = 432_000
"""Five days of nothing but failure."""


class Change(StrEnum):
    """What an attempt changed about its endpoint."""

    FAILING = "failing"
    OPENED = "breaker_opened"
    RECOVERED = "recovered"
    DISABLED = "disabled"


# succeeded: nothing is written while all is well, so that calls do not queue for the row.
_SUCCEEDED = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET failures = 0, failing_since = NULL, breaker = 'closed', breaker_until = NULL
    WHERE tenant_id = :tenant AND id = :endpoint AND (failures > 0 OR breaker <> 'closed')
    RETURNING slug, :failing <= (SELECT o.failures FROM prefect_n8n.webhook_endpoints o
                                 WHERE o.tenant_id = :tenant AND o.id = :endpoint) AS was_failing
""")
_FAILED = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET failures = failures + 1, failing_since = coalesce(failing_since, now())
    WHERE tenant_id = :tenant AND id = :endpoint
    RETURNING slug, failures, breaker, state = 'on'
      AND failing_since < now() - make_interval(secs => :disabled_after) AS worn_out
""")
# breaker_window: what the endpoint's calls came to lately (index ix_webhook_attempts_window).
_WINDOW = text("""
    SELECT count(*) AS calls,
           count(*) FILTER (WHERE outcome IN ('failed', 'not_sent', 'unknown')) AS failed
    FROM prefect_n8n.webhook_attempts
    WHERE tenant_id = :tenant AND endpoint_id = :endpoint
      AND finished_at > now() - make_interval(secs => :window)
      AND outcome IN ('delivered', 'failed', 'not_sent', 'unknown')
""")
_OPEN = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET breaker = 'open', breaker_until = now() + make_interval(secs => :seconds)
    WHERE tenant_id = :tenant AND id = :endpoint AND breaker <> 'open'
""")
_DISABLE = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET state = 'disabled', state_reason = :reason, updated_at = now()
    WHERE tenant_id = :tenant AND id = :endpoint AND state = 'on'
    RETURNING slug
""")


async def succeeded(
    connection: AsyncConnection, tenant: UUID, endpoint: UUID, *, actor: str
) -> list[Change]:
    """Count a call that the target took; return what that changed."""
    values = {"tenant": tenant, "endpoint": endpoint, "failing": FAILING_AFTER}
    row = (await connection.execute(_SUCCEEDED, values)).one_or_none()
    if row is None or not row.was_failing:
        return []
    await _audit(connection, tenant, row.slug, Change.RECOVERED, None, actor)
    return [Change.RECOVERED]


async def failed(
    connection: AsyncConnection,
    tenant: UUID,
    endpoint: UUID,
    *,
    reason: str,
    actor: str,
    probe: bool = False,
) -> list[Change]:
    """Count a call that failed; return what that changed.

    While a probe is out, its failure alone opens the breaker again: others were made before.
    """
    where = {"tenant": tenant, "endpoint": endpoint}
    aged = {"disabled_after": DISABLED_AFTER_SECONDS}
    row = (await connection.execute(_FAILED, where | aged)).one()
    changes: list[Change] = [Change.FAILING] if row.failures == FAILING_AFTER else []
    trips = probe if row.breaker == "half_open" else await _trips(connection, where, row.failures)
    if trips and (await connection.execute(_OPEN, where | {"seconds": OPEN_SECONDS})).rowcount:
        changes.append(Change.OPENED)
    for change in changes:
        await _audit(connection, tenant, row.slug, change, reason, actor)
    if row.worn_out:
        why = f"nothing but failure for five days; the last: {reason}"
        changes += await disable(connection, tenant, endpoint, reason=why, actor=actor)
    return changes


async def disable(
    connection: AsyncConnection, tenant: UUID, endpoint: UUID, *, reason: str, actor: str
) -> list[Change]:
    """Disable an endpoint: its deliveries are held until an operator lets them go on."""
    row = (
        await connection.execute(
            _DISABLE, {"tenant": tenant, "endpoint": endpoint, "reason": reason}
        )
    ).one_or_none()
    if row is None:
        return []
    await _audit(connection, tenant, row.slug, Change.DISABLED, reason, actor)
    return [Change.DISABLED]


async def _trips(connection: AsyncConnection, where: dict[str, UUID], failures: int) -> bool:
    if failures >= CONSECUTIVE:
        return True
    row = (await connection.execute(_WINDOW, where | {"window": WINDOW_SECONDS})).one()
    return row.calls >= MIN_CALLS and row.failed >= SHARE * row.calls


async def _audit(
    connection: AsyncConnection,
    tenant: UUID,
    slug: str,
    change: Change,
    reason: str | None,
    actor: str,
) -> None:
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"endpoint.{change.value}",
        subject=f"endpoint/{slug}",
        reason=reason,
    )
