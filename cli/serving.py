"""``serve``: the receiver in this process, or receiver and launcher as two children."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import uvicorn
from prefect.client.orchestration import get_client

from ..core.errors import ConfigurationError
from ..core.settings import Settings
from ..launcher.loops import until_available
from ..launcher.prefect_api import bounded
from ..ledger.database import Database
from ..receiver.app import create_app
from ..receiver.protocol import uvicorn_config
from ..receiver.secrets import block_secrets
from .guarding import guard
from .ports import check_free
from .preparing import prepare
from .processes import Say, Supervisor
from .workers import launcher_child, receiver_child

POOL_SIZE = 5

logger = logging.getLogger("prefect_n8n.receiver")


def database_url(settings: Settings) -> str:
    """Return ``DATABASE_URL``.

    Raises:
        ConfigurationError: it is not set.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "Set DATABASE_URL to a PostgreSQL 14 or newer, or start everything with"
            " `prefect-n8n up`."
        )
    return settings.database_url.get_secret_value()


async def receive(settings: Settings, *, defaults: bool = True) -> None:
    """Serve until SIGINT or SIGTERM; requests at hand are answered first.

    With ``defaults`` the default block and endpoint are made where they are missing.
    """
    check_free(settings.host, settings.port, "PREFECT_N8N_PORT", "the receiver")
    database = Database(database_url(settings), pool_size=POOL_SIZE)
    await guard(database, settings)
    app = create_app(database, block_secrets, settings)
    config = uvicorn_config(
        app,
        host=settings.host,
        port=settings.port,
        receive_deadline=settings.receive_deadline,
    )
    logger.info("listening on http://%s:%d", settings.host, settings.port)
    preparing = asyncio.create_task(_prepare(settings)) if defaults else None
    try:
        await uvicorn.Server(config).serve()
    finally:
        if preparing is not None:
            preparing.cancel()


class Both:
    """A receiver and a launcher, each in a process of its own."""

    def __init__(self, settings: Settings, file: Path | None, say: Say) -> None:
        self._settings = settings
        self._file = file
        self._say = say
        self._supervisor: Supervisor | None = None

    async def __call__(self) -> None:
        """Keep both alive until this task is cancelled.

        Raises:
            ConfigurationError: one does not start, or keeps ending.
        """
        url = database_url(self._settings)
        base = self._settings.receiver_url
        self._supervisor = supervisor = Supervisor(self._say)
        children = [receiver_child({}, base, defaults=True), launcher_child({}, url, self._file)]
        try:
            for child in children:
                await supervisor.start(child)
            for child in children:
                await supervisor.wait_ready(child)
            self._say(f"Ready: events are taken at {base}/api/webhooks/n8n/<endpoint>.")
            await supervisor.failed
        finally:
            self._say("Stopping; runs at hand have ten seconds to end.")
            await supervisor.stop()

    def kill(self) -> None:
        """End both at once."""
        if self._supervisor is not None:
            self._supervisor.kill()


async def _prepare(settings: Settings) -> None:
    """Make the default block and endpoint, however long Prefect takes to come."""
    database = Database(database_url(settings), pool_size=1)

    async def attempt() -> None:
        async with bounded(), get_client() as client:
            await prepare(client, database, settings)

    try:
        await until_available("default block", attempt)
    except ConfigurationError as error:
        logger.error("the default block was not made: %s", error)
    finally:
        await database.close()
