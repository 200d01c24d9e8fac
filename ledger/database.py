"""The one way to a database session: a transaction, with its role and tenant set first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import StrEnum
from uuid import UUID

from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ..core.errors import ConfigurationError, LedgerUnavailable

MIN_SERVER_VERSION = 140_000


class Role(StrEnum):
    """The database roles; ``migrations/roles.sql`` says what each may do."""

    OWNER = "prefect_n8n_owner"
    APP = "prefect_n8n_app"
    LAUNCHER = "prefect_n8n_launcher"


# Transaction-local, so that neither role nor tenant leaks to the next borrower of the connection,
# also behind a transaction pooler. synchronous_commit: a 202 promises a row on disk.
_BEGIN = text("""
    SELECT set_config('role', :role, true),
           set_config('prefect_n8n.tenant_id', :tenant, true),
           set_config('statement_timeout', '5s', true),
           set_config('lock_timeout', '2s', true),
           set_config('idle_in_transaction_session_timeout', '10s', true),
           set_config('synchronous_commit', 'on', true)
""")


def driver_url(url: str) -> URL:
    """Return ``url`` for SQLAlchemy's psycopg driver.

    Raises:
        ConfigurationError: not a PostgreSQL URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("DATABASE_URL is not a URL.") from error
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ConfigurationError(
            f"DATABASE_URL must begin with postgresql://, not {parsed.drivername}://."
        )
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """A pool of connections to the ledger. Belongs to the event loop that first uses it."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url = driver_url(url)
        self._engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=True,
            # Errors are logged, and values are bodies and addresses that hold secrets.
            hide_parameters=True,
            # Server-side prepared statements do not survive a transaction pooler.
            connect_args={"connect_timeout": 5, "prepare_threshold": None},
        )

    @asynccontextmanager
    async def transaction(
        self, tenant: UUID | None, *, role: Role = Role.APP
    ) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that sees ``tenant``'s rows only, and commit it at the end.

        Without a tenant the application role sees no row at all; the launcher role sees the
        columns of unfinished work that it needs for claiming.

        Raises:
            LedgerUnavailable: PostgreSQL is away, overloaded, or over a time limit.
        """
        try:
            async with self._engine.begin() as connection:
                await connection.execute(
                    _BEGIN, {"role": role.value, "tenant": "" if tenant is None else str(tenant)}
                )
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise LedgerUnavailable("PostgreSQL is not reachable or did not answer.") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise LedgerUnavailable("PostgreSQL closed the connection.") from error
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
