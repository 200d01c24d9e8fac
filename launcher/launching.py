"""Launches one claimed event: decides its executions, creates their flow runs, stores their ids.

Killed between any two steps, the event's lease runs out and the next launcher repeats them: the
decided executions are rows, and Prefect knows a repeated flow run by its idempotency key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.utilities.urls import url_for

from ..core.errors import EventUnprocessable, PrefectRefused, PrefectUnavailable
from ..core.settings import Settings
from ..core.templating import render_parameters
from ..ledger import claims, launches
from ..ledger.claims import Claimed
from ..ledger.database import Database
from ..ledger.launches import Execution, Trigger
from .prefect_api import DeploymentMissing, PrefectApi

logger = logging.getLogger("prefect_n8n.launcher")

KEY_PREFIX = "n8n"
RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 600.0
MAX_NAME = 200

Work = list[tuple[Execution, Trigger]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for an event."""

    event: dict[str, Any]
    work: Work


class Launching:
    """Launches claimed events."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        owner: str,
        settings: Settings,
        on_launched: Callable[[FlowRun], None],
    ) -> None:
        self._database = database
        self._prefect = prefect
        self._owner = owner
        self._settings = settings
        self._on_launched = on_launched

    async def launch(self, event: Claimed) -> None:
        """Launch the event, or give it back.

        Raises:
            PrefectUnavailable: Prefect is away; the event waits in the inbox.
            LedgerUnavailable: PostgreSQL is away; the lease runs out by itself.
        """
        try:
            plan = await self.plan(event)
            if plan is None:
                return
            for execution, trigger in plan.work:
                if execution.state == "pending":
                    await self._start(event, plan.event, execution, trigger)
            await self.end(event)
        except PrefectUnavailable:
            await self._snooze(event)
            raise
        except DeploymentMissing as error:
            await self.retry(event, str(error))

    async def plan(self, event: Claimed) -> Plan | None:
        """Decide the event's executions; None where nothing is to be launched."""
        tenant = event.tenant_id
        async with self._database.transaction(tenant) as connection:
            row = await launches.lock_event(connection, event, owner=self._owner)
            if row is None:
                return None
            if event.claims > self._settings.max_claims:
                reason = f"claimed {event.claims - 1} times without an end"
                reason += f"; last: {row['errors'][-1]}" if row["errors"] else ""
                await launches.bury(connection, event, owner=self._owner, reason=reason)
                logger.error("event %s is dead: %s", event.id, reason)
                return None
            triggers = await launches.triggers_of(connection, tenant, row["endpoint_id"])
            matched = [t for t in triggers if matches(t, row["type"])]
            work = await launches.plan(connection, tenant, event.id, row["redrive"], matched)
            if not work:
                await launches.complete_unmatched(connection, event, owner=self._owner)
                return None
        return Plan(row, work)

    async def create(
        self, event: dict[str, Any], execution: Execution, trigger: Trigger, tenant: UUID
    ) -> FlowRun:
        """Create the execution's flow run in Prefect, or find it there."""
        kind = event["type"] or "event"
        return await self._prefect.create_run(
            trigger.deployment,
            parameters=render_parameters(trigger.parameters, event),
            key=idempotency_key(tenant, event, execution),
            name=f"{event['endpoint']} · {kind} · {event['id']}"[:MAX_NAME],
            tags=["n8n", f"endpoint:{event['endpoint']}", f"type:{kind}"],
        )

    async def store(self, event: Claimed, execution: Execution, flow_run: FlowRun) -> None:
        """Store the flow run's id."""
        async with self._database.transaction(event.tenant_id) as connection:
            await launches.record_launched(
                connection,
                event,
                execution.id,
                run=flow_run.id,
                link=url_for("flow-run", obj_id=flow_run.id),
                owner=self._owner,
            )

    async def end(self, event: Claimed) -> None:
        """Give up the event's lease: the rest is up to its runs."""
        async with self._database.transaction(event.tenant_id) as connection:
            await launches.end_launch(connection, event, owner=self._owner)

    async def _start(
        self, event: Claimed, row: dict[str, Any], execution: Execution, trigger: Trigger
    ) -> None:
        try:
            flow_run = await self.create(row, execution, trigger, event.tenant_id)
        except (EventUnprocessable, PrefectRefused) as error:
            async with self._database.transaction(event.tenant_id) as connection:
                await launches.refuse_execution(
                    connection, event, execution.id, str(error), owner=self._owner
                )
            return
        await self.store(event, execution, flow_run)
        self._on_launched(flow_run)

    async def _snooze(self, event: Claimed) -> None:
        async with self._database.transaction(event.tenant_id) as connection:
            await claims.snooze(connection, event, owner=self._owner, delay=1.0)

    async def retry(self, event: Claimed, error: str) -> None:
        """Give the event back with an error, due again later; its claim counts."""
        delay = min(RETRY_SECONDS * 2.0 ** (event.claims - 1), MAX_RETRY_SECONDS)
        logger.warning("event %s is tried again in %.0f s: %s", event.id, delay, error)
        async with self._database.transaction(event.tenant_id) as connection:
            await claims.retry(connection, event, owner=self._owner, delay=delay, error=error)


def matches(trigger: Trigger, type: str) -> bool:
    """Whether the trigger takes events of that type."""
    return any(fnmatchcase(type, pattern) for pattern in trigger.types)


def idempotency_key(tenant: UUID, event: dict[str, Any], execution: Execution) -> str:
    """Prefect's key is unique per flow, so it names the trigger; a redrive is a new run."""
    return (
        f"{KEY_PREFIX}:{tenant}:{event['endpoint_id']}:{event['row_id']}"
        f":{execution.trigger_id}:{execution.redrive}"
    )
