"""Claims due events and launches them, as many at once as Prefect takes well."""

from __future__ import annotations

import asyncio
import logging

from ..core.errors import Unavailable
from ..core.settings import Settings
from ..ledger import claims
from ..ledger.claims import Claimed
from ..ledger.database import Database, Role
from .launching import Launching
from .loops import Bell
from .runner import Runner

logger = logging.getLogger("prefect_n8n.launcher")

MAX_LAUNCHES = 8
"""More creations at once only make each of them slower."""


class Claiming:
    """Keeps launches under way while events are due and there is room for their runs.

    Back-pressure stays in the inbox: with the resident runner full, only events for other
    deployments are claimed.
    """

    def __init__(
        self,
        *,
        database: Database,
        launching: Launching,
        runner: Runner,
        owner: str,
        settings: Settings,
        bell: Bell,
    ) -> None:
        self._database = database
        self._launching = launching
        self._runner = runner
        self._owner = owner
        self._settings = settings
        self._bell = bell
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Unavailable | None = None
        self._probing = False

    async def turn(self) -> None:
        """Claim what there is room for; one event alone after a failure, until it is launched.

        Raises:
            Unavailable: a launch since the last turn found Prefect or PostgreSQL away.
        """
        if self._probing and self._failure is None:
            for event in await self.claim(1):
                await self._launch(event)
        failure, self._failure = self._failure, None
        if failure is not None:
            self._probing = True
            raise failure
        while not self._probing and (most := MAX_LAUNCHES - len(self._tasks)) > 0:
            claimed = await self.claim(most)
            if not claimed:
                return
            for event in claimed:
                self._start(event)

    async def claim(self, most: int) -> list[Claimed]:
        """Claim up to ``most`` events."""
        free = self._runner.free - len(self._tasks)
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            return await claims.claim(
                connection,
                owner=self._owner,
                lease=self._settings.lease_seconds,
                most=min(most, free) if free > 0 else most,
                held=[] if free > 0 else self._runner.deployments,
            )

    async def drain(self, seconds: float) -> None:
        """Wait for the launches at hand, and leave the rest to others at once."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await claims.expire(connection, owner=self._owner)

    def _start(self, event: Claimed) -> None:
        task = asyncio.create_task(self._launch(event))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _launch(self, event: Claimed) -> None:
        try:
            await self._launching.launch(event)
            self._probing = False
        except Unavailable as error:
            self._failure = error
        except Exception as error:
            # The event itself may be what breaks us: its claim counts, and the last one buries it.
            logger.exception("event %s could not be launched", event.id)
            await self._launching.retry(event, f"Unexpected error: {type(error).__name__}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._bell.ring()
