"""Keeps the leases of what is under way here, and stops runs that are cancelled or lost."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

from ..core.errors import PrefectUnavailable
from ..ledger import claims, runs
from ..ledger.database import Database, Role
from .delivering import Delivering
from .falling_back import FallingBack
from .prefect_api import PrefectApi
from .runner import Runner

logger = logging.getLogger("prefect_n8n.launcher")

_CANCELLING = EventFilter(event=EventNameFilter(name=["prefect.flow-run.Cancelling"]))
_RESOURCE = "prefect.flow-run."


class Watching:
    """Watches over the runs of one launcher."""

    def __init__(
        self,
        *,
        database: Database,
        prefect: PrefectApi,
        runner: Runner,
        delivering: Delivering,
        falling_back: FallingBack,
        owner: str,
        lease: float,
    ) -> None:
        self._database = database
        self._prefect = prefect
        self._runner = runner
        self._delivering = delivering
        self._falling_back = falling_back
        self._owner = owner
        self._lease = lease

    async def renew(self) -> None:
        """Extend the leases; stop runs whose lease another launcher has."""
        leased = self._runner.leased
        async with self._database.transaction(None, role=Role.LAUNCHER) as connection:
            await claims.renew(connection, owner=self._owner, lease=self._lease)
            kept = await runs.renew(connection, owner=self._owner, lease=self._lease)
        for run in (leased & self._runner.leased) - kept:
            logger.warning("flow run %s was taken over by another launcher", run)
            self._runner.cancel(run, lost=True)

    async def look(self) -> None:
        """Stop runs that Prefect has as Cancelling or Cancelled: the net under ``hear``."""
        here = self._runner.leased | self._delivering.runs | self._falling_back.runs
        for id, run in (await self._prefect.read(list(here))).items():
            if run.state_type in (StateType.CANCELLING, StateType.CANCELLED):
                self._cancel(id)

    async def hear(self) -> None:
        """Stop runs as soon as Prefect's events say that they are to be cancelled."""
        try:
            async with get_events_subscriber(_CANCELLING, reconnection_attempts=0) as events:
                async for event in events:
                    self._cancel(UUID(event.resource.id.removeprefix(_RESOURCE)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise PrefectUnavailable("Prefect's events cannot be heard.") from error

    def _cancel(self, run: UUID) -> None:
        self._runner.cancel(run)
        self._delivering.cancel(run)
        self._falling_back.cancel(run)
