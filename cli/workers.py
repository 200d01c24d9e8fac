"""The receiver and the launcher as child processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx
import psycopg

from ..ledger.database import driver_url
from ..ledger.status import LAUNCHER_NAME
from .processes import Child

_COMMAND = [sys.executable, "-m", "prefect_n8n.cli.app"]


def receiver_child(env: dict[str, str], url: str, *, defaults: bool) -> Child:
    """Describe the receiver; ``url`` is its address on this machine."""

    async def ready(_: int) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            return (await client.get(f"{url}/readyz")).status_code == 200

    argv = [*_COMMAND, "serve", "--no-launcher", *([] if defaults else ["--no-defaults"])]
    return Child("The receiver", argv, env, ready)


def launcher_child(
    env: dict[str, str], database_url: str, file: Path | None, *, only: bool = False
) -> Child:
    """Describe the launcher, which may be the ``only`` one. It is ready once it listens for events
    in the ledger."""

    async def ready(pid: int) -> bool:
        return await asyncio.to_thread(_listens, database_url, pid)

    argv = [*_COMMAND, "launch", *(["--only"] if only else []), *([str(file)] if file else [])]
    return Child("The launcher", argv, env, ready)


def _listens(database_url: str, pid: int) -> bool:
    address = driver_url(database_url).set(drivername="postgresql")
    with psycopg.connect(address.render_as_string(hide_password=False)) as connection:
        found = connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name ~ %s",
            [f"^{LAUNCHER_NAME}.*-{pid}-[0-9a-f]+$"],
        )
        return found.fetchone() is not None
