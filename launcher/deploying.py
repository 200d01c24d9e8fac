"""Registers loaded flows: an endpoint, a trigger and a deployment for each. Safe to repeat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.utilities.callables import parameter_schema

from ..core.settings import Settings
from ..flows.webhook import WebhookFlow
from ..ledger.database import Database
from ..ledger.endpoints import OutboundEndpoint, ensure_outbound
from ..ledger.registry import (
    EndpointSpec,
    TriggerSpec,
    ensure_endpoint,
    ensure_trigger,
    retire_triggers,
)
from .prefect_api import bounded

logger = logging.getLogger("prefect_n8n.launcher")

TAG = "prefect-n8n"
SHIPPED = "prefect-n8n"
"""The deployments' name of flows that come with this package."""

ACTOR = "deploy"


async def deploy(
    flows: Sequence[WebhookFlow],
    file: Path,
    *,
    endpoints: Sequence[OutboundEndpoint] = (),
    database: Database,
    client: PrefectClient,
    settings: Settings,
) -> dict[UUID, WebhookFlow]:
    """Register the flows of ``file`` (an absolute path); return them by the id of their deployment.

    Its outbound ``endpoints`` are made or changed, too.

    A trigger that an earlier version of the file made, and this one does not, is retired.

    Raises:
        Unavailable: Prefect or PostgreSQL is away; repeat it later.
    """
    deployed: dict[UUID, WebhookFlow] = {}
    for flow in flows:
        async with bounded():
            deployed[await _deploy(client, flow, file)] = flow
        await _register(database, settings.tenant_id, flow)
    async with database.transaction(settings.tenant_id) as connection:
        for endpoint in endpoints:
            await ensure_outbound(connection, settings.tenant_id, endpoint, actor=ACTOR)
    async with bounded():
        gone = await _gone(client, flows, file)
    async with database.transaction(settings.tenant_id) as connection:
        retired = await retire_triggers(connection, settings.tenant_id, gone, actor=ACTOR)
    for name in retired:
        logger.warning("trigger %s is retired: %s has no such flow any more", name, file.name)
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


async def _gone(client: PrefectClient, flows: Sequence[WebhookFlow], file: Path) -> list[str]:
    """Return the names of deployments made from this file that are not among ``flows``."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    here = f"{file}:"
    now = {flow.deployment for flow in flows}
    gone: list[str] = []
    for deployment in await client.read_deployments(deployment_filter=ours, limit=200):
        if (deployment.entrypoint or "").startswith(here):
            name = f"{(await client.read_flow(deployment.flow_id)).name}/{deployment.name}"
            gone += [] if name in now else [name]
    return gone


async def _register(database: Database, tenant: UUID, flow: WebhookFlow) -> None:
    """Write endpoint and trigger."""
    async with database.transaction(tenant) as connection:
        spec = EndpointSpec(flow.endpoint, scheme=flow.scheme)
        endpoint = await ensure_endpoint(connection, tenant, spec, actor=ACTOR)
        trigger = TriggerSpec(flow.name, flow.types, flow.deployment, fallback=flow.fallback)
        await ensure_trigger(connection, tenant, endpoint, trigger, actor=ACTOR)
