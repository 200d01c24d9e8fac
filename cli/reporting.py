"""``status`` and ``config``: what operators read on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from ..core.redaction import MASK
from ..core.settings import Settings
from ..ledger.database import Database
from ..ledger.status import overview
from .serving import database_url


async def report(settings: Settings) -> dict[str, Any]:
    """Return the overview of the tenant's events."""
    database = Database(database_url(settings), pool_size=1)
    try:
        async with database.transaction(settings.tenant_id) as connection:
            return await overview(connection, settings.tenant_id)
    finally:
        await database.close()


def describe_settings(settings: Settings) -> Iterator[str]:
    """Yield two lines for each setting: its variable and value, and what it does."""
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"{prefix}{name}".upper()
        value = getattr(settings, name)
        shown = MASK if isinstance(value, SecretStr) else value
        yield f"{variable}={'' if shown is None else shown}"
        yield f"    {field.description}"
