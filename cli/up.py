"""``up``: everything on one machine, on embedded parts where the user gives none of his own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from prefect.client.orchestration import get_client

from ..core.errors import ConfigurationError
from ..core.settings import settings
from ..core.urls import AllowList
from ..ledger.database import Database
from . import local
from .banner import show
from .databases import has_password, migrate_embedded, migrate_foreign
from .given import check_prefect, shown_address
from .ports import check_free
from .postgres import EmbeddedPostgres
from .prefect_server import prefect_server, server_env
from .preparing import Prepared, ensure_token, prepare
from .processes import Child, Say, Supervisor
from .trigrams import provide_trigrams
from .workers import launcher_child, receiver_child

T = TypeVar("T")

CHECK_SECONDS = 3.0
LOOPBACK = ("127.0.0.0/8", "::1")
"""What `up` lets be called: on one machine n8n is a neighbour."""


@dataclass(slots=True)
class Up:
    """One run of ``up``: ``file`` has the flows, ``folder`` keeps the embedded parts."""

    file: Path | None
    folder: Path
    host: str
    port: int
    prefect_port: int
    say: Say
    supervisor: Supervisor | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    """What the children get on top of the user's environment, and other commands are told."""
    _own_ledger: bool = False

    async def __call__(self) -> None:
        """Bring everything up, and keep it up until this task is cancelled.

        Raises:
            ConfigurationError: a part does not start, or cannot be kept.
        """
        begun = time.monotonic()
        self._use(
            {
                "PREFECT_N8N_DATA_DIR": str(self.folder),
                "PREFECT_N8N_HOST": self.host,
                "PREFECT_N8N_PORT": str(self.port),
                "PREFECT_N8N_ALLOWED_TARGETS": with_loopback(settings().allowed_targets),
            }
        )
        own_prefect = "PREFECT_API_URL" not in os.environ
        self._check_ports(own_prefect)
        if not own_prefect:
            await self._timed(f"Looking for Prefect at {shown_address()}", check_prefect())
        # Last in, first out: the launcher stops first, PostgreSQL last.
        async with AsyncExitStack() as stack:
            postgres = await self._databases(stack, own_prefect)
            self.supervisor = Supervisor(self.say)
            stack.push_async_callback(self._stop, self.supervisor)
            await self._start(self.supervisor, postgres if own_prefect else None)
            seconds = time.monotonic() - begun
            self.say(f"Ready after {seconds:.1f} s. Ctrl-C stops everything; the data stays.")
            keeping = asyncio.create_task(self._keep(postgres))
            stack.callback(keeping.cancel)
            await asyncio.wait(
                {keeping, self.supervisor.failed}, return_when=asyncio.FIRST_COMPLETED
            )
            for part in (keeping, self.supervisor.failed):
                if part.done():
                    part.result()

    def _check_ports(self, own_prefect: bool) -> None:
        check_free(self.host, self.port, "--port", "the receiver")
        if own_prefect:
            check_free(self.host, self.prefect_port, "--prefect-port", "Prefect and its UI")
            if self.port == self.prefect_port:
                raise ConfigurationError(
                    f"Port {self.port} is given to the receiver and to Prefect: choose another with"
                    " --port or --prefect-port."
                )

    def kill(self) -> None:
        """End the children at once."""
        if self.supervisor is not None:
            self.supervisor.kill()

    async def _databases(self, stack: AsyncExitStack, own_prefect: bool) -> EmbeddedPostgres | None:
        """Bring PostgreSQL up where the user does not give all of it, and migrate the ledger."""
        given = settings()
        postgres = None
        if given.database_url is None or own_prefect:
            postgres = EmbeddedPostgres(self.folder / "postgres", self.say)
            stack.push_async_callback(asyncio.to_thread, postgres.stop)
            await self._timed("Starting PostgreSQL", asyncio.to_thread(postgres.start))
        self._own_ledger = given.database_url is None
        if self._own_ledger:
            assert postgres is not None
            migrating = asyncio.to_thread(migrate_embedded, postgres)
        else:
            migrating = asyncio.to_thread(migrate_foreign, given)
        self._use(await self._timed("Migrating the ledger", migrating))
        if "PREFECT_N8N_ALLOW_SUPERUSER" in self.env:
            self.say("  Note: DATABASE_URL's login bypasses row security. That is for development;")
            self.say("  give production the logins prefect_n8n_app and prefect_n8n_launcher.")
        return postgres

    async def _start(self, supervisor: Supervisor, postgres: EmbeddedPostgres | None) -> None:
        """Start the processes together: each takes seconds to load, and waits for the others."""
        server = await self._prefect(supervisor, postgres) if postgres else None
        now = settings()
        assert now.database_url is not None
        url = now.database_url.get_secret_value()
        workers = [
            receiver_child(self.env, now.receiver_url, defaults=False),
            # In a ledger of the user's own there may be launchers that have other files.
            launcher_child(self.env, url, self.file, only=self._own_ledger),
        ]
        for child in workers:
            await supervisor.start(child)
        if server is not None:
            await self._timed("Starting Prefect and its UI", supervisor.wait_ready(server))
        database = Database(url, pool_size=2)
        try:
            await self._settle(supervisor, workers, database)
        finally:
            await database.close()

    async def _prefect(self, supervisor: Supervisor, postgres: EmbeddedPostgres) -> Child:
        await asyncio.to_thread(provide_trigrams, postgres.url, self.folder / "postgres")
        await asyncio.to_thread(postgres.ensure_database, "prefect")
        server = prefect_server(
            database_url=postgres.url_of("prefect"),
            host=self.host,
            port=self.prefect_port,
            folder=self.folder,
        )
        await supervisor.start(server)
        self._use(server_env(self.folder, self.host, self.prefect_port))
        return server

    async def _settle(
        self, supervisor: Supervisor, workers: list[Child], database: Database
    ) -> None:
        """Make what must exist, wait for the workers, and say where everything is."""
        prepared = await self._timed("Registering blocks", self._prepared(database))
        token = await ensure_token(database, settings(), self.folder)
        for child in workers:
            name = child.name[0].lower() + child.name[1:]
            await self._timed(f"Starting {name}", supervisor.wait_ready(child))
        given = {name: os.environ[name] for name in ("DATABASE_URL", "PREFECT_API_URL")}
        told = {k: v for k, v in (self.env | given).items() if not has_password(v)}
        local.publish(self.folder, told)
        await show(self.say, settings=settings(), database=database, prepared=prepared, token=token)

    async def _prepared(self, database: Database) -> Prepared:
        async with get_client() as client:
            return await prepare(client, database, settings(), self.folder)

    async def _keep(self, postgres: EmbeddedPostgres | None) -> None:
        """Start PostgreSQL again whenever it is lost."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if postgres is not None and not await asyncio.to_thread(postgres.is_alive):
                self.say("PostgreSQL was lost; it is started again.")
                await asyncio.to_thread(postgres.start)

    async def _stop(self, supervisor: Supervisor) -> None:
        self.say("Stopping; runs at hand have ten seconds to end. Ctrl-C again cuts them short.")
        local.withdraw(self.folder)
        await supervisor.stop()

    def _use(self, env: dict[str, str]) -> None:
        self.env |= env
        local.use(env)

    async def _timed(self, what: str, work: Awaitable[T]) -> T:
        self.say(f"{what} …")
        begun = time.monotonic()
        result = await work
        self.say(f"{what}: done in {time.monotonic() - begun:.1f} s")
        return result


def with_loopback(given: str) -> str:
    """The user's allow-list with this machine itself.

    Raises:
        ConfigurationError: the user's cannot be read.
    """
    AllowList.parse(given)
    entries = [entry for entry in given.replace(",", " ").split() if entry not in LOOPBACK]
    return ",".join([*entries, *LOOPBACK])
