"""Brings a database to the newest version, and tells which one it has."""

from __future__ import annotations

from importlib import resources
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from ..core.errors import ConfigurationError, LedgerUnavailable
from ..ledger.database import MIN_SERVER_VERSION, Role, driver_url
from ..ledger.tables import SCHEMA, metadata

# Two `migrate` at once: the second waits, then finds nothing to do.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('prefect_n8n_migrate'))")
# Alembic's context is global to the process.
_ALEMBIC = Lock()


def migrate(url: str) -> str:
    """Create roles and schema where missing, apply new versions, return the version reached.

    Safe to repeat and to run twice at once. The login must be a superuser, or hold CREATEROLE and
    CREATE on the database, or find the roles of ``roles.sql`` and the schema made already.

    Raises:
        ConfigurationError: PostgreSQL is too old, the ledger is newer than this package, or the
            login may not do this.
        LedgerUnavailable: PostgreSQL cannot be reached.
    """
    engine = create_engine(driver_url(url), connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            check_server(connection)
            connection.execute(_LOCK)
            _apply(connection)
    except OperationalError as error:
        raise LedgerUnavailable(f"PostgreSQL cannot be reached: {_first_line(error)}") from error
    except ProgrammingError as error:
        raise ConfigurationError(
            f"The migration was refused: {_first_line(error)}. Give a login that may create roles"
            " and schemas as PREFECT_N8N_MIGRATION_DATABASE_URL."
        ) from error
    finally:
        engine.dispose()
    return head()


def check_server(connection: Connection) -> None:
    """Refuse a PostgreSQL that is too old.

    Raises:
        ConfigurationError: older than 14.
    """
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if version < MIN_SERVER_VERSION:
        raise ConfigurationError(
            f"This PostgreSQL is version {version // 10_000}; prefect-n8n needs 14 or newer."
        )


def head() -> str:
    """Return the newest version that this package knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(connection: Connection) -> str | None:
    """Return the version of the database behind ``connection``, ``None`` for an empty one."""
    context = MigrationContext.configure(
        connection, opts={"version_table": "schema_version", "version_table_schema": SCHEMA}
    )
    return context.get_current_revision()


def _apply(connection: Connection) -> None:
    roles = resources.files(__package__ or __name__).joinpath("roles.sql").read_text("utf-8")
    connection.execute(text(roles))
    connection.execute(text("SELECT set_config('role', :role, true)"), {"role": Role.OWNER.value})
    _check_known(connection)
    config = _config()
    config.attributes.update(connection=connection, metadata=metadata)
    with _ALEMBIC:
        command.upgrade(config, "head")


def _check_known(connection: Connection) -> None:
    found = current(connection)
    if found is not None and found > head():
        raise ConfigurationError(
            f"The ledger is at version {found} and this prefect-n8n knows {head()}: install the"
            " newer prefect-n8n that migrated it."
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "prefect_n8n:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).splitlines()[0]
