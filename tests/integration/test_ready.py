"""When a receiver says that it is ready: once it can verify what its endpoints are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from prefect_n8n.core.errors import PrefectUnavailable, SecretsUnusable
from prefect_n8n.core.settings import Settings
from prefect_n8n.ledger.database import Database
from prefect_n8n.receiver import lookup
from prefect_n8n.receiver.app import create_app
from support.postgres import Ledger
from support.receiver import SECRET, Sender, add_endpoint


@dataclass
class Blocks:
    """Credentials blocks in a Prefect that may be away."""

    away: bool = False
    missing: set[str] = field(default_factory=set[str])
    loads: int = 0

    async def __call__(self, block: str) -> tuple[bytes, ...]:
        self.loads += 1
        if self.away:
            raise PrefectUnavailable("Prefect did not answer: ConnectError")
        if block in self.missing:
            raise SecretsUnusable(f"Block n8n-credentials/{block} cannot be loaded.")
        return (SECRET,)


@asynccontextmanager
async def receiver(ledger: Ledger, blocks: Blocks) -> AsyncIterator[Sender]:
    """Run a receiver that gets its secrets from these blocks."""
    app = create_app(Database(ledger.app_url), blocks, Settings())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield Sender(client)


async def readiness(sender: Sender) -> int:
    """The status of the answer to a load balancer."""
    return (await sender.client.get("/readyz")).status_code


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "LOAD_SECONDS", 0.0)


async def test_it_is_not_ready_before_it_knows_the_secrets(
    ledger: Ledger, database: Database
) -> None:
    await add_endpoint(database, "orders")
    blocks = Blocks(away=True)
    async with receiver(ledger, blocks) as sender:
        assert await readiness(sender) == 503
        assert (await sender.send({"id": "1"})).status_code == 503
        blocks.away = False
        assert await readiness(sender) == 200
        loads = blocks.loads
        blocks.away = True
        assert await readiness(sender) == 200
        assert blocks.loads == loads, "readiness asks Prefect although it knows"
        assert (await sender.send({"id": "1"})).status_code == 202


async def test_it_tries_in_its_own_time(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked."""
    await add_endpoint(database, "orders")
    monkeypatch.setattr(lookup, "LOAD_SECONDS", 60.0)
    blocks = Blocks(away=True)
    async with receiver(ledger, blocks) as sender:
        assert {await readiness(sender) for _ in range(5)} == {503}
    assert blocks.loads == 1


async def test_without_endpoints_there_is_nothing_to_wait_for(
    ledger: Ledger, database: Database
) -> None:
    blocks = Blocks(away=True)
    async with receiver(ledger, blocks) as sender:
        assert await readiness(sender) == 200
        await add_endpoint(database, "orders")
        assert await readiness(sender) == 503


async def test_one_endpoint_without_secrets_does_not_stop_the_others(
    ledger: Ledger, database: Database
) -> None:
    await add_endpoint(database, "orders")
    await add_endpoint(database, "broken", credentials_block="broken")
    blocks = Blocks(missing={"broken", "default"})
    async with receiver(ledger, blocks) as sender:
        assert await readiness(sender) == 503
        blocks.missing.remove("default")
        assert await readiness(sender) == 200
        assert (await sender.send({"id": "1"})).status_code == 202
        assert (await sender.send({"id": "1"}, endpoint="broken")).status_code == 503
