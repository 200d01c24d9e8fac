"""The kinds of steps of a fallback: each starts something, looks what became of it, undoes it.

Starting is safe to repeat: what is started has a name that follows from the fallback and the step.
Only a notification may come twice.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import prefect.blocks.notifications as prefect_blocks
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling

from ..core.errors import (
    ConfigurationError,
    EventUnprocessable,
    OutcomeUnknown,
    RequestError,
)
from ..core.ladder import Step, StepKind
from ..core.templating import render_parameters
from ..ledger import events, fallback_ends, fallbacks, outbox
from ..ledger.database import Database
from ..ledger.fallbacks import BegunStep, Fallback
from ..ledger.states import EventState
from . import fallback_workflows as workflows
from .inbox import load_event
from .notice import notice_of

MAX_ERROR = 500

KNOWN = prefect_blocks.__name__
"""Prefect's own notification blocks: loaded by name, they have to be imported before."""

CLOCK_SLACK = 60.0
"""Seconds that n8n's clock may be behind."""

REFUSED = frozenset({400, 404, 409, 422})
"""Statuses with which Prefect refuses a flow run for good."""


class StepFailed(Exception):
    """The step did not do what it was to do; the message says why."""


class Action(ABC):
    """One step at work, under ``owner``'s lease; ``ref`` is what it started."""

    def __init__(self, database: Database, owner: str, fallback: Fallback, step: Step) -> None:
        begun = fallback.begun
        self.database = database
        self.owner = owner
        self.fallback = fallback
        self.step = step
        self.seconds = 0.0 if begun is None else begun.seconds
        self.ref: str | None = None if begun is None else begun.ref

    @property
    def number(self) -> int:
        """The step's number, from 1."""
        return self.fallback.step + 1

    @property
    def name(self) -> str:
        """The name of what the step starts: the same whenever it is repeated."""
        return f"{self.fallback.subject_id}:{self.fallback.redrive}:{self.number}"

    @abstractmethod
    async def start(self) -> None:
        """Start it, or find it started, and set ``ref``.

        Raises:
            StepFailed: it cannot be started.
        """

    @abstractmethod
    async def look(self) -> bool:
        """Whether it has done its work; False while it is under way.

        Raises:
            StepFailed: it failed, or takes too long.
        """

    async def undo(self) -> None:  # noqa: B027 - a notification cannot be undone
        """Stop what was started and is not done."""

    async def look_after_undo(self) -> bool | None:
        """What ``undo`` came to: True where the work was done after all, False where it is under
        way and cannot be stopped at this moment, None where it is stopped."""
        return None

    async def store(self, ref: str) -> None:
        """Store what was started."""
        self.ref = ref
        async with self.database.transaction(self.fallback.tenant_id) as connection:
            await fallbacks.set_ref(connection, self.fallback, ref, owner=self.owner)

    def check_time(self) -> None:
        """Fail a step that takes too long."""
        if self.seconds > self.step.timeout:
            raise self.too_long()

    def too_long(self) -> StepFailed:
        """The failure of a step that takes too long."""
        return StepFailed(f"not done within {self.step.timeout:g} s")


class EndpointAction(Action):
    """Records a delivery of the same body to another endpoint. It has no fallback of its own."""

    async def start(self) -> None:
        """Record the delivery, in one transaction with its id."""
        at = self.fallback
        async with self.database.transaction(at.tenant_id) as connection:
            body, type, trace = await events.load_raw(connection, at.tenant_id, at.event_id)
            try:
                recorded = await outbox.record(
                    connection,
                    at.tenant_id,
                    endpoint=self.step.target,
                    body=body,
                    event_id=f"fallback:{self.name}",
                    type=type,
                    trace=trace,
                    parent=at.event_id,
                    actor=f"launcher {self.owner}",
                )
            except (ConfigurationError, RequestError) as error:
                raise StepFailed(str(error)) from None
            self.ref = str(recorded.id)
            await fallbacks.set_ref(connection, at, self.ref, owner=self.owner)

    async def look(self) -> bool:
        """Ask the ledger how far the delivery is."""
        child = await self._child()
        if child is None:
            raise StepFailed("its delivery is gone")
        if child.child_state == EventState.COMPLETED:
            return True
        if child.child_state in (EventState.DEAD, EventState.CANCELLED):
            raise StepFailed(f"{child.child_state}: {child.child_reason or 'no reason'}")
        self.check_time()
        return False

    async def undo(self) -> None:
        """Cancel the delivery, unless it is being made."""
        async with self.database.transaction(self.fallback.tenant_id) as connection:
            await fallback_ends.cancel_child(
                connection, self.fallback.tenant_id, UUID(self.ref), owner=self.owner
            )

    async def look_after_undo(self) -> bool | None:
        """A delivery that was being made may have arrived."""
        child = await self._child()
        state = None if child is None else child.child_state
        if state in (EventState.DEAD, EventState.CANCELLED):
            return None
        return state == EventState.COMPLETED

    async def _child(self) -> BegunStep | None:
        at = self.fallback
        async with self.database.transaction(at.tenant_id) as connection:
            steps = await fallbacks.steps_of(connection, at.tenant_id, at.id)
        return next((s for s in steps if s.number == self.number and s.child_state), None)


class DeploymentAction(Action):
    """Starts a flow run of a deployment, and waits for its end without holding a run."""

    async def start(self) -> None:
        """Create the flow run, or find it by its idempotency key."""
        at = self.fallback
        async with self.database.transaction(at.tenant_id) as connection:
            event = await events.load(connection, at.tenant_id, at.event_id)
        assert event is not None, at.event_id
        try:
            parameters = render_parameters(self.step.parameters, event)
            async with get_client() as client:
                deployment = await client.read_deployment_by_name(self.step.target)
                run = await client.create_flow_run_from_deployment(
                    deployment.id,
                    parameters=parameters,
                    idempotency_key=f"n8n:fallback:{at.tenant_id}:{self.name}",
                    name=f"fallback · {event['endpoint']} · {at.event_id}",
                    tags=["n8n", "fallback", f"endpoint:{event['endpoint']}"],
                )
        except ObjectNotFound:
            raise StepFailed(f"Prefect has no deployment {self.step.target!r}") from None
        except EventUnprocessable as error:
            raise StepFailed(str(error)) from None
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in REFUSED:
                raise
            text = error.response.text[:MAX_ERROR]
            raise StepFailed(f"Prefect refused it ({error.response.status_code}): {text}") from None
        await self.store(str(run.id))

    async def look(self) -> bool:
        """Ask Prefect for the run's state."""
        run = await read_run(UUID(self.ref))
        state = None if run is None else run.state
        if run is None or state is None:
            raise StepFailed("its flow run was deleted in Prefect")
        if state.is_completed():
            return True
        if state.is_final():
            raise StepFailed(f"{state.name}: {state.message or 'no message'}"[:MAX_ERROR])
        self.check_time()
        return False

    async def undo(self) -> None:
        """Cancel the run, if it has not ended."""
        run = await read_run(UUID(self.ref))
        if run is not None and run.state is not None and not run.state.is_final():
            async with get_client() as client:
                await client.set_flow_run_state(run.id, Cancelling())

    async def look_after_undo(self) -> bool | None:
        """The run may have completed just before."""
        run = await read_run(UUID(self.ref))
        done = run is not None and run.state is not None and run.state.is_completed()
        return True if done else None


class NotificationAction(Action):
    """Tells someone through a notification block."""

    async def start(self) -> None:
        """Send the notice."""
        event = await load_event(self.fallback.event_id)
        subject, body = notice_of(event, self.fallback)
        try:
            async with asyncio.timeout(self.step.timeout):
                block: Any = await Block.aload(self.step.target)
                if not isinstance(block, NotificationBlock):
                    raise StepFailed(f"{self.step.target} is no notification block")
                with block.raise_on_failure():
                    await _notify(block, body, subject)
        except StepFailed:
            raise
        except TimeoutError:
            raise self.too_long() from None
        except Exception as error:
            # The block's own, and whatever it says may carry its address, which is a secret.
            raise StepFailed(f"not sent: {type(error).__name__}") from None

    async def look(self) -> bool:
        """It is sent."""
        return True


class WorkflowAction(Action):
    """Runs an n8n workflow, and waits for its end without holding a run."""

    async def start(self) -> None:
        """Start the workflow. Where an earlier launcher may have, n8n is asked first."""
        event = await load_event(self.fallback.event_id)
        name = f"fallback:{self.name}"
        since = timedelta(seconds=self.seconds + CLOCK_SLACK)
        try:
            async with asyncio.timeout(self.step.timeout):
                block = await workflows.load(self.step.target)
                ref = None
                if self.fallback.begun is not None:
                    ref = await workflows.find(block, name, since=datetime.now(UTC) - since)
                if ref is None:
                    ref = (await block.atrigger(event.body, event_id=name)).execution_id
        except OutcomeUnknown:
            # It may run: asked again later.
            return
        except TimeoutError:
            raise self.too_long() from None
        except Exception as error:
            raise StepFailed(_said(error)) from None
        await self.store(str(ref))

    async def look(self) -> bool:
        """Ask n8n how far the execution is."""
        failure = None if self.ref is None else await workflows.look(self.step.target, self.ref)
        if failure is None:
            self.check_time()
            return False
        if failure:
            raise StepFailed(failure)
        return True

    async def undo(self) -> None:
        """Stop the execution in n8n."""
        if self.ref is not None:
            await workflows.stop(self.step.target, self.ref)

    async def look_after_undo(self) -> bool | None:
        """The workflow may have ended just before."""
        if self.ref is None:
            return None
        return True if await workflows.look(self.step.target, self.ref) == "" else None


ACTIONS: dict[StepKind, type[Action]] = {
    StepKind.ENDPOINT: EndpointAction,
    StepKind.WORKFLOW: WorkflowAction,
    StepKind.DEPLOYMENT: DeploymentAction,
    StepKind.NOTIFICATION: NotificationAction,
}


async def read_run(id: UUID) -> FlowRun | None:
    """Return the flow run as Prefect has it now; None where it was deleted."""
    async with get_client() as client:
        try:
            return await client.read_flow_run(id)
        except ObjectNotFound:
            return None


async def _notify(block: Any, body: str, subject: str) -> None:
    if hasattr(block, "anotify"):
        await block.anotify(body, subject)
    elif inspect.iscoroutinefunction(block.notify):
        await block.notify(body, subject)
    else:
        await asyncio.to_thread(block.notify, body, subject)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\x00", "")[:MAX_ERROR]
