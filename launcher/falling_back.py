"""Falls back: claims due fallbacks, and climbs each in a run of the flow ``fall-back``.

A fallback whose step is under way is looked at without a run. Killed anywhere, its lease runs out
and another launcher goes on from the steps' rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_engine import run_flow

from ..core.errors import ConfigurationError, LedgerUnavailable, PrefectUnavailable, Unavailable
from ..core.ladder import StepKind, parse_ladder
from ..core.settings import Settings
from ..flows import fallback_workflows, inbox
from ..flows.fall_back import fall_back
from ..ledger import fallback_ends, fallbacks
from ..ledger.claims import Claimed
from ..ledger.database import Database, Role
from ..ledger.fallbacks import Fallback
from ..ledger.states import EVENT_FINAL, FallbackState
from .prefect_api import PrefectApi
from .threads import LoopThreads, Work

logger = logging.getLogger("prefect_n8n.launcher")

MAX_RUNS = 4
FIRST_LOOK = 2.0
"""Seconds until a step that was just begun is looked at; later looks are farther apart."""
LAST_LOOK = 30.0
RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0


@dataclass(slots=True)
class _Held:
    claimed: Claimed
    run: FlowRun | None = None
    work: Work[State[Any]] | None = None
    cancelled: bool = False
    lost: bool = False

    def stop(self) -> None:
        if self.work is not None:
            self.work.cancel()


class FallingBack:
    """Keeps fallbacks going while some are due."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        threads: LoopThreads,
        owner: str,
        settings: Settings,
        on_free: Callable[[], None],
    ) -> None:
        self._database = database
        self._prefect = prefect
        self._threads = threads
        self._owner = owner
        self._settings = settings
        self._on_free = on_free
        self._tasks: dict[asyncio.Task[None], _Held] = {}
        self._failure: Unavailable | None = None

    @property
    def runs(self) -> set[UUID]:
        """The flow runs that are under way here."""
        return {held.run.id for held in self._tasks.values() if held.run is not None}

    async def turn(self) -> None:
        """Claim fallbacks while there is room.

        Raises:
            Unavailable: one since the last turn found Prefect or PostgreSQL away.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        while (most := MAX_RUNS - len(self._tasks)) > 0:
            claimed = await self.claim(most)
            for each in claimed:
                self._start(_Held(each))
            if len(claimed) < most:
                return

    async def claim(self, most: int, one: UUID | None = None) -> list[Claimed]:
        """Claim up to ``most`` due fallbacks, or that one."""
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            return await fallbacks.claim(
                connection,
                owner=self._owner,
                lease=self._settings.lease_seconds,
                most=most,
                one=one,
            )

    async def by_hand(self, run: FlowRun) -> None:
        """Climb in a run that an operator started for a fallback, if that is due now."""
        claimed = await self.claim(1, _uuid(run.parameters.get("fallback_id")))
        if not claimed:
            reason = "There is no such fallback that is due now: it has ended, or is looked after."
            await self._prefect.end_failed(run.id, reason)
        elif await self._prefect.claim(run):
            self._start(_Held(claimed[0], run))
        else:
            await self._give_back(claimed[0], delay=0.0, counts=False)

    async def renew(self) -> None:
        """Extend the leases; stop what another launcher has."""
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await fallbacks.renew(connection, owner=self._owner, lease=self._settings.lease_seconds)
            ids = [held.claimed.id for held in self._tasks.values()]
            taken = await fallbacks.taken(connection, ids, owner=self._owner)
        for held in self._tasks.values():
            if held.claimed.id in taken:
                logger.warning("fallback %s was taken over by another launcher", held.claimed.id)
                held.lost = True
                held.stop()

    async def sweep(self) -> None:
        """End the runs in Prefect whose launcher is gone: nobody else would."""
        old = await self._prefect.stale_runs(fall_back, older_than=2 * self._settings.lease_seconds)
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            live = await fallbacks.live_runs(connection, old)
        for run in set(old) - live - self.runs:
            await self._prefect.end_crashed(run, "Its launcher was lost; another one goes on.")

    def cancel(self, run: UUID) -> None:
        """Stop a run that an operator cancels: its fallback ends with it."""
        for held in self._tasks.values():
            if held.run is not None and held.run.id == run:
                held.cancelled = True
                held.stop()

    async def drain(self, seconds: float) -> None:
        """Wait for what is at hand, and leave the rest to others at once."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await fallbacks.expire(connection, owner=self._owner)

    async def load(self, claimed: Claimed) -> Fallback | None:
        """Return the fallback to go on with; None where it is lost, or was claimed too often."""
        async with self._database.transaction(claimed.tenant_id) as connection:
            found = await fallbacks.load(
                connection, claimed.tenant_id, claimed.id, owner=self._owner
            )
            if found is None or claimed.claims <= self._settings.max_claims:
                return found
            reason = f"the fallback was claimed {claimed.claims - 1} times without an end"
            await fallback_ends.end(
                connection,
                claimed.tenant_id,
                claimed.id,
                FallbackState.DEAD,
                by=reason,
                owner=self._owner,
            )
        logger.error("fallback %s is dead: %s", claimed.id, reason)
        return None

    async def is_under_way(self, fallback: Fallback) -> bool:
        """Whether the step begun is still at work, and has time left."""
        begun = fallback.begun
        if begun is None or begun.ref is None or begun.seconds > _timeout(fallback):
            return False
        if begun.kind == StepKind.ENDPOINT:
            return begun.child_state is not None and begun.child_state not in EVENT_FINAL
        if begun.kind == StepKind.WORKFLOW:
            return await fallback_workflows.look(begun.target, begun.ref) is None
        if begun.kind != StepKind.DEPLOYMENT:
            return False
        run = (await self._prefect.read([UUID(begun.ref)])).get(UUID(begun.ref))
        return run is not None and run.state is not None and not run.state.is_final()

    async def create(self, fallback: Fallback) -> FlowRun:
        """Create the flow run. Nobody else can pick it up: it is Pending."""
        return await self._prefect.create_own_run(
            fall_back,
            parameters={"fallback_id": str(fallback.id)},
            name=f"fall back · {fallback.subject_id} · step {fallback.step + 1}",
            tags=["n8n", "fallback"],
        )

    async def store(self, claimed: Claimed, run: FlowRun) -> None:
        """Store the run's id."""
        async with self._database.transaction(claimed.tenant_id) as connection:
            await fallbacks.set_run(
                connection, claimed.tenant_id, claimed.id, run.id, owner=self._owner
            )

    async def execute(self, held: _Held, run: FlowRun) -> State[Any] | None:
        """Run the flow in one of the threads; None where it was stopped."""

        def on_start(work: Work[State[Any]]) -> None:
            held.work = work
            if held.cancelled or held.lost:
                work.cancel()

        tenant = held.claimed.tenant_id
        return await self._threads.run(lambda: _execute(run, tenant, self._owner), on_start)

    async def settle(self, held: _Held, state: State[Any] | None) -> None:
        """Give the fallback back, unless the run has brought it to an end."""
        claimed = held.claimed
        if held.cancelled and held.run is not None:
            async with self._database.transaction(claimed.tenant_id) as connection:
                await fallback_ends.end(
                    connection,
                    claimed.tenant_id,
                    claimed.id,
                    FallbackState.DEAD,
                    by="cancelled in Prefect",
                    owner=self._owner,
                )
            await self._prefect.end_cancelled(held.run.id)
        elif state is not None and state.is_completed():
            await self._give_back(claimed, delay=FIRST_LOOK, counts=False)
        else:
            delay = min(RETRY_SECONDS * 2.0 ** (claimed.claims - 1), MAX_RETRY_SECONDS)
            await self._give_back(claimed, delay=delay, counts=True)

    def _start(self, held: _Held) -> None:
        task = asyncio.create_task(self._guarded(held))
        self._tasks[task] = held
        task.add_done_callback(self._ended)

    async def _guarded(self, held: _Held) -> None:
        try:
            await self._attend(held)
        except LedgerUnavailable as error:
            # Its lease runs out.
            self._failure = error
        except PrefectUnavailable as error:
            self._failure = error
            await self._try_back(held.claimed, delay=1.0, counts=False)
        except Exception:
            logger.exception("fallback %s", held.claimed.id)
            await self._try_back(held.claimed, delay=RETRY_SECONDS, counts=True)

    async def _attend(self, held: _Held) -> None:
        fallback = await self.load(held.claimed)
        if fallback is None:
            return
        if held.run is None:
            if await self.is_under_way(fallback):
                await self._give_back(held.claimed, delay=_next_look(fallback), counts=False)
                return
            held.run = await self.create(fallback)
        await self.store(held.claimed, held.run)
        await self.settle(held, await self.execute(held, held.run))

    async def _give_back(self, claimed: Claimed, *, delay: float, counts: bool) -> None:
        async with self._database.transaction(claimed.tenant_id) as connection:
            await fallbacks.give_back(
                connection, claimed, owner=self._owner, delay=delay, counts=counts
            )

    async def _try_back(self, claimed: Claimed, *, delay: float, counts: bool) -> None:
        try:
            await self._give_back(claimed, delay=delay, counts=counts)
        except LedgerUnavailable:
            logger.warning("fallback %s is left to its lease: the ledger is away", claimed.id)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._on_free()


def _timeout(fallback: Fallback) -> float:
    """Seconds that the step at hand may take; none where the ladder cannot be read."""
    try:
        return parse_ladder(fallback.ladder)[fallback.step].timeout
    except (ConfigurationError, IndexError):
        return 0.0


def _next_look(fallback: Fallback) -> float:
    """Seconds until the next look: farther apart the longer it takes, and when its time is up."""
    age = 0.0 if fallback.begun is None else fallback.begun.seconds
    return min(max(FIRST_LOOK, age / 4), LAST_LOOK, _timeout(fallback) - age + 0.1)


def _uuid(value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        return UUID(int=0)


async def _execute(run: FlowRun, tenant: UUID, owner: str) -> State[Any]:
    inbox.tenant.set(tenant)
    inbox.owner.set(owner)
    made = run_flow(fall_back, flow_run=run, parameters=run.parameters, return_type="state")
    return await cast(Awaitable[State[Any]], made)
