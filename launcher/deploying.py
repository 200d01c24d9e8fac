"""Registers loaded flows: an endpoint, a trigger and a deployment for each. Safe to repeat."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterId,
)
from prefect.client.schemas.sorting import DeploymentSort
from prefect.utilities.callables import parameter_schema

from ..core.settings import Settings
from ..core.specs import OutboundEndpoint, Trigger
from ..flows.webhook import WebhookFlow
from ..ledger.configuration import save
from ..ledger.database import Database
from ..ledger.registry import register_endpoint, retire_triggers
from .prefect_api import bounded

logger = logging.getLogger("prefect_n8n.launcher")

TAG = "prefect-n8n"
SHIPPED = "prefect-n8n"
"""The deployments' name of flows that come with this package."""

ACTOR = "deploy"
PAGE = 200
"""Prefect's largest page."""


async def deploy(
    flows: Sequence[WebhookFlow],
    file: Path | None,
    *,
    endpoints: Sequence[OutboundEndpoint] = (),
    database: Database,
    client: PrefectClient,
    settings: Settings,
    only: bool = False,
) -> dict[UUID, WebhookFlow]:
    """Register the flows of ``file`` (an absolute path); return them by the id of their deployment.

    Its outbound ``endpoints`` are made or changed, too.

    A trigger that an earlier version of the file made, and this one does not, is retired; with
    ``only`` also those that any other file made. They are on again once their file is loaded.

    Raises:
        Unavailable: Prefect or PostgreSQL is away; repeat it later.
    """
    async with bounded():
        known = await _known(client)
    # First: the flows' deployments tell where the file was before, until they are updated.
    for deployment, old in gone(flows, file, known, only=only).items():
        async with database.transaction(settings.tenant_id) as connection:
            names = await retire_triggers(connection, settings.tenant_id, [deployment], actor=ACTOR)
        for name in names:
            logger.warning("trigger %s is retired: no launcher has %s any more", name, old)
    deployed: dict[UUID, WebhookFlow] = {}
    for flow in flows:
        assert file is not None, "flows come from a file"
        async with bounded():
            deployed[await _deploy(client, flow, file)] = flow
        await _register(database, settings.tenant_id, flow)
    async with database.transaction(settings.tenant_id) as connection:
        for endpoint in endpoints:
            await save(connection, settings.tenant_id, endpoint, actor=ACTOR)
    return deployed


async def deploy_shipped(
    client: PrefectClient, flows: Sequence[Flow[..., Any]]
) -> dict[UUID, Flow[..., Any]]:
    """Create or update the deployments of our own flows; return the flows by deployment id.

    Raises:
        PrefectUnavailable: Prefect is away; repeat it later.
    """
    deployed: dict[UUID, Flow[..., Any]] = {}
    for flow in flows:
        async with bounded():
            id = await client.create_deployment(
                await client.create_flow(flow),
                SHIPPED,
                description=flow.description,
                entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
                tags=[TAG, "shipped"],
                parameter_openapi_schema=parameter_schema(flow).model_dump(),
                enforce_parameter_schema=True,
            )
        deployed[id] = flow
    return deployed


def gone(
    flows: Sequence[WebhookFlow], file: Path | None, known: Mapping[str, str], *, only: bool
) -> dict[str, str]:
    """Return those of the ``known`` deployments (name to entrypoint) that are not started any more.

    These are the ones that ``file`` had, here or where it was moved from, and the ``flows`` do not
    have; a file of the same name in another place that is there, or has none of the flows, is
    another file. With ``only`` they are all that are not among the flows.
    """
    now = {flow.deployment for flow in flows}
    places = {str(file)}
    for name in now & known.keys():
        before = Path(_file_of(known[name]))
        if file is not None and before.name == file.name and not before.exists():
            places.add(str(before))
    return {
        name: entrypoint
        for name, entrypoint in known.items()
        if name not in now and (only or _file_of(entrypoint) in places)
    }


async def _deploy(client: PrefectClient, flow: WebhookFlow, file: Path) -> UUID:
    """Create or update the deployment. It has no work pool: the resident runner executes it."""
    return await client.create_deployment(
        await client.create_flow(flow),
        flow.endpoint,
        version=flow.version,
        description=flow.description,
        entrypoint=f"{file}:{flow.handler.fn.__name__}",
        path=str(file.parent),
        tags=[TAG, f"endpoint:{flow.endpoint}"],
        parameter_openapi_schema=parameter_schema(flow).model_dump(),
        enforce_parameter_schema=True,
    )


async def _known(client: PrefectClient) -> dict[str, str]:
    """Return the entrypoints of all deployments that files have made, by name."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    known: dict[str, str] = {}
    offset = 0
    # The newest first: one that is made meanwhile shows another twice, and hides none.
    order = DeploymentSort.CREATED_DESC
    while page := await client.read_deployments(
        deployment_filter=ours, limit=PAGE, offset=offset, sort=order
    ):
        ids = list({deployment.flow_id for deployment in page})
        flows = await client.read_flows(
            flow_filter=FlowFilter(id=FlowFilterId(any_=ids)), limit=PAGE
        )
        names = {flow.id: flow.name for flow in flows}
        for deployment in page:
            # Our own flows come from no file.
            if _file_of(deployment.entrypoint or ""):
                name = f"{names.get(deployment.flow_id)}/{deployment.name}"
                known[name] = deployment.entrypoint or ""
        offset += len(page)
    return known


def _file_of(entrypoint: str) -> str:
    return entrypoint.rpartition(":")[0]


async def _register(database: Database, tenant: UUID, flow: WebhookFlow) -> None:
    """Write endpoint and trigger."""
    async with database.transaction(tenant) as connection:
        await register_endpoint(connection, tenant, flow.endpoint, flow.scheme, actor=ACTOR)
        trigger = Trigger(
            flow.name, flow.endpoint, flow.deployment, list(flow.types), None, list(flow.fallback)
        )
        await save(connection, tenant, trigger, actor=ACTOR)
