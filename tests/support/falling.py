"""What tests of fallbacks need: endpoints that fail, a block that notifies a file, and the rows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest_asyncio
from prefect.blocks.abstract import NotificationBlock

from support.bridge import Bridge, until
from support.outgoing import Outgoing
from support.target import Answer, Target

ONCE = {"schedule": [0], "jitter": 0}
"""A retry policy of one attempt."""

SLUG = "n8n-test-notice"


class NoticeFile(NotificationBlock):
    """Notifies by a line in a file; ``fails`` or sleeps first where it is told to."""

    _block_type_name: ClassVar[str] = "n8n test notice"  # pyright: ignore
    _block_type_slug: ClassVar[str] = SLUG  # pyright: ignore

    path: str
    fails: bool = False
    sleeps: float = 0.0

    def notify(self, body: str, subject: str | None = None) -> None:  # pyright: ignore
        """Write subject and body."""
        time.sleep(self.sleeps)
        if self.fails:
            raise RuntimeError("https://hooks.example/secret")
        with Path(self.path).open("a") as file:
            file.write(f"{subject}\n{body}\n\n")


@dataclass
class Falling:
    """One test's endpoint ``crm`` that fails for good, and another, ``backup``, to fall back to."""

    outgoing: Outgoing
    backup: Target

    @property
    def bridge(self) -> Bridge:
        """The road of the test."""
        return self.outgoing.bridge

    @property
    def notices(self) -> list[str]:
        """What was notified, in order."""
        file = self.bridge.folder / "notices"
        return file.read_text().strip().split("\n\n") if file.exists() else []

    async def ladder(self, *steps: dict[str, Any], endpoint: str = "crm") -> None:
        """Give an endpoint a ladder, and one attempt before it."""
        await self.outgoing.endpoint(endpoint, retry_policy=ONCE, fallback=list(steps))

    async def notice(self, **options: Any) -> dict[str, Any]:
        """Return a step that notifies into the test's file."""
        block = NoticeFile(path=str(self.bridge.folder / "notices"), **options)
        await block.asave(self.bridge.name, overwrite=True, client=self.bridge.client)
        return {"notification": f"{SLUG}/{self.bridge.name}"}

    async def send(self, id: str = "order-7", **body: Any) -> UUID:
        """Record a delivery to ``crm``; return its row's id."""
        return (await self.outgoing.send(id, **body)).id

    async def ended(self, row: UUID, *, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the delivery's end."""
        return await self.outgoing.ended(row, seconds=seconds)

    async def fallbacks(self) -> list[dict[str, Any]]:
        """Return all fallbacks."""
        return await self.outgoing.rows("SELECT * FROM prefect_n8n.fallbacks ORDER BY created_at")

    async def steps(self) -> list[tuple[str, str, str, str | None]]:
        """Return kind, target, state and error of all steps in their order."""
        query = "SELECT * FROM prefect_n8n.fallback_steps ORDER BY started_at, number"
        rows = await self.outgoing.rows(query)
        return [(r["kind"], r["target"], r["state"], r["error"]) for r in rows]

    async def refs(self) -> list[str | None]:
        """Return what the steps started, in their order."""
        query = "SELECT ref FROM prefect_n8n.fallback_steps ORDER BY started_at, number"
        return [row["ref"] for row in await self.outgoing.rows(query)]

    async def children(self) -> list[dict[str, Any]]:
        """Return the deliveries that stand in for others."""
        query = "SELECT * FROM prefect_n8n.webhook_events WHERE parent_event_id IS NOT NULL"
        return await self.outgoing.rows(query)

    async def begun(self) -> list[str | None]:
        """Wait until a step has started something; return the refs."""

        async def any_ref() -> list[str | None]:
            refs = await self.refs()
            return refs if any(refs) else []

        return await until(any_ref, what="a step that has started something")


@pytest_asyncio.fixture
async def falling(outgoing: Outgoing) -> AsyncIterator[Falling]:
    """Endpoint ``crm`` whose target says 500, and ``backup`` whose target is well."""
    outgoing.target.script = lambda _: Answer(500, runs=False)
    async with Target.running() as backup:
        await outgoing.endpoint("backup", url=backup.url, retry_policy=ONCE)
        yield Falling(outgoing, backup)
