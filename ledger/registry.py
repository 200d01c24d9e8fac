"""Endpoints, triggers and tokens: what is configured, found by those who need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.specs import InboundEndpoint
from . import audit
from .configuration import find, save
from .kinds import ENDPOINTS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An inbound endpoint as its users need it."""

    tenant_id: UUID
    id: UUID
    slug: str
    scheme: str
    scheme_options: dict[str, Any]
    credentials_block: str
    event_id_field: str
    event_type_field: str
    max_body: int


@dataclass(frozen=True, slots=True)
class Offer:
    """An inbound endpoint and what its triggers that are on take and start."""

    slug: str
    scheme: str
    types: list[str]
    deployments: list[str]


@dataclass(frozen=True, slots=True)
class Token:
    """A verified bearer token."""

    tenant_id: UUID
    id: UUID
    scopes: frozenset[str]


def token_sha256(token: str) -> bytes:
    """Return the form in which tokens are stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


_ENDPOINT = """
    SELECT tenant_id, id, slug, scheme, scheme_options, credentials_block, event_id_field,
           event_type_field, max_body
    FROM prefect_n8n.webhook_endpoints WHERE direction = 'inbound' AND tenant_id = :tenant
"""
_BY_SLUG = text(_ENDPOINT + " AND slug = :slug")
_BY_ID = text(_ENDPOINT + " AND id = :id")
_BLOCKS = text("""
    SELECT DISTINCT credentials_block FROM prefect_n8n.webhook_endpoints
    WHERE direction = 'inbound' AND tenant_id = :tenant
""")
_OFFERS = text("""
    SELECT e.slug, e.scheme,
           ARRAY(SELECT DISTINCT unnest(t.types) FROM prefect_n8n.workflow_triggers t
                 WHERE t.tenant_id = e.tenant_id AND t.endpoint_id = e.id AND t.state = 'on'
                 ORDER BY 1) AS types,
           ARRAY(SELECT DISTINCT t.deployment FROM prefect_n8n.workflow_triggers t
                 WHERE t.tenant_id = e.tenant_id AND t.endpoint_id = e.id AND t.state = 'on'
                 ORDER BY 1) AS deployments
    FROM prefect_n8n.webhook_endpoints e
    WHERE e.direction = 'inbound' AND e.tenant_id = :tenant ORDER BY e.slug
""")
_RESOLVE_ENDPOINT = text("SELECT * FROM prefect_n8n.resolve_endpoint(:hash)")
_RESOLVE_TOKEN = text("SELECT * FROM prefect_n8n.resolve_token(:hash)")

_RETIRE = text("""
    UPDATE prefect_n8n.workflow_triggers SET state = 'retired', updated_at = now()
    WHERE tenant_id = :tenant AND deployment = ANY(CAST(:deployments AS text[])) AND state = 'on'
    RETURNING name
""")
_ADD_TOKEN = text("""
    INSERT INTO prefect_n8n.api_tokens (tenant_id, id, name, token_hash, scopes)
    VALUES (:tenant, :id, :name, :hash, :scopes)
    ON CONFLICT (tenant_id, name) DO UPDATE
    SET token_hash = excluded.token_hash, scopes = excluded.scopes, created_at = now()
""")


async def endpoint_by_slug(connection: AsyncConnection, tenant: UUID, slug: str) -> Endpoint | None:
    """Return the inbound endpoint of that name in the transaction's tenant."""
    found = await connection.execute(_BY_SLUG, {"tenant": tenant, "slug": slug})
    row = found.mappings().one_or_none()
    return None if row is None else Endpoint(**row)


async def endpoint_by_id(connection: AsyncConnection, tenant: UUID, id: UUID) -> Endpoint | None:
    """Return the inbound endpoint with that id in the transaction's tenant."""
    row = (await connection.execute(_BY_ID, {"tenant": tenant, "id": id})).mappings().one_or_none()
    return None if row is None else Endpoint(**row)


async def credentials_blocks(connection: AsyncConnection, tenant: UUID) -> list[str]:
    """Return the names of the blocks that have the secrets of the tenant's inbound endpoints."""
    return list((await connection.execute(_BLOCKS, {"tenant": tenant})).scalars())


async def offers(connection: AsyncConnection, tenant: UUID) -> list[Offer]:
    """Return the transaction's tenant's inbound endpoints in the order of their slugs."""
    rows = await connection.execute(_OFFERS, {"tenant": tenant})
    return [Offer(**row) for row in rows.mappings()]


async def resolve_endpoint(connection: AsyncConnection, token: str) -> tuple[UUID, UUID] | None:
    """Return (tenant, endpoint id) of an opaque endpoint token; needs no tenant."""
    row = (await connection.execute(_RESOLVE_ENDPOINT, {"hash": token_sha256(token)})).one_or_none()
    return None if row is None else (row.tenant_id, row.endpoint_id)


async def resolve_token(connection: AsyncConnection, token: str) -> Token | None:
    """Return the bearer token if it is known and has not expired; needs no tenant."""
    row = (await connection.execute(_RESOLVE_TOKEN, {"hash": token_sha256(token)})).one_or_none()
    return None if row is None else Token(row.tenant_id, row.token_id, frozenset(row.scopes))


async def register_endpoint(
    connection: AsyncConnection, tenant: UUID, slug: str, scheme: str, *, actor: str
) -> None:
    """Make sure of an inbound endpoint with that scheme, as a flow file says no more of it.

    Raises:
        ConfigurationError: it is an outbound endpoint.
    """
    wanted = InboundEndpoint(slug, scheme=scheme)  # pyright: ignore[reportArgumentType]
    known = await find(connection, tenant, ENDPOINTS, slug)
    if known is not None and isinstance(known.spec, InboundEndpoint):
        same = known.spec.scheme == scheme
        wanted = known.spec if same else replace(known.spec, scheme=scheme, scheme_options={})
    await save(connection, tenant, wanted, actor=actor)


async def retire_triggers(
    connection: AsyncConnection, tenant: UUID, deployments: Sequence[str], *, actor: str
) -> list[str]:
    """Retire the triggers that start ``deployments``; return their names."""
    done = await connection.execute(_RETIRE, {"tenant": tenant, "deployments": list(deployments)})
    names = [row.name for row in done]
    for name in names:
        await audit.record(
            connection, tenant, actor=actor, action="trigger.retired", subject=f"trigger/{name}"
        )
    return names


async def save_token(
    connection: AsyncConnection,
    tenant: UUID,
    *,
    name: str,
    token: str,
    scopes: Sequence[str],
    actor: str,
) -> None:
    """Store a bearer token by its hash, replacing one of the same name."""
    values = {"tenant": tenant, "id": uuid4(), "name": name, "scopes": list(scopes)}
    await connection.execute(_ADD_TOKEN, values | {"hash": token_sha256(token)})
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action="token.saved",
        subject=f"token/{name}",
        after={"scopes": list(scopes)},
    )
