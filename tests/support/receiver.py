"""A receiver in the test's own process, with a signed sender beside it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest_asyncio

from prefect_n8n.core.settings import DEFAULT_TENANT, Settings
from prefect_n8n.core.signing import Scheme, StandardScheme, sign
from prefect_n8n.core.specs import InboundEndpoint
from prefect_n8n.ledger.configuration import save
from prefect_n8n.ledger.database import Database
from prefect_n8n.ledger.registry import save_token
from prefect_n8n.receiver.app import PREFIX, create_app
from support.postgres import Ledger

SECRET = b"a-secret-for-tests-0123456789abcdef"
TOKEN = "a-token-for-tests"


async def secrets_of_tests(_: str) -> tuple[bytes, ...]:
    """The keys of every credentials block in these tests."""
    return (SECRET,)


@dataclass
class Sender:
    """Sends signed events to the receiver."""

    client: httpx.AsyncClient
    secret: bytes = SECRET

    async def send(
        self,
        body: dict[str, object] | bytes,
        *,
        endpoint: str = "orders",
        event_id: str = "evt_1",
        scheme: Scheme | None = None,
        at: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Post one event, signed now unless ``at`` says otherwise."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        stamp = int(time.time() if at is None else at)
        pairs = sign(
            scheme or StandardScheme(), self.secret, raw, event_id=event_id, timestamp=stamp
        )
        signed = {name.decode(): value.decode() for name, value in pairs}
        return await self.client.post(
            f"{PREFIX}/{endpoint}",
            content=raw,
            headers={"content-type": "application/json"} | signed | (headers or {}),
        )


async def add_endpoint(
    database: Database, slug: str = "orders", tenant: UUID = DEFAULT_TENANT, **options: object
) -> UUID:
    """Create an endpoint and return its id."""
    async with database.transaction(tenant) as connection:
        spec = InboundEndpoint(slug, **options)  # type: ignore[arg-type]
        return (await save(connection, tenant, spec, actor="test")).saved.id


async def add_token(database: Database, *scopes: str) -> None:
    """Store TOKEN with these scopes."""
    async with database.transaction(DEFAULT_TENANT) as connection:
        await save_token(
            connection, DEFAULT_TENANT, name="test", token=TOKEN, scopes=scopes, actor="test"
        )


@pytest_asyncio.fixture
async def sender(ledger: Ledger, database: Database) -> AsyncIterator[Sender]:
    """A sender to a receiver that has the endpoints ``orders`` (standard) and ``hmac``."""
    await add_endpoint(database, "orders")
    await add_endpoint(database, "hmac", scheme="hmac")
    app = create_app(Database(ledger.app_url), secrets_of_tests, Settings())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield Sender(client)
