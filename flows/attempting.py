"""One attempt at a delivery: what is known first, then the wire, then what becomes of it.

Killed anywhere, the next launcher finds the attempt's row: it asks n8n about one that is open, and
never sends blindly again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from ..blocks.arrivals import find_arrival
from ..blocks.client import N8nClient
from ..core.retry import Judgement, Next, Step, Verdict
from ..core.settings import settings
from ..ledger import attempts, fallbacks, health
from ..ledger.attempts import Delivery, Last, Outcome
from ..ledger.database import Database
from ..ledger.health import Change
from ..ledger.states import AttemptOutcome, BreakerState, EndpointState
from .calls import Called, call, is_quick, next_of
from .reporting import report_changes

FIRST_ASK_SECONDS = 5.0
LONGEST_ASK_SECONDS = 600.0
ASK_FOR_SECONDS = 86_400.0
"""An outcome that stays unknown for a day is for a human to judge."""

_FAILED_IN_N8N = ("error", "crashed", "canceled")


class Ending(StrEnum):
    """What came of one turn at a delivery."""

    DELIVERED = "delivered"
    QUICK_RETRY = "quick retry"
    """Still ours: the run waits, and tries again."""
    LATER = "later"
    DEAD = "dead"
    HELD = "held"
    """Its endpoint is paused or its breaker open; no attempt was made."""
    LOST = "lost"
    """Another launcher has it now."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The end of one turn, in a word and in words."""

    ending: Ending
    text: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt whose row is written."""

    id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Sender:
    """What the deliveries of one run share."""

    database: Database
    tenant: UUID
    owner: str
    client: N8nClient
    key: bytes
    probe: bool
    flow_run: UUID | None

    async def turn(self, id: UUID) -> Turn:
        """Make one attempt at a delivery, or find out what became of the one before."""
        async with self.database.transaction(self.tenant) as connection:
            delivery = await attempts.lock(connection, self.tenant, id, owner=self.owner)
            if delivery is None:
                return Turn(Ending.LOST, "another launcher has it")
            ready = await self._prepare(connection, delivery)
        match ready:
            case Turn():
                return ready
            case Last():
                return await self.ask(delivery, ready)
            case Begun():
                called = await self.call(delivery, ready)
                await self.close(ready.id, called.outcome)
                return await self.settle(delivery, called, spent=delivery.attempts + 1)

    async def _prepare(
        self, connection: AsyncConnection, delivery: Delivery
    ) -> Turn | Last | Begun:
        """Begin an attempt; or say what is done in its place: end, hold, or ask about the last."""
        last = delivery.last
        if last is not None and last.outcome == AttemptOutcome.DELIVERED:
            await attempts.complete(connection, delivery, owner=self.owner)
            return Turn(Ending.DELIVERED, "an earlier attempt was taken")
        if delivery.claims > settings().max_claims:
            return await self._bury(
                connection, delivery, f"claimed {delivery.claims - 1} times without an end"
            )
        if delivery.url is None:
            return await self._bury(connection, delivery, f"endpoint {delivery.slug} has no URL")
        if delivery.state != EndpointState.ON:
            await attempts.reschedule(connection, delivery, owner=self.owner, delay=0.0)
            return Turn(Ending.HELD, f"the endpoint is {delivery.state}")
        if delivery.breaker != BreakerState.CLOSED and not self.probe:
            delay = delivery.breaker_seconds
            await attempts.reschedule(connection, delivery, owner=self.owner, delay=delay)
            return Turn(Ending.HELD, "the breaker is open")
        unknown = (AttemptOutcome.OPEN, AttemptOutcome.UNKNOWN)
        if last is not None and last.outcome in unknown:
            if delivery.on_unknown == "ask":
                return last
            outcome = Outcome(
                AttemptOutcome.UNKNOWN, error="sent again: its target drops known ids"
            )
            await attempts.close(connection, self.tenant, last.id, outcome)
        return Begun(*await attempts.begin(connection, delivery, owner=self.owner))

    async def _bury(self, connection: AsyncConnection, delivery: Delivery, reason: str) -> Turn:
        await bury(connection, delivery, owner=self.owner, reason=reason)
        return Turn(Ending.DEAD, reason)

    async def call(self, delivery: Delivery, begun: Begun) -> Called:
        """Make the call."""
        return await call(
            self.client, delivery, self.key, number=begun.number, flow_run=self.flow_run
        )

    async def close(self, attempt: UUID, outcome: Outcome) -> None:
        """Store the attempt's outcome, before anything else can fail."""
        async with self.database.transaction(self.tenant) as connection:
            await attempts.close(connection, self.tenant, attempt, outcome)

    async def settle(self, delivery: Delivery, called: Called, *, spent: int) -> Turn:
        """Move the delivery on, and count the call for its endpoint's health."""
        step = next_of(delivery, called.judgement, spent=spent)
        quick = is_quick(delivery, step, spent=spent)
        async with self.database.transaction(self.tenant) as connection:
            changes = await self._count(connection, delivery, called)
            ending = await self._move(connection, delivery, step, quick=quick)
        reason = called.judgement.reason or None
        report_changes(changes, tenant=self.tenant, endpoint=delivery.slug, reason=reason)
        return Turn(ending, _describe(ending, step))

    async def _count(
        self, connection: AsyncConnection, delivery: Delivery, called: Called
    ) -> list[Change]:
        actor = f"launcher {self.owner}"
        where = (connection, self.tenant, delivery.endpoint_id)
        reason = called.judgement.reason
        if called.judgement.verdict is Verdict.GONE:
            return await health.disable(*where, reason=reason, actor=actor)
        healthy = called.is_healthy
        if healthy or (healthy is None and self.probe and called.outcome.status):
            return await health.succeeded(*where, actor=actor)
        if healthy is None:
            return []
        return await health.failed(*where, reason=reason, actor=actor, probe=self.probe)

    async def _move(
        self,
        connection: AsyncConnection,
        delivery: Delivery,
        step: Next,
        *,
        quick: bool,
    ) -> Ending:
        owner = self.owner
        match step.step:
            case Step.COMPLETE:
                kept = await attempts.complete(connection, delivery, owner=owner)
                return Ending.DELIVERED if kept else Ending.LOST
            case Step.BURY:
                await bury(connection, delivery, owner=owner, reason=step.reason)
                return Ending.DEAD
            case Step.RETRY if quick:
                return Ending.QUICK_RETRY
            case Step.RETRY:
                await attempts.reschedule(
                    connection, delivery, owner=owner, delay=step.delay, error=step.reason
                )
            case Step.SNOOZE:
                await attempts.reschedule(
                    connection,
                    delivery,
                    owner=owner,
                    delay=step.delay,
                    error=step.reason,
                    refund=True,
                )
            case Step.ASK:
                await attempts.reschedule(
                    connection,
                    delivery,
                    owner=owner,
                    delay=FIRST_ASK_SECONDS,
                    error=f"outcome unknown: {step.reason}",
                )
        return Ending.LATER

    async def ask(self, delivery: Delivery, last: Last) -> Turn:
        """Ask n8n whether an attempt of unknown outcome arrived."""
        arrival = await find_arrival(
            self.client,
            target=self.client.webhook_address(delivery.url or ""),
            delivery_id=delivery.event_id,
            since=last.started_at - timedelta(seconds=1),
            workflow_id=delivery.n8n_workflow_id,
        )
        execution = arrival.execution
        if arrival.verdict == "not_known":
            return await self._ask_later(delivery, last, arrival.reason)
        if arrival.verdict == "not_arrived":
            outcome = Outcome(AttemptOutcome.NOT_SENT, error=f"never arrived: {arrival.reason}")
            called = Called(outcome, Judgement(Verdict.RETRY, outcome.error or ""))
        elif execution is not None and execution.status in _FAILED_IN_N8N:
            reason = f"n8n's execution {execution.id} ended as {execution.status}"
            outcome = Outcome(AttemptOutcome.FAILED, error=reason, execution=execution.id)
            called = Called(outcome, Judgement(Verdict.RETRY, reason))
        else:
            id = None if execution is None else execution.id
            outcome = Outcome(AttemptOutcome.DELIVERED, execution=id)
            called = Called(outcome, Judgement(Verdict.DELIVERED))
        await self.close(last.id, outcome)
        return await self.settle(delivery, called, spent=delivery.attempts)

    async def _ask_later(self, delivery: Delivery, last: Last, why: str) -> Turn:
        reason = f"outcome unknown: {why}"
        if last.outcome == AttemptOutcome.OPEN:
            await self.close(last.id, Outcome(AttemptOutcome.UNKNOWN, error=reason))
        async with self.database.transaction(self.tenant) as connection:
            if last.age > ASK_FOR_SECONDS:
                await bury(connection, delivery, owner=self.owner, reason=reason)
                return Turn(Ending.DEAD, reason)
            delay = min(max(last.age / 2, FIRST_ASK_SECONDS), LONGEST_ASK_SECONDS)
            await attempts.reschedule(
                connection, delivery, owner=self.owner, delay=delay, error=reason
            )
        return Turn(Ending.LATER, f"{reason}; asked again in {delay:.0f} s")


async def bury(connection: AsyncConnection, delivery: Delivery, *, owner: str, reason: str) -> None:
    """End a delivery that no attempt will deliver, or leave it to its endpoint's fallback.

    A delivery that stands in for another has no fallback of its own: they make no circle.
    """
    if not delivery.fallback or delivery.parent_event_id is not None:
        await attempts.bury(connection, delivery, owner=owner, reason=reason)
    elif await attempts.hand_over(connection, delivery, owner=owner, reason=reason):
        await fallbacks.begin(
            connection,
            delivery.tenant_id,
            event=delivery.id,
            execution=None,
            redrive=delivery.redrive,
            ladder=delivery.fallback,
            cause=reason,
            actor=f"launcher {owner}",
        )


def _describe(ending: Ending, step: Next) -> str:
    match ending:
        case Ending.LATER | Ending.QUICK_RETRY:
            return f"{step.reason}; again in {step.delay:.0f} s"
        case Ending.LOST:
            return "another launcher has it"
        case _:
            return step.reason
