"""``launch``: the launcher in this process, with the flows of a file on its resident runner."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK, temporary_settings

from ..core.errors import Unavailable
from ..core.settings import Settings
from ..flows.webhook import WebhookFlow
from ..launcher.deploying import deploy
from ..launcher.loading import UserFile, load_file
from ..launcher.loops import until_available
from ..launcher.prefect_api import bounded
from ..launcher.service import Launcher, new_owner
from ..ledger.database import Database, Role
from .guarding import guard
from .preparing import ensure_results_block
from .serving import database_url

POOL_SIZE = 10

T = TypeVar("T")

logger = logging.getLogger("prefect_n8n.launcher")


def launch(settings: Settings, file: Path | None, *, only: bool = False) -> None:
    """Work until SIGINT or SIGTERM, then let runs at hand end; a second signal leaves them.

    With ``only`` no other launcher has another file: the triggers of others are retired.

    Raises:
        ConfigurationError: the file or a setting is wrong.
    """
    loaded = load_file(file) if file else None
    url = settings.launcher_database_url
    address = url.get_secret_value() if url else database_url(settings)
    asyncio.run(_launch(settings, Database(address, pool_size=POOL_SIZE), loaded, only))


async def _launch(
    settings: Settings, database: Database, file: UserFile | None, only: bool
) -> None:
    stop = _stop_on_signals()
    try:
        async with get_client() as client:
            ready = _ready(client, database, settings, file, only)
            if (flows := await _unless(stop, ready)) is None:
                return
            launcher = Launcher(
                database=database,
                client=client,
                flows=flows,
                settings=settings,
                owner=new_owner(),
            )
            with temporary_settings(await _results_storage(client, settings)):
                await launcher.run(stop)
    finally:
        await database.close()


async def _ready(
    client: PrefectClient,
    database: Database,
    settings: Settings,
    file: UserFile | None,
    only: bool,
) -> dict[UUID, WebhookFlow]:
    """Register the flows, however long Prefect or PostgreSQL take to come."""
    await guard(database, settings, Role.LAUNCHER)
    if file is None and not only:
        return {}
    return await until_available(
        "register",
        lambda: deploy(
            file.flows if file else (),
            file.path if file else None,
            endpoints=file.endpoints if file else (),
            database=database,
            client=client,
            settings=settings,
            only=only,
        ),
    )


async def _results_storage(client: PrefectClient, settings: Settings) -> dict[Any, str]:
    """Return the setting for a storage block of ours, unless the user has one or Prefect fails."""
    if PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK.value() is None:
        folder = settings.data_dir.absolute() / "results"
        try:
            async with bounded():
                slug = await ensure_results_block(client, folder)
            return {PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: slug}
        except Unavailable:
            logger.warning("runs go without a results block of their own, and are slower")
    return {}


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work, or None where ``stop`` is set before its end."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for each in (task, stopping):
        each.cancel()
    await asyncio.gather(task, stopping, return_exceptions=True)
    return None if task.cancelled() else task.result()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop
