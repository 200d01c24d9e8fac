"""Redrive: an operator puts ended events back to pending. One press does it once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.errors import ConfigurationError
from . import audit
from .inbox import CHANNEL

MAX_EVENTS = 10_000
"""One press takes no more."""

MAX_RATE = 1_000.0
STATES = ("dead", "cancelled", "completed")
"""Those that leave by redrive; a completed event only where no trigger matched it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which ended events: by id, or all that fit. What is not given fits everything.

    ``states`` is empty for the usual ones: dead events, and of those named by id any that can be.
    ``type`` is a glob; ``since`` and ``until`` bound when an event came in. A fallback's own
    deliveries are taken only by id or by their endpoint: what they stood in for is redriven itself.
    """

    ids: Sequence[UUID] = field(default_factory=list[UUID])
    endpoint: str | None = None
    direction: str | None = None
    states: Sequence[str] = ()
    type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = MAX_EVENTS

    def check(self) -> None:
        """Check it.

        Raises:
            ConfigurationError: a state, direction, time or limit that cannot be.
        """
        if wrong := [state for state in self.states if state not in STATES]:
            raise ConfigurationError(
                f"Events in state {wrong[0]!r} are not redriven: only {', '.join(STATES)}."
            )
        if self.direction not in (None, "inbound", "outbound"):
            raise ConfigurationError("The direction is inbound or outbound.")
        if not 1 <= self.limit <= MAX_EVENTS:
            raise ConfigurationError(f"One redrive takes 1 to {MAX_EVENTS} events.")
        if len(self.ids) > MAX_EVENTS:
            raise ConfigurationError(f"One redrive takes at most {MAX_EVENTS} ids.")
        for at in (self.since, self.until):
            if at is not None and at.tzinfo is None:
                raise ConfigurationError(f"The time {at.isoformat()} needs a zone, such as +00:00.")

    def as_json(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {
            "ids": [str(id) for id in self.ids],
            "endpoint": self.endpoint,
            "direction": self.direction,
            "states": list(self._states),
            "type": self.type,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "limit": self.limit,
        }

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the condition."""
        return {
            "ids": list(self.ids) or None,
            "endpoint": self.endpoint,
            "direction": self.direction,
            "states": list(self._states),
            "type": None if self.type is None else _regex(self.type),
            "since": self.since,
            "until": self.until,
            "limit": self.limit,
        }

    @property
    def _states(self) -> Sequence[str]:
        return self.states or (STATES if self.ids else STATES[:1])


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a press did: how many events; ``repeated``: an earlier call had done it."""

    press: UUID
    events: int
    repeated: bool


# Without a live lease by the CHECKs of the table: final events have none. An event that is dead
# while one of its runs goes on is not taken: the run would be started twice.
_FITS = """
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.lease_owner IS NULL
      AND e.state = ANY(CAST(:states AS text[]))
      AND (e.state IN ('dead', 'cancelled')
           OR e.state = 'completed' AND e.reason = 'no trigger matched')
      AND (CAST(:ids AS uuid[]) IS NULL OR e.id = ANY(CAST(:ids AS uuid[])))
      AND (CAST(:endpoint AS text) IS NULL OR p.slug = :endpoint)
      AND (CAST(:direction AS text) IS NULL OR e.direction = :direction)
      AND (CAST(:type AS text) IS NULL OR e.type ~ :type)
      AND (CAST(:since AS timestamptz) IS NULL OR e.received_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR e.received_at < :until)
      AND (e.parent_event_id IS NULL OR CAST(:ids AS uuid[]) IS NOT NULL
           OR CAST(:endpoint AS text) IS NOT NULL)
      AND NOT EXISTS (SELECT FROM prefect_n8n.workflow_executions x
                      WHERE x.tenant_id = e.tenant_id AND x.webhook_event_id = e.id
                        AND x.finished_at IS NULL)
"""
_PREVIEW = text(f"SELECT count(*) {_FITS}")
# lock_press: of two calls with one press id, the second waits for the first and sees its row.
_LOCK_PRESS = text(
    "SELECT pg_advisory_xact_lock(hashtextextended('prefect_n8n_redrive' || :tenant || :id, 0))"
)
_PRESSED = text("SELECT events FROM prefect_n8n.redrives WHERE tenant_id = :tenant AND id = :id")
# redrive: what another press holds is left to it. Both rows or none: the events' and the press's.
_REDRIVE = text(f"""
    WITH chosen AS (
        SELECT e.id, e.received_at {_FITS}
        ORDER BY e.received_at, e.id LIMIT :limit FOR UPDATE OF e SKIP LOCKED
    ), ordered AS (
        SELECT id, row_number() OVER (ORDER BY received_at, id) - 1 AS place FROM chosen
    ), put_back AS (
        UPDATE prefect_n8n.webhook_events e
        SET state = 'pending', redrive = e.redrive + 1, attempts = 0, claims = 0,
            finalized_at = NULL, reason = NULL, flow_run_id = NULL,
            scheduled_at = now() + make_interval(secs => o.place / CAST(:rate AS float8))
        FROM ordered o WHERE e.tenant_id = :tenant AND e.id = o.id
        RETURNING e.id
    ), pressed AS (
        INSERT INTO prefect_n8n.redrives (tenant_id, id, selection, rate, events, actor)
        SELECT :tenant, :id, CAST(:selection AS jsonb), :rate, (SELECT count(*) FROM put_back),
               :actor
    )
    SELECT id FROM put_back ORDER BY id
""")  # noqa: S608 - constants only
_NOTIFY = text("SELECT pg_notify(:channel, '')")


async def preview(connection: AsyncConnection, tenant: UUID, selection: Selection) -> int:
    """Return how many events fit the selection now; a press takes its limit of them at most.

    Raises:
        ConfigurationError: the selection cannot be.
    """
    selection.check()
    values = selection.parameters() | {"tenant": tenant}
    return (await connection.execute(_PREVIEW, values)).scalar_one()


async def redrive(
    connection: AsyncConnection,
    tenant: UUID,
    press: UUID,
    selection: Selection,
    *,
    rate: float,
    actor: str,
) -> Redriven:
    """Put the selected events back to pending, oldest first, ``rate`` of them due each second.

    Called again with the same ``press`` it returns what the first call did, and does nothing.

    Raises:
        ConfigurationError: the selection or the rate cannot be.
    """
    selection.check()
    if not 0 < rate <= MAX_RATE:
        raise ConfigurationError(f"The rate is more than 0 and at most {MAX_RATE:g} a second.")
    who = {"tenant": tenant, "id": press}
    await connection.execute(_LOCK_PRESS, {name: str(value) for name, value in who.items()})
    done = (await connection.execute(_PRESSED, who)).scalar_one_or_none()
    if done is not None:
        return Redriven(press, done, True)
    kept = {"selection": json.dumps(selection.as_json()), "rate": rate, "actor": actor}
    rows = await connection.execute(_REDRIVE, selection.parameters() | who | kept)
    ids = [str(row.id) for row in rows]
    if ids:
        await connection.execute(_NOTIFY, {"channel": CHANNEL})
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action="events.redriven",
        subject=f"redrive/{press}",
        after=selection.as_json() | {"rate": rate, "redriven": ids},
    )
    return Redriven(press, len(ids), False)


def _regex(glob: str) -> str:
    """Return PostgreSQL's regular expression for a glob as triggers use it."""
    parts = re.split(r"(\*|\?|\[!?[^\]]+\])", glob)
    return f"^{''.join(map(_part, parts))}$"


def _part(part: str) -> str:
    if part in ("*", "?"):
        return ".*" if part == "*" else "."
    if part.startswith("[") and part.endswith("]") and len(part) > 2:
        inner = re.sub(r"([\\\[\]^])", r"\\\1", part[1:-1].removeprefix("!"))
        return f"[{'^' if part[1] == '!' else ''}{inner}]"
    return re.sub(r"([^\w\s])", r"\\\1", part, flags=re.ASCII)
