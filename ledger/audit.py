"""The audit log: written in the caller's transaction, chained by the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# audit_record: seq, at and the hashes are set by trigger audit_chain, which also takes the tenant's
# chain lock until commit. So write the entry last in a transaction.
_RECORD = text("""
    INSERT INTO prefect_n8n.audit_log
        (tenant_id, seq, actor, action, subject, before, after, reason, previous_hash, hash)
    VALUES (:tenant, 0, :actor, :action, :subject, CAST(:before AS jsonb), CAST(:after AS jsonb),
            :reason, '', '')
""")

# audit_broken: entries whose hash, predecessor or number does not fit. The first is number 1 and
# has no predecessor, or entries before it were removed.
_BROKEN = text("""
    SELECT seq FROM (
        SELECT a.seq, a.hash <> prefect_n8n.audit_hash(a) AS altered, a.previous_hash,
               lag(a.hash, 1, CAST('' AS bytea)) OVER entries AS expected,
               lag(a.seq, 1, CAST(0 AS bigint)) OVER entries AS before
        FROM prefect_n8n.audit_log a WINDOW entries AS (ORDER BY a.seq)
    ) chain
    WHERE altered OR previous_hash <> expected OR seq <> before + 1
    ORDER BY seq
""")


async def record(
    connection: AsyncConnection,
    tenant: UUID,
    *,
    actor: str,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Add one audit entry to the caller's transaction: ``actor`` did ``action`` to ``subject``."""
    await connection.execute(
        _RECORD,
        {
            "tenant": tenant,
            "actor": actor,
            "action": action,
            "subject": subject,
            "before": None if before is None else json.dumps(before, default=str),
            "after": None if after is None else json.dumps(after, default=str),
            "reason": reason,
        },
    )


async def broken_entries(connection: AsyncConnection) -> list[int]:
    """Return the ``seq`` of entries of the transaction's tenant that break the chain."""
    return [row.seq for row in await connection.execute(_BROKEN)]
