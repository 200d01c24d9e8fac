"""An n8n workflow as Prefect's job block: start it, wait for it, take its result."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from opentelemetry import propagate
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field, HttpUrl

from ..core.errors import (
    CallFailed,
    ConfigurationError,
    N8nConflict,
    N8nExecutionUnfinished,
    PrefectN8nError,
)
from ..core.signing import scheme_of
from .blocking import dual, finish, run_blocking
from .credentials import N8nCredentials

if TYPE_CHECKING:
    from .answers import Execution
    from .client import N8nClient
    from .starting import Order

logger = logging.getLogger("prefect_n8n.blocks")

T = TypeVar("T")
Items = list[dict[str, Any]]

STOP_SECONDS = 15.0
"""How long the stop of an execution may take when its flow run is cancelled."""
ARTIFACT_SECONDS = 10.0
_EVENT_ID = re.compile(r"[\x21-\x7e]{1,200}")


class N8nWorkflow(JobBlock):  # pyright: ignore[reportMissingTypeArgument]
    """A workflow of n8n that starts with a Webhook node.

    Each call is signed. In a flow run it has an id that a retry has again: the retry finds the
    execution that was started before, and starts none beside it.

    Example:
        ```python
        from prefect import flow
        from prefect_n8n import N8nWorkflow

        @flow
        def nightly():
            workflow = N8nWorkflow.load("BLOCK_NAME")
            run = workflow.trigger({"customer": 42})
            run.wait_for_completion()
            return run.fetch_result()
        ```
    """

    _block_type_name: ClassVar[str] = "n8n Workflow"  # pyright: ignore[reportIncompatibleVariableOverride]
    _block_type_slug: ClassVar[str] = "n8n-workflow"  # pyright: ignore[reportIncompatibleVariableOverride]
    _logo_url: ClassVar[HttpUrl] = HttpUrl("https://n8n.io/favicon.ico")  # pyright: ignore[reportIncompatibleVariableOverride]
    _documentation_url: ClassVar[HttpUrl] = HttpUrl("https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/")  # pyright: ignore[reportIncompatibleVariableOverride]  # fmt: skip

    credentials: N8nCredentials = Field(
        title="n8n credentials",
        description="Where n8n is, its API key, and the secret that signs the calls.",
    )
    webhook: str = Field(
        min_length=1,
        title="Webhook",
        description="Path of the workflow's Webhook node, such as orders/new, or its whole URL.",
    )
    scheme: Literal["standard", "hmac"] = Field(
        default="standard",
        title="Signature scheme",
        description="How calls are signed: standard (Standard Webhooks) or hmac.",
    )
    workflow_id: str | None = Field(
        default=None,
        title="Workflow id",
        description="The workflow's id in n8n; without it n8n is asked whose the webhook is.",
    )
    call_seconds: float = Field(
        default=30.0,
        gt=0,
        title="Seconds for one call",
        description="How long the webhook may take to answer one call.",
    )
    start_seconds: float = Field(
        default=60.0,
        ge=0,
        title="Seconds to start",
        description="How long starting is tried while n8n is away, loads, or does not say.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        title="Seconds to wait",
        description="After how long an execution that is waited for is stopped; empty: never.",
    )
    poll_seconds: float = Field(
        default=5.0,
        gt=0,
        title="Longest pause",
        description="How often, in seconds, n8n is asked about a long execution.",
    )
    away_seconds: float = Field(
        default=300.0,
        ge=0,
        title="Seconds away",
        description="How long n8n may be away while its execution is waited for.",
    )

    async def atrigger(self, body: object = None, *, event_id: str | None = None) -> N8nWorkflowRun:
        """Start the workflow and return its run, whose execution id is known.

        ``body`` is any JSON; None is ``{}``. In a flow run that is tried again this returns the
        execution that was started before, where that still runs or has succeeded. ``event_id``
        takes the place of the delivery id; it is up to 200 printable ASCII characters.

        Raises:
            CallRefused: this process does not allow the target, or the body is too large.
            CallNotSent: n8n was not reached.
            OutcomeUnknown: it was called, and n8n does not say whether the workflow runs.
            N8nTriggerFailed: n8n or the workflow refused, or its execution is not to be found.
            ConfigurationError: the credentials have no webhook secret.
        """
        # Here, because every process that imports Prefect imports this module.
        from .starting import Starter

        run: N8nWorkflowRun | None = None
        async with self.credentials.get_client() as client:
            starter = Starter(client, self._order(body, event_id))
            try:
                started = await starter.start()
                run = N8nWorkflowRun(self, started.execution_id, started.delivery_id)
                run.reattached = started.reattached
                run.link = await self._link(client, started.execution_id)
                verb = "Found" if run.reattached else "Started"
                self.logger.info("%s n8n execution %s. %s", verb, run.execution_id, run.link or "")
                await _show(run)
            except asyncio.CancelledError:
                stop = starter.stop() if run is None else run.astop()
                await _at_best(stop, STOP_SECONDS, "what was started in n8n is not stopped")
                raise
        return run

    @dual(atrigger)
    def trigger(self, body: object = None, *, event_id: str | None = None) -> N8nWorkflowRun:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the workflow, as :meth:`atrigger`; in async code the same, to be awaited."""
        return _blocking(self.atrigger(body, event_id=event_id))

    def run_of(self, execution_id: str) -> N8nWorkflowRun:
        """Return the run of an execution whose id is known."""
        return N8nWorkflowRun(self, execution_id)

    def _order(self, body: object, event_id: str | None) -> Order:
        from .identity import identify
        from .starting import Order

        if event_id is not None and not _EVENT_ID.fullmatch(event_id):
            raise ValueError("An event id has 1 to 200 printable ASCII characters, without spaces.")
        keys = self.credentials.keys()
        if not keys:
            raise ConfigurationError("The n8n credentials have no webhook secret to sign with.")
        body = {} if body is None else body
        content = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # The same object in another order of its keys is the same call.
        sorted_content = json.dumps(body, allow_nan=False, sort_keys=True)
        return Order(
            webhook=self.webhook,
            content=content.encode(),
            scheme=scheme_of(self.scheme),
            secret=keys[0],
            delivery=identify(self.webhook, sorted_content.encode(), event_id),
            workflow_id=self.workflow_id,
            call_seconds=self.call_seconds,
            start_seconds=self.start_seconds,
            trace=_trace(),
        )

    async def _link(self, client: N8nClient, execution_id: str) -> str | None:
        if self.credentials.api_key is None:
            return None
        try:
            return client.execution_link(await client.execution(execution_id))
        except CallFailed as error:
            self.logger.warning("n8n does not show execution %s: %s", execution_id, error)
            return None


class N8nWorkflowRun(JobRun[Items]):
    """One execution of an :class:`N8nWorkflow`.

    Attributes:
        workflow: The block it was started with.
        execution_id: n8n's id of the execution.
        delivery_id: The id of the call that started it; None where it is not known.
        link: Its address in n8n's editor; None where it is not known.
        reattached: Whether an earlier attempt of the same flow run had started it.
    """

    def __init__(
        self, workflow: N8nWorkflow, execution_id: str, delivery_id: str | None = None
    ) -> None:
        self.workflow = workflow
        self.execution_id = execution_id
        self.delivery_id = delivery_id
        self.link: str | None = None
        self.reattached = False

    async def await_for_completion(self) -> None:
        """Wait until the execution has ended.

        When the waiting run is cancelled or times out, or after the block's ``timeout_seconds``,
        the execution is stopped.

        Raises:
            N8nExecutionFailed, N8nExecutionCancelled, N8nExecutionCrashed: it has no success.
            N8nExecutionUnfinished: ``timeout_seconds`` are over; it has been stopped.
            N8nExecutionGone: n8n does not have it any more.
            CallFailed: n8n was away for too long, or does not let us ask.
        """
        from .following import follow

        block = self.workflow
        try:
            async with block.credentials.get_client() as client:
                execution = await follow(
                    client,
                    self.execution_id,
                    poll_seconds=block.poll_seconds,
                    away_seconds=block.away_seconds,
                    timeout_seconds=block.timeout_seconds,
                )
        except (asyncio.CancelledError, N8nExecutionUnfinished):
            what = f"n8n execution {self.execution_id} is not stopped"
            if await _at_best(self.astop(), STOP_SECONDS, what):
                self.logger.info("Stopped n8n execution %s.", self.execution_id)
            raise
        if execution.status != "success":
            await self.afetch_result()
        self.logger.info("n8n execution %s succeeded.", self.execution_id)

    @dual(await_for_completion)
    def wait_for_completion(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait, as :meth:`await_for_completion`; in async code the same, to be awaited."""
        return _blocking(self.await_for_completion())

    async def afetch_result(self) -> Items:
        """Return the JSON items that the last node put out; it does not wait.

        Raises:
            N8nExecutionUnfinished: the execution still runs or waits.
            N8nExecutionFailed, N8nExecutionCancelled, N8nExecutionCrashed: it has no success.
            N8nExecutionGone: n8n does not have it any more.
            CallFailed: n8n was away for too long, or does not let us ask.
        """
        from .following import failure_of

        execution = await self.afetch_execution()
        if (failure := failure_of(execution, self.link)) is not None:
            raise failure
        return execution.last_output()

    @dual(afetch_result)
    def fetch_result(self) -> Items:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the result, as :meth:`afetch_result`; in async code the same, to be awaited."""
        return _blocking(self.afetch_result())

    async def afetch_execution(self) -> Execution:
        """Return n8n's execution as it is now, with its data.

        Raises:
            N8nExecutionGone: n8n does not have it any more.
            CallFailed: n8n was away for too long, or does not let us ask.
        """
        from .following import ask

        block = self.workflow
        async with block.credentials.get_client() as client:
            execution = await ask(
                client, self.execution_id, away_seconds=block.away_seconds, include_data=True
            )
            self.link = client.execution_link(execution)
        return execution

    @dual(afetch_execution)
    def fetch_execution(self) -> Execution:
        """Return the execution, as :meth:`afetch_execution`; in async code it is awaited."""
        return _blocking(self.afetch_execution())

    async def astop(self) -> None:
        """Stop the execution; one that has ended stays as it is.

        Raises:
            CallFailed: n8n does not answer, or does not stop it.
        """
        async with self.workflow.credentials.get_client() as client:
            with contextlib.suppress(N8nConflict):
                await client.stop_execution(self.execution_id)

    @dual(astop)
    def stop(self) -> None:
        """Stop the execution, as :meth:`astop`; in async code the same, to be awaited."""
        return _blocking(self.astop())

    async def aretry(self) -> N8nWorkflowRun:
        """Have n8n run the failed execution again from its failed node; return the new run.

        Where the new execution takes longer than the block's ``call_seconds``, this returns while
        it runs: wait for it.

        Raises:
            N8nExecutionUnfinished: the execution has not ended.
            N8nConflict: it has succeeded.
            OutcomeUnknown: n8n did not say whether it has begun.
            CallFailed: n8n does not answer, or does not do it.
        """
        from .following import retry

        async with self.workflow.credentials.get_client() as client:
            execution = await retry(client, self.execution_id, self.workflow.call_seconds)
            run = N8nWorkflowRun(self.workflow, execution.id)
            run.link = client.execution_link(execution)
        await _show(run)
        return run

    @dual(aretry)
    def retry(self) -> N8nWorkflowRun:
        """Retry the execution, as :meth:`aretry`; in async code the same, to be awaited."""
        return _blocking(self.aretry())


def _blocking(work: Coroutine[Any, Any, T]) -> T:
    return run_blocking(work, leave_seconds=STOP_SECONDS + 5.0)


async def _at_best(work: Coroutine[Any, Any, None], seconds: float, otherwise: str) -> bool:
    """Do it although we are cancelled; whether it was done. A failure is logged: we must go on."""
    try:
        return await finish(work, seconds=seconds)
    except PrefectN8nError as error:
        logger.warning("%s: %s", otherwise, error)
        return False


async def _show(run: N8nWorkflowRun) -> None:
    """Link to the execution from the run's page in the Prefect UI, where there is a run."""
    if run.link is None or (FlowRunContext.get() is None and TaskRunContext.get() is None):
        return
    from prefect.artifacts import acreate_link_artifact

    try:
        async with asyncio.timeout(ARTIFACT_SECONDS):
            await acreate_link_artifact(
                link=run.link,
                link_text=f"n8n execution {run.execution_id}",
                key="n8n-execution",
                description=f"Execution {run.execution_id} in n8n",
            )
    except Exception as error:
        logger.warning("the link to n8n execution %s is not shown: %s", run.execution_id, error)


def _trace() -> str | None:
    """The W3C traceparent of what is being traced, if anything is."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")
