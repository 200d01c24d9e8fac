"""The flow ``deliver-to-n8n``: what an operator sees of deliveries, one task for each.

Prefect is handed the deliveries' row ids alone. Retries within seconds are the tasks' own; those
after minutes or hours are rows that come due, and go out with a later run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from ..core.errors import EventUnprocessable
from ..core.retry import RetryPolicy
from ..core.settings import settings
from ..ledger.attempts import Delivery, lock
from . import inbox
from .attempting import Ending, Sender, Turn
from .credentials import credentials_of
from .pacing import paced

FLOW_NAME = "deliver-to-n8n"


class AttemptFailed(Exception):
    """An attempt that did not deliver; ``quick`` ones are retried by the task."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn.text)
        self.ending = turn.ending


_sender: ContextVar[Sender] = ContextVar("prefect_n8n_sender")


def _is_quick(_task: Any, _run: Any, state: State[Any]) -> bool:
    error: object = state.data
    return isinstance(error, AttemptFailed) and error.ending is Ending.QUICK_RETRY


@task(
    name="attempt",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_is_quick,
    retry_jitter_factor=0.2,
)
async def attempt(delivery: UUID, target: str, limit: int) -> str:
    """Make one attempt at a delivery, while the target has room for it.

    Raises:
        AttemptFailed: it was not delivered; the ledger says when it is tried again.
    """
    async with paced(target, limit):
        turn = await _sender.get().turn(delivery)
    if turn.ending in (Ending.DELIVERED, Ending.HELD, Ending.LOST):
        get_run_logger().info("%s %s", turn.ending.value, turn.text)
        return turn.ending.value
    raise AttemptFailed(turn)


@flow(name=FLOW_NAME, persist_result=False, validate_parameters=False)
async def deliver(deliveries: list[UUID], probe: bool = False) -> State[Any]:
    """Deliver the events with these row ids, all of one endpoint.

    Raises:
        EventUnprocessable: no launcher holds them for this run.
        PrefectUnavailable: the endpoint's credentials cannot be loaded.
    """
    owner, tenant = inbox.owner.get(), inbox.tenant.get() or settings().tenant_id
    if owner is None:
        raise EventUnprocessable("Deliveries are made by a launcher; redrive them instead.")
    rows = await _claimed(tenant, deliveries, owner)
    if not rows:
        return Completed(message="Nothing to do: other launchers have these deliveries.")
    credentials = await credentials_of(rows[0].credentials_block)
    context = FlowRunContext.get()
    async with credentials.get_client() as client:
        sender = Sender(
            database=inbox.database(),
            tenant=tenant,
            owner=owner,
            client=client,
            key=credentials.keys()[0],
            probe=probe,
            flow_run=context.flow_run.id if context and context.flow_run else None,
        )
        _sender.set(sender)
        ends = await asyncio.gather(
            *(_attempts(row, client.webhook_address(row.url or "")) for row in rows),
            return_exceptions=True,
        )
    return _summary(ends)


async def _claimed(tenant: UUID, ids: list[UUID], owner: str) -> list[Delivery]:
    async with inbox.database().transaction(tenant) as connection:
        found = [await lock(connection, tenant, UUID(str(id)), owner=owner) for id in ids]
    return [row for row in found if row is not None]


async def _attempts(row: Delivery, address: str) -> str:
    """Run the delivery's task, with the quick retries that its policy has left."""
    quick = RetryPolicy.parse(row.retry_policy).quick_delays(row.attempts)
    options: dict[str, Any] = {"retry_delay_seconds": quick} if quick else {}
    run = attempt.with_options(task_run_name=row.event_id, retries=len(quick), **options)
    return await run(row.id, address.partition("?")[0], row.max_in_flight)


def _summary(ends: list[str | BaseException]) -> State[Any]:
    counts: Counter[str] = Counter()
    for end in ends:
        if isinstance(end, AttemptFailed):
            counts[end.ending.value] += 1
        elif isinstance(end, BaseException):
            raise end
        else:
            counts[end] += 1
    message = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return Failed(message=message) if counts[Ending.DEAD] else Completed(message=message)
