"""What an ended event answers its sender: its state, and what its flows returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from .states import EventState


@dataclass(frozen=True, slots=True)
class Returned:
    """One execution of an ended event: what its flow returned, and where it is seen."""

    trigger: str
    result: Any
    link: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An ended event and the executions of its newest redrive, in the order of their triggers."""

    id: UUID
    event_id: str
    endpoint: str
    state: str
    reason: str | None
    executions: tuple[Returned, ...]

    @property
    def links(self) -> list[str]:
        """The addresses of its flow runs in the Prefect UI, where it has one."""
        return [each.link for each in self.executions if each.link is not None]

    def outcome(self) -> dict[str, Any]:
        """Return ``state``, ``result`` (``results`` by trigger where there are several), and
        ``error`` where it did not complete."""
        fields: dict[str, Any] = {"state": self.state}
        if len(self.executions) > 1:
            fields["results"] = {each.trigger: each.result for each in self.executions}
        else:
            fields["result"] = self.executions[0].result if self.executions else None
        if self.state != EventState.COMPLETED:
            fields["error"] = self.reason or f"The event is {self.state}."
        elif self.reason is not None:
            fields["reason"] = self.reason
        return fields


# ended_events: those of the given ones that have ended.
_ENDED = text("""
    SELECT e.id, e.event_id, p.slug AS endpoint, e.state, e.reason
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.webhook_endpoints p ON p.tenant_id = e.tenant_id AND p.id = e.endpoint_id
    WHERE e.tenant_id = :tenant AND e.id = ANY(CAST(:ids AS uuid[])) AND e.finalized_at IS NOT NULL
""")
# returned: the executions of their newest redrive.
_RETURNED = text("""
    SELECT e.id AS event, t.name AS trigger, x.result, x.link
    FROM prefect_n8n.webhook_events e
    JOIN prefect_n8n.workflow_executions x
      ON x.tenant_id = e.tenant_id AND x.webhook_event_id = e.id AND x.redrive = e.redrive
    JOIN prefect_n8n.workflow_triggers t ON t.tenant_id = x.tenant_id AND t.id = x.trigger_id
    WHERE e.tenant_id = :tenant AND e.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY t.name
""")


async def ended(
    connection: AsyncConnection, tenant: UUID, ids: Iterable[UUID]
) -> dict[UUID, Answer]:
    """Return the answers of those of the events (row ids) that have ended, by row id."""
    events = (await connection.execute(_ENDED, {"tenant": tenant, "ids": list(ids)})).all()
    if not events:
        return {}
    returned = await _returned(connection, tenant, [event.id for event in events])
    return {
        event.id: Answer(
            id=event.id,
            event_id=event.event_id,
            endpoint=event.endpoint,
            state=event.state,
            reason=event.reason,
            executions=tuple(returned.get(event.id, ())),
        )
        for event in events
    }


async def _returned(
    connection: AsyncConnection, tenant: UUID, ids: Sequence[UUID]
) -> dict[UUID, list[Returned]]:
    found: dict[UUID, list[Returned]] = {}
    for row in await connection.execute(_RETURNED, {"tenant": tenant, "ids": list(ids)}):
        found.setdefault(row.event, []).append(Returned(row.trigger, row.result, row.link))
    return found
