"""Flow runs that an operator starts in the Prefect UI become executions like all others."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.utilities.urls import url_for

from ..ledger import adoption
from ..ledger.database import Database
from .launching import KEY_PREFIX
from .prefect_api import PrefectApi

logger = logging.getLogger("prefect_n8n.launcher")


class Manual:
    """Admits runs that have no open execution."""

    def __init__(self, database: Database, prefect: PrefectApi, tenant: UUID) -> None:
        self._database = database
        self._prefect = prefect
        self._tenant = tenant

    async def admit(self, flow_run: FlowRun, deployment: str) -> bool:
        """Make sure of an open execution for a scheduled run; False where there can be none.

        A run started by hand, or by a fallback, for a known event is recorded; one that ended and
        was scheduled again ("Retry") is opened again; any other is failed with the reason. A
        launcher's run whose id is not stored yet is left alone: its launch is repeated, and stores
        it.
        """
        now = (await self._prefect.read([flow_run.id])).get(flow_run.id)
        if now is None or now.state is None or not now.state.is_scheduled():
            return False
        launched = _tenant_in(flow_run.idempotency_key)
        fallback = _fallback_tenant_in(flow_run.idempotency_key)
        tenant = launched or fallback or self._tenant
        async with self._database.transaction(tenant) as connection:
            if await adoption.is_known(connection, tenant, flow_run.id):
                return await adoption.reopen(connection, tenant, flow_run.id)
        if launched is not None:
            return False
        return await self._adopt(flow_run, tenant, deployment, anywhere=fallback is not None)

    async def _adopt(
        self, flow_run: FlowRun, tenant: UUID, deployment: str, *, anywhere: bool
    ) -> bool:
        event = _uuid(flow_run.parameters.get("event_id"))
        if event is not None:
            async with self._database.transaction(tenant) as connection:
                if await adoption.adopt(
                    connection,
                    tenant,
                    flow_run.id,
                    event=event,
                    deployment=deployment,
                    link=url_for("flow-run", obj_id=flow_run.id),
                    anywhere=anywhere,
                ):
                    return True
        reason = f"There is no event {event} that {deployment} may take."
        logger.warning("flow run %s: %s", flow_run.id, reason)
        await self._prefect.end_failed(flow_run.id, reason)
        return False


def _tenant_in(key: str | None) -> UUID | None:
    """Return the tenant in a launcher's idempotency key; None for a run that no launcher made."""
    prefix, _, rest = (key or "").partition(":")
    return _uuid(rest.partition(":")[0]) if prefix == KEY_PREFIX else None


def _fallback_tenant_in(key: str | None) -> UUID | None:
    """Return the tenant in the key of a run that a fallback started."""
    prefix, _, rest = (key or "").partition(f"{KEY_PREFIX}:fallback:")
    return _uuid(rest.partition(":")[0]) if not prefix and rest else None


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None
