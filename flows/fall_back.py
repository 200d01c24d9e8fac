"""The shipped flow ``fall-back``: what is done in place of what failed, as an operator sees it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.transactions import atransaction

from ..core.errors import ConfigurationError
from ..core.ladder import Step, StepKind, parse_ladder
from ..core.settings import settings
from ..ledger import fallback_ends, fallbacks
from ..ledger.database import Database
from ..ledger.fallbacks import Fallback
from ..ledger.states import FallbackState, StepState
from . import inbox
from .fallback_steps import ACTIONS, Action, StepFailed, read_run


@flow(name="fall-back", flow_run_name="fall back · {fallback_id}", persist_result=False)
async def fall_back(fallback_id: UUID) -> State[Any]:
    """Take the next steps of a fallback: another endpoint, an n8n workflow, a deployment, a notice.

    The launcher starts it, with the fallback's id. Steps that take long do not hold it: it ends,
    and another run goes on.
    """
    owner = inbox.owner.get()
    if owner is None:
        raise ConfigurationError("A launcher starts fall-back: it holds the fallback's lease.")
    climb = Climb(inbox.database(), inbox.tenant.get() or settings().tenant_id, fallback_id, owner)
    try:
        return Completed(message=await climb.go_on())
    except LeaseLost:
        return Completed(message="Another launcher goes on with this fallback.")


class LeaseLost(Exception):
    """Another launcher has the fallback."""


class Climb:
    """One fallback under its owner's lease, step by step."""

    def __init__(self, database: Database, tenant: UUID, id: UUID, owner: str) -> None:
        self._database = database
        self._tenant = tenant
        self._id = id
        self._owner = owner

    async def go_on(self) -> str:
        """Take steps until one saves the subject, one is under way, or none is left."""
        while True:
            fallback = await self.load()
            try:
                ladder = parse_ladder(fallback.ladder)
            except ConfigurationError as error:
                return await self.end(FallbackState.DEAD, str(error))
            if await self.has_recovered(fallback):
                return await self.end(FallbackState.COMPLETED, "its flow run completed after all")
            if fallback.step >= len(ladder):
                return await self.end(FallbackState.DEAD, None)
            step = ladder[fallback.step]
            done = await self.take(fallback, step)
            if done is False:
                return f"Step {fallback.step + 1}, {step.title}, is under way."
            if done and step.kind is not StepKind.NOTIFICATION:
                return await self.end(FallbackState.COMPLETED, f"by fallback: {step.title}")

    async def load(self) -> Fallback:
        """Return the fallback as it stands."""
        async with self._database.transaction(self._tenant) as connection:
            found = await fallbacks.load(connection, self._tenant, self._id, owner=self._owner)
        if found is None:
            raise LeaseLost
        return found

    async def has_recovered(self, fallback: Fallback) -> bool:
        """Whether the flow run in whose place the fallback stands completed after all: the state
        of a crashed run may still change."""
        if fallback.failed_run_id is None or fallback.begun is not None:
            return False
        run = await read_run(fallback.failed_run_id)
        return run is not None and run.state is not None and run.state.is_completed()

    async def take(self, fallback: Fallback, step: Step) -> bool | None:
        """Take one step, or look at the one begun; True: done, None: failed, False: under way."""
        if fallback.begun is None:
            await self.begin_step(fallback, step)
        action = ACTIONS[step.kind](self._database, self._owner, fallback, step)
        try:
            done = await self.act(action)
        except StepFailed as failure:
            await self.close_step(fallback, StepState.FAILED, str(failure))
            return None
        if done:
            await self.close_step(fallback, StepState.COMPLETED, None)
        return done

    async def begin_step(self, fallback: Fallback, step: Step) -> None:
        """Record the step before it acts."""
        async with self._database.transaction(self._tenant) as connection:
            if not await fallbacks.begin_step(
                connection, fallback, kind=step.kind, target=step.target, owner=self._owner
            ):
                raise LeaseLost

    async def act(self, action: Action) -> bool:
        """Start what the step starts and look at it, each as a task, in one Prefect transaction.

        Where the look says that it failed, the transaction is rolled back: what was started is
        undone. A run that is cancelled or killed undoes nothing: the next one goes on.
        """
        failures: list[StepFailed] = []

        async def start() -> None:
            if action.ref is None:
                await self.start(action)

        async def look() -> bool:
            try:
                return await action.look()
            except StepFailed as failure:
                failures.append(failure)
                raise

        async def undo(_: Any) -> None:
            if failures:
                await self.undo(action)

        title = f"step {action.number}: {action.step.title}"
        try:
            async with atransaction():
                await _task(start, title, undo)()
                return await _task(look, f"outcome of {title}")()
        except StepFailed:
            after = await action.look_after_undo() if failures else None
            if after is None:
                raise
            return after

    async def start(self, action: Action) -> None:
        """Start what the step starts."""
        await action.start()

    async def undo(self, action: Action) -> None:
        """Undo what the step started."""
        await action.undo()

    async def close_step(self, fallback: Fallback, state: StepState, error: str | None) -> None:
        """Record what the step came to."""
        async with self._database.transaction(self._tenant) as connection:
            if not await fallbacks.close_step(
                connection, fallback, state, error=error, owner=self._owner
            ):
                raise LeaseLost

    async def end(self, state: FallbackState, by: str | None) -> str:
        """End the fallback, and with it what failed."""
        async with self._database.transaction(self._tenant) as connection:
            if not await fallback_ends.end(
                connection, self._tenant, self._id, state, by=by, owner=self._owner
            ):
                raise LeaseLost
        return f"Parked as dead. {by or ''}".strip() if state is FallbackState.DEAD else str(by)


def _task(fn: Any, name: str, *on_rollback: Any) -> Task[[], Any]:
    return Task(
        fn, name=name, cache_policy=NO_CACHE, persist_result=False, on_rollback=list(on_rollback)
    )
