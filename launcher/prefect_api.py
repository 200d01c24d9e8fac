"""The launcher's calls to Prefect: each bounded in time, each failure one exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Crashed, Failed, Pending, Scheduled
from prefect.types._datetime import now

from ..core.errors import PrefectRefused, PrefectUnavailable

CALL_SECONDS = 15.0
"""A call of Prefect's client may retry for a minute; the event waits better in the inbox."""


MAX_REASON = 500


class DeploymentMissing(Exception):
    """A trigger names a deployment that Prefect does not know."""


class PrefectApi:
    """What the launcher asks of Prefect."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._deployments: dict[str, UUID] = {}

    async def deployment_id(self, name: str) -> UUID:
        """Return the id of ``flow/deployment``.

        Raises:
            DeploymentMissing: there is none.
            PrefectUnavailable: Prefect is away.
        """
        if name not in self._deployments:
            try:
                async with bounded():
                    found = await self._client.read_deployment_by_name(name)
            except ObjectNotFound:
                raise DeploymentMissing(f"Prefect has no deployment {name!r}.") from None
            self._deployments[name] = found.id
        return self._deployments[name]

    async def create_run(
        self,
        deployment: str,
        *,
        parameters: dict[str, Any],
        key: str,
        name: str,
        tags: Iterable[str],
    ) -> FlowRun:
        """Create the flow run with idempotency ``key``, or return the one that has it.

        Raises:
            DeploymentMissing: the deployment is gone.
            PrefectRefused: the parameters do not fit it.
            PrefectUnavailable: Prefect is away.
        """
        id = await self.deployment_id(deployment)
        try:
            async with bounded():
                return await self._client.create_flow_run_from_deployment(
                    id, parameters=parameters, idempotency_key=key, name=name, tags=tags
                )
        except ObjectNotFound:
            self._deployments.pop(deployment, None)
            raise DeploymentMissing(f"Prefect has no deployment {deployment!r}.") from None

    async def create_own_run(
        self, flow: Flow[..., Any], *, parameters: dict[str, Any], name: str, tags: list[str]
    ) -> FlowRun:
        """Create a run that only this process executes: without a deployment, and Pending.

        Raises:
            PrefectUnavailable: Prefect is away.
        """
        async with bounded():
            return await self._client.create_flow_run(
                flow, parameters=parameters, name=name, tags=tags, state=Pending()
            )

    async def stale_runs(self, flow: Flow[..., Any], *, older_than: float) -> list[UUID]:
        """Return runs of ``flow`` that have not ended and began longer ago than these seconds."""
        began = cast(Any, now("UTC") - timedelta(seconds=older_than))
        wanted = FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
            ),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=began),
        )
        of = FlowFilter(name=FlowFilterName(any_=[flow.name]))
        async with bounded():
            found = await self._client.read_flow_runs(
                flow_filter=of, flow_run_filter=wanted, limit=200
            )
        return [run.id for run in found]

    async def claim(self, run: FlowRun) -> bool:
        """Propose Pending: of many claimers exactly one is accepted, and limits apply here."""
        async with bounded():
            answer = await self._client.set_flow_run_state(run.id, Pending())
        if answer.status is not SetStateStatus.ACCEPT or answer.state is None:
            return False
        run.state = answer.state
        return True

    async def run_again(self, run: UUID) -> None:
        """Put a lost run back to Scheduled; the same run is then claimed and run again."""
        state: State[Any] = Scheduled(
            name="AwaitingRetry", scheduled_time=now("UTC"), message="Its runner was lost."
        )
        async with bounded():
            await self._client.set_flow_run_state(run, state)

    async def end_cancelled(self, run: UUID) -> None:
        """Say that the run has been stopped."""
        async with bounded():
            await self._client.set_flow_run_state(run, Cancelled(), force=True)

    async def end_failed(self, run: UUID, message: str) -> None:
        """Say that the run cannot be run."""
        async with bounded():
            await self._client.set_flow_run_state(run, Failed(message=message), force=True)

    async def end_crashed(self, run: UUID, message: str) -> None:
        """Say that the run will not be run again."""
        async with bounded():
            await self._client.set_flow_run_state(run, Crashed(message=message), force=True)

    async def read(self, runs: Sequence[UUID]) -> dict[UUID, FlowRun]:
        """Return those of the runs (at most 200) that exist."""
        if not runs:
            return {}
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(runs)))
        async with bounded():
            found = await self._client.read_flow_runs(flow_run_filter=wanted, limit=200)
        return {run.id: run for run in found}

    async def due(self, deployments: list[UUID], most: int) -> list[FlowRun]:
        """Return scheduled runs of the deployments that are due."""
        if not deployments or most <= 0:
            return []
        async with bounded():
            return await self._client.get_scheduled_flow_runs_for_deployments(
                deployments, scheduled_before=now("UTC"), limit=most
            )


@asynccontextmanager
async def bounded() -> AsyncGenerator[None]:
    """Bound the calls inside in time.

    Raises:
        PrefectUnavailable: Prefect is away or slow.
        PrefectRefused: the call is wrong, and stays wrong.
        ObjectNotFound: what the call is about does not exist.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS):
            yield
    except ObjectNotFound:
        raise
    except httpx.HTTPStatusError as error:
        raise _of_status(error) from error
    except (TimeoutError, httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
        # RuntimeError: the client says so when the server's API cannot be reached at first use.
        raise PrefectUnavailable(f"Prefect did not answer: {type(error).__name__}") from error


def _of_status(error: httpx.HTTPStatusError) -> Exception:
    """Tell what a repeated call may change from what it cannot."""
    status = error.response.status_code
    if status == 404:
        return ObjectNotFound(error)
    if status in (400, 409, 422):
        return PrefectRefused(f"Prefect refused it ({status}): {error.response.text[:MAX_REASON]}")
    return PrefectUnavailable(f"Prefect answered with status {status}.")
