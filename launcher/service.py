"""One launcher: its parts joined, its loops run, its end without loss."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from ..core.errors import Unavailable
from ..core.settings import Settings
from ..flows.webhook import WebhookFlow
from ..ledger.database import Database
from .claiming import Claiming
from .delivering import Delivering
from .falling_back import FallingBack
from .launching import Launching
from .listening import listen
from .loops import Bell, forever, until_stopped
from .prefect_api import PrefectApi
from .reconciling import Reconciler
from .runner import Runner
from .shipped import Shipped
from .threads import LoopThreads
from .watching import Watching

logger = logging.getLogger("prefect_n8n.launcher")


def new_owner() -> str:
    """Return a lease owner's name: never used before, and telling where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Launcher:
    """Launches due events and executes the runs of ``flows`` (by deployment id).

    ``database`` is of the launcher's login; ``client`` of the running event loop.
    """

    def __init__(
        self,
        *,
        database: Database,
        client: PrefectClient,
        flows: Mapping[UUID, WebhookFlow],
        settings: Settings,
        owner: str,
    ) -> None:
        self._settings = settings
        self._database = database
        self._owner = owner
        self._claim_bell, self._poll_bell = Bell(), Bell()
        self._delivery_bell, self._fallback_bell = Bell(), Bell()
        self._threads = LoopThreads(settings.runner_threads)
        self.prefect = PrefectApi(client)
        common: dict[str, Any] = {"database": database, "prefect": self.prefect, "owner": owner}
        self.runner = Runner(
            flows=flows,
            threads=self._threads,
            settings=settings,
            on_free=self._slot_freed,
            **common,
        )
        self.launching = Launching(settings=settings, on_launched=self.runner.start, **common)
        self._claiming = Claiming(
            database=database,
            launching=self.launching,
            runner=self.runner,
            owner=owner,
            settings=settings,
            bell=self._claim_bell,
        )
        self.falling_back = FallingBack(
            threads=self._threads,
            settings=settings,
            on_free=self._fallback_bell.ring,
            **common,
        )
        self.shipped = Shipped(
            client=client,
            prefect=self.prefect,
            threads=self._threads,
            falling_back=self.falling_back,
            settings=settings,
        )
        self.delivering = Delivering(
            threads=self._threads,
            settings=settings,
            on_free=self._delivery_bell.ring,
            **common,
        )
        self._watching = Watching(
            runner=self.runner,
            delivering=self.delivering,
            falling_back=self.falling_back,
            lease=settings.lease_seconds,
            **common,
        )
        self._reconciler = Reconciler(
            settings=settings,
            held=lambda: self.runner.leased,
            on_rescued=self._poll_bell.ring,
            **common,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then end what is at hand, and leave the rest to others.

        Raises:
            LoopEnded: one of the loops ended; this launcher would only do a part of its work.
        """
        loops = [asyncio.create_task(loop) for loop in self._loops()]
        try:
            await until_stopped(stop, loops)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._drain()

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        at = self._settings
        renewal = at.lease_seconds / 4
        return [
            forever("inbox", self._claiming.turn, every=at.poll_seconds, bell=self._claim_bell),
            forever("wake-up", self._listen, every=0.1),
            forever("leases", self._watching.renew, every=renewal),
            forever("reconciler", self._reconciler.turn, every=at.reconcile_seconds),
            *self._shipped_loops(at, renewal),
            forever(
                "deliveries", self.delivering.turn, every=at.poll_seconds, bell=self._delivery_bell
            ),
            forever("lost deliveries", self.delivering.rescue, every=at.poll_seconds),
            forever("stale runs", self.delivering.sweep, every=at.reconcile_seconds),
            forever("cancel watch", self._watching.look, every=at.prefect_poll_seconds),
            forever("cancel events", self._watching.hear, every=1.0),
            *(self._runner_loops(at.prefect_poll_seconds) if self.runner.flows else []),
        ]

    def _shipped_loops(self, at: Settings, renewal: float) -> list[Coroutine[Any, Any, None]]:
        falling, shipped = self.falling_back, self.shipped
        return [
            forever("fallbacks", falling.turn, every=at.poll_seconds, bell=self._fallback_bell),
            forever("fallback leases", falling.renew, every=renewal),
            forever("lost fallback runs", falling.sweep, every=at.reconcile_seconds),
            forever("shipped flows", shipped.turn, every=at.prefect_poll_seconds),
            forever("lost redrives", shipped.rescue, every=at.reconcile_seconds),
        ]

    def _runner_loops(self, every: float) -> list[Coroutine[Any, Any, None]]:
        return [forever("runs", self._poll, every=every, bell=self._poll_bell)]

    async def _listen(self) -> None:
        await listen(self._database.url, self._owner, self._wake)

    def _wake(self) -> None:
        self._claim_bell.ring()
        self._fallback_bell.ring()
        self._delivery_bell.ring()

    async def _poll(self) -> None:
        """Start runs that are due in Prefect: rescued, started by hand, or once turned away."""
        self.runner.turned_away = False
        for run in await self.prefect.due(list(self.runner.flows), self.runner.free):
            self.runner.start(run)

    def _slot_freed(self) -> None:
        self._claim_bell.ring()
        if self.runner.turned_away:
            self._poll_bell.ring()

    async def _drain(self) -> None:
        drains: list[Callable[[float], Coroutine[Any, Any, None]]] = [
            self.delivering.drain,
            self._claiming.drain,
            self.runner.drain,
            self.falling_back.drain,
            self.shipped.drain,
        ]
        renewing = asyncio.create_task(
            forever("leases", self._watching.renew, every=self._settings.lease_seconds / 4)
        )
        for drain in drains:
            try:
                await drain(self._settings.drain_seconds)
            except Unavailable as error:
                logger.warning("%s What is left is taken over when its lease runs out.", error)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        self._threads.stop()
