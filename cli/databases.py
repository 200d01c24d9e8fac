"""The ledger of ``up``: embedded, or the user's; migrated, with a login for each role."""

from __future__ import annotations

import psycopg
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ..core.settings import Settings
from ..ledger.database import Role, driver_url
from ..migrations.run import migrate
from .postgres import EmbeddedPostgres

LEDGER = "prefect_n8n"


def migrate_embedded(postgres: EmbeddedPostgres) -> dict[str, str]:
    """Make and migrate the embedded ledger; return the settings that lead to it."""
    postgres.ensure_database(LEDGER)
    owner = postgres.url_of(LEDGER)
    migrate(owner)
    return {
        "DATABASE_URL": postgres.url_of(LEDGER, Role.APP),
        "PREFECT_N8N_LAUNCHER_DATABASE_URL": postgres.url_of(LEDGER, Role.LAUNCHER),
        "PREFECT_N8N_MIGRATION_DATABASE_URL": owner,
    }


def migrate_foreign(given: Settings) -> dict[str, str]:
    """Migrate the user's database; return the settings that let one login do for development."""
    assert given.database_url is not None
    url = given.database_url.get_secret_value()
    by = given.migration_database_url
    migrate(by.get_secret_value() if by else url)
    return {"PREFECT_N8N_ALLOW_SUPERUSER": "true"} if _make_usable(url) else {}


def _make_usable(url: str) -> bool:
    """Let the login act as our roles if it may; say whether it bypasses row security."""
    address = driver_url(url).set(drivername="postgresql")
    with psycopg.connect(address.render_as_string(hide_password=False)) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolbypassrls, rolsuper, pg_has_role(oid, %s, 'MEMBER')"
            " FROM pg_roles WHERE rolname = session_user",
            [Role.OWNER],
        ).fetchone()
        bypasses, superuser, owner = row or (False, False, False)
        if owner and not superuser:
            for role in (Role.APP, Role.LAUNCHER):
                grant = sql.SQL("GRANT {} TO session_user").format(sql.Identifier(role))
                connection.execute(grant)
    return bool(bypasses or owner)


def has_password(value: str) -> bool:
    """Whether a setting is a URL that must not be written to a file; if in doubt, it is."""
    if "://" not in value:
        return False
    try:
        url = make_url(value)
    except ArgumentError:
        return True
    return bool(url.password) or any("password" in name.lower() for name in url.query)
