"""Asks the guard before a process serves: of this database, by this login, at this version."""

from __future__ import annotations

import logging

from ..core.settings import Settings
from ..launcher.loops import until_available
from ..ledger.database import Database, Role
from ..ledger.guard import check
from ..migrations.run import head

logger = logging.getLogger("prefect_n8n")


async def guard(database: Database, settings: Settings, role: Role = Role.APP) -> None:
    """Wait for PostgreSQL, and refuse a ledger or a login that does not keep tenants apart.

    Raises:
        ConfigurationError: what was found, and what to do about it.
    """

    async def attempt() -> list[str]:
        return await check(
            database,
            expected_version=head(),
            allow_superuser=settings.allow_superuser,
            role=role,
        )

    for warning in await until_available("ledger", attempt):
        logger.warning("allowed for development only: %s", warning)
