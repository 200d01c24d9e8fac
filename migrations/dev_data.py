"""Seeds a migrated database for development; ``dev_data.sql`` says with what."""

from __future__ import annotations

from importlib import resources
from uuid import UUID

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from ..core.errors import ConfigurationError, LedgerUnavailable
from ..core.settings import DEFAULT_TENANT
from ..ledger.database import Role, driver_url

_BEGIN = text("""
    SELECT set_config('role', :role, true), set_config('prefect_n8n.tenant_id', :tenant, true)
""")


def apply(url: str, tenant: UUID = DEFAULT_TENANT) -> None:
    """Add the development data that ``tenant`` does not have yet. Safe to repeat.

    The login is one that a receiver could use: row security holds here too.

    Raises:
        ConfigurationError: the database is not migrated, or the login may not do this.
        LedgerUnavailable: PostgreSQL cannot be reached.
    """
    seed = resources.files(__package__ or __name__).joinpath("dev_data.sql").read_text("utf-8")
    connect = {"connect_timeout": 5}
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args=connect)
    try:
        with engine.begin() as connection:
            connection.execute(_BEGIN, {"role": Role.APP.value, "tenant": str(tenant)})
            connection.execute(text(seed))
    except OperationalError as error:
        raise LedgerUnavailable("PostgreSQL cannot be reached.") from error
    except (ProgrammingError, DataError) as error:
        # A missing table or role, or one that the login may not use.
        raise ConfigurationError(
            "The development data was refused: run `prefect-n8n migrate` first, and give a login"
            f" that may act as {Role.APP}."
        ) from error
