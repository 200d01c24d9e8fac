"""What must exist before receivers and launchers work: blocks, default endpoint, a token."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import PrefectClient
from prefect.filesystems import LocalFileSystem

from ..blocks.credentials import N8nCredentials
from ..blocks.defaults import ensure_default_credentials
from ..blocks.saving import ensure_block
from ..core.settings import Settings
from ..core.specs import InboundEndpoint
from ..ledger.configuration import save
from ..ledger.database import Database
from ..ledger.registry import endpoint_by_slug, save_token
from .local import write_private

RESULTS_BLOCK = "prefect-n8n-results"
TOKEN_NAME = "up"  # noqa: S105 - a name
TOKEN_FILE = "token"  # noqa: S105 - a name
UNSHOWN_FILE = "secret-not-shown-yet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found or made. ``unshown`` is a file that is there until the secret was shown."""

    credentials: N8nCredentials
    unshown: Path


async def prepare(
    client: PrefectClient, database: Database, settings: Settings, folder: Path | None = None
) -> Prepared:
    """Register the block types; make the default block and the default endpoint if missing.

    A secret that is generated is remembered in ``folder`` as one that nobody has seen yet.
    """
    unshown = (folder or settings.data_dir) / UNSHOWN_FILE
    mark = (lambda: write_private(unshown, "")) if folder else None
    credentials = await ensure_default_credentials(client, settings, before_generated=mark)
    async with database.transaction(settings.tenant_id) as connection:
        if await endpoint_by_slug(connection, settings.tenant_id, "default") is None:
            await save(connection, settings.tenant_id, InboundEndpoint("default"), actor="up")
    return Prepared(credentials, unshown)


async def ensure_token(database: Database, settings: Settings, folder: Path) -> Path:
    """Make sure of a token that the ledger knows; return its file, which its owner alone reads."""
    file = folder / TOKEN_FILE
    token = _read_or_make(file)
    async with database.transaction(settings.tenant_id) as connection:
        await save_token(
            connection,
            settings.tenant_id,
            name=TOKEN_NAME,
            token=token,
            scopes=["read", "send", "admin"],
            actor="up",
        )
    return file


def _read_or_make(file: Path) -> str:
    if file.exists() and (token := file.read_text().strip()):
        return token
    token = secrets.token_urlsafe(32)
    write_private(file, token + "\n")
    return token


async def ensure_results_block(client: PrefectClient, folder: Path) -> str:
    """Make sure of a storage block for results in ``folder``; return its slug. Prefect otherwise
    asks the server for one in every run, which costs a third of a short run's time."""
    await ensure_block(
        client, LocalFileSystem, RESULTS_BLOCK, lambda: LocalFileSystem(basepath=str(folder))
    )
    return f"{LocalFileSystem.get_block_type_slug()}/{RESULTS_BLOCK}"
