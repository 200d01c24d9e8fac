"""The shipped flow ``redrive``: an operator puts dead events back, from the Prefect UI."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from ..core.errors import ConfigurationError
from ..core.settings import settings
from ..ledger import redrives
from ..ledger.redrives import MAX_EVENTS, Selection
from . import inbox

TIMEOUT = 60
DEFAULT_RATE = 10.0


@flow(name="redrive", persist_result=False, timeout_seconds=TIMEOUT)
async def redrive(
    ids: list[UUID] | None = None,
    endpoint: str | None = None,
    direction: Literal["inbound", "outbound"] | None = None,
    state: list[Literal["dead", "cancelled", "completed"]] | None = None,
    type: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = MAX_EVENTS,
    rate: float = DEFAULT_RATE,
    dry_run: bool = False,
) -> State[Any]:
    """Put ended events back to pending: those with these ids, or all that fit.

    Args:
        ids: Row ids of events.
        endpoint: The slug of their endpoint.
        direction: inbound events, or outbound deliveries.
        state: dead (as where nothing is given), cancelled, or completed because no trigger matched.
        type: A glob of event types, such as order.*
        since: Came in then or later.
        until: Came in before.
        limit: At most so many, the oldest first.
        rate: How many come due each second.
        dry_run: Only count them.

    A run that is run again, by Retry or after its launcher was lost, does nothing twice.

    Raises:
        ConfigurationError: what is asked cannot be; the message says why.
    """
    selection = Selection(
        ids=ids or [],
        endpoint=endpoint,
        direction=direction,
        states=tuple(state or ()),
        type=type,
        since=since,
        until=until,
        limit=limit,
    )
    tenant = inbox.tenant.get() or settings().tenant_id
    run = _run_id()
    async with inbox.database().transaction(tenant) as connection:
        if dry_run:
            fitting = await redrives.preview(connection, tenant, selection)
            message = f"{fitting} events fit; {min(fitting, limit)} would be redriven."
        else:
            done = await redrives.redrive(
                connection, tenant, run, selection, rate=rate, actor=f"flow run {run}"
            )
            message = f"{done.events} events redriven{', by this run before' * done.repeated}."
    get_run_logger().info(message)
    return Completed(message=message)


def _run_id() -> UUID:
    """The id of the flow run: what a press is known by."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise ConfigurationError("redrive is a flow: run it as one.")
    return context.flow_run.id
