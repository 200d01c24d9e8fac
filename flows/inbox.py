"""What a flow works on: its event in the ledger, by the id that Prefect was given."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from uuid import UUID
from weakref import WeakKeyDictionary

from ..core.errors import ConfigurationError, EventUnprocessable
from ..core.settings import settings
from ..ledger.database import Database
from ..ledger.events import load
from .event import WebhookEvent

tenant: ContextVar[UUID | None] = ContextVar("prefect_n8n_tenant", default=None)
"""The tenant of the run at hand; the resident runner sets it, elsewhere the setting holds."""

owner: ContextVar[str | None] = ContextVar("prefect_n8n_owner", default=None)
"""The launcher that holds the lease on what the run at hand works on; None outside of one."""

# A pool of connections belongs to one event loop; the resident runner has several.
_databases: WeakKeyDictionary[asyncio.AbstractEventLoop, Database] = WeakKeyDictionary()


def database() -> Database:
    """Return the ledger for the running event loop.

    Raises:
        ConfigurationError: ``DATABASE_URL`` is not set.
    """
    loop = asyncio.get_running_loop()
    if loop not in _databases:
        url = settings().database_url
        if url is None:
            raise ConfigurationError("Set DATABASE_URL: the flow works on the ledger there.")
        _databases[loop] = Database(url.get_secret_value())
    return _databases[loop]


async def load_event(row_id: UUID) -> WebhookEvent:
    """Return the event with that row id.

    Raises:
        EventUnprocessable: there is none in this tenant.
        LedgerUnavailable: PostgreSQL is away.
    """
    of = tenant.get() or settings().tenant_id
    async with database().transaction(of) as connection:
        row = await load(connection, of, row_id)
    if row is None:
        raise EventUnprocessable(f"There is no event {row_id} in tenant {of}.")
    return WebhookEvent(**row)


async def close_database() -> None:
    """Close the pool of the running event loop, if it has one."""
    pool = _databases.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
