"""Prefect events about endpoints, for the event feed and for automations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

from prefect.events import emit_event

from ..ledger.health import Change

logger = logging.getLogger("prefect_n8n.flows")


def report_changes(
    changes: Iterable[Change], *, tenant: UUID, endpoint: str, reason: str | None
) -> None:
    """Emit ``n8n.endpoint.<change>`` for each; the audit log has them in any case."""
    for change in changes:
        logger.warning("endpoint %s: %s: %s", endpoint, change.value, reason or "works again")
        try:
            emit_event(
                event=f"n8n.endpoint.{change.value}",
                resource={
                    "prefect.resource.id": f"prefect-n8n.endpoint.{tenant}.{endpoint}",
                    "prefect.resource.name": endpoint,
                },
                payload={"endpoint": endpoint, "reason": reason},
            )
        except Exception:
            logger.warning("the Prefect event was not emitted", exc_info=True)
