"""The road of a delivery: an outbound endpoint that leads to a target of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from pydantic import HttpUrl, SecretStr
from sqlalchemy import text

from prefect_n8n import N8nCredentials
from prefect_n8n.core.settings import DEFAULT_TENANT, settings
from prefect_n8n.core.specs import OutboundEndpoint
from prefect_n8n.flows.send import Sent, asend
from prefect_n8n.launcher.service import Launcher
from prefect_n8n.ledger.configuration import save
from support.bridge import Bridge, until
from support.target import WORKFLOW, Target

SECRET = "a-secret-for-deliveries-0123456789"
FINAL = ("completed", "dead", "cancelled")


@dataclass
class Outgoing:
    """One test's outbound endpoint ``crm``, its target, and the launcher's road between them."""

    bridge: Bridge
    target: Target
    block: str = field(default_factory=lambda: f"b{uuid4().hex[:12]}")

    async def credentials(self, **changes: Any) -> None:
        """Save the credentials block that the endpoint uses."""
        values: dict[str, Any] = {
            "base_url": HttpUrl(self.target.base),
            "api_key": SecretStr("key"),
            "webhook_secrets": [SecretStr(SECRET)],
        }
        block = N8nCredentials(**values | changes)
        await block.asave(self.block, overwrite=True, client=self.bridge.client)

    async def endpoint(self, slug: str = "crm", **changes: Any) -> UUID:
        """Create or change an outbound endpoint; quick retries unless ``changes`` say otherwise."""
        values: dict[str, Any] = {
            "url": self.target.url,
            "credentials_block": self.block,
            "n8n_workflow_id": WORKFLOW,
            "retry_policy": {"schedule": [0, 0.05, 0.05], "jitter": 0},
            "timeout_seconds": 5.0,
        }
        async with self.bridge.database.transaction(DEFAULT_TENANT) as connection:
            spec = OutboundEndpoint(slug, **values | changes)
            return (await save(connection, DEFAULT_TENANT, spec, actor="test")).saved.id

    async def send(self, id: str | None = None, endpoint: str = "crm", **body: Any) -> Sent:
        """Record one delivery."""
        return await asend(endpoint, body or {"order": 7}, event_id=id or uuid4().hex)

    @asynccontextmanager
    async def launcher(self, **changes: Any) -> AsyncIterator[Launcher]:
        """Run a launcher."""
        async with self.bridge.launcher(**changes) as launcher:
            yield launcher

    async def state(self, row: UUID) -> dict[str, Any]:
        """Return the delivery's row."""
        (found,) = await self.rows(
            "SELECT * FROM prefect_n8n.webhook_events WHERE id = :id", id=row
        )
        return found

    async def ended(self, row: UUID, *, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for the delivery's end and return its row."""

        async def has_ended() -> dict[str, Any] | None:
            found = await self.state(row)
            return found if found["state"] in FINAL else None

        return await until(has_ended, seconds=seconds, what=f"the end of delivery {row}")

    async def attempts(self, row: UUID) -> list[dict[str, Any]]:
        """Return the delivery's attempts in their order."""
        query = (
            "SELECT * FROM prefect_n8n.webhook_attempts WHERE webhook_event_id = :id"
            " ORDER BY number"
        )
        return await self.rows(query, id=row)

    async def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Return what a query finds."""
        async with self.bridge.database.transaction(DEFAULT_TENANT) as connection:
            found = await connection.execute(text(query), values)
            return [dict(row) for row in found.mappings()]

    async def execute(self, statement: str, **values: Any) -> None:
        """Change rows behind everyone's back."""
        async with self.bridge.database.transaction(DEFAULT_TENANT) as connection:
            await connection.execute(text(statement), values)

    async def make_due(self) -> None:
        """Let all deliveries that wait be due now."""
        await self.execute("UPDATE prefect_n8n.webhook_events SET scheduled_at = now()")

    async def health(self, slug: str = "crm") -> dict[str, Any]:
        """Return the endpoint's row."""
        query = "SELECT * FROM prefect_n8n.webhook_endpoints WHERE slug = :slug"
        (found,) = await self.rows(query, slug=slug)
        return found

    async def audited(self, subject: str) -> list[str]:
        """Return the actions that the audit log has for a subject, in their order."""
        query = "SELECT action FROM prefect_n8n.audit_log WHERE subject = :subject ORDER BY seq"
        return [row["action"] for row in await self.rows(query, subject=subject)]


@pytest_asyncio.fixture
async def outgoing(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outgoing]:
    """An endpoint ``crm`` and its target, which loopback is allowed for."""
    monkeypatch.setenv("PREFECT_N8N_ALLOWED_TARGETS", "127.0.0.0/8")
    settings.cache_clear()
    async with Target.running() as target:
        made = Outgoing(bridge, target)
        await made.credentials()
        await made.endpoint()
        yield made
