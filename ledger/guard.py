"""The check before a process serves: its login is bound by row security, and the schema fits.

It fails closed. What it looks for is what silently voids the separation of tenants: a login that
bypasses row security or can become one that does, a table, view, policy or function that lets rows
through.
"""

from __future__ import annotations

from sqlalchemy import RowMapping, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.errors import ConfigurationError
from .database import MIN_SERVER_VERSION, Database, Role

_SERVER = text("SELECT CAST(current_setting('server_version_num') AS int)")
_VERSION = text("SELECT max(version_num) FROM prefect_n8n.schema_version")

# powers: of the login, and of the roles it acts as. session_user is who really logged in: SQL that
# an attacker slips in may RESET ROLE. MEMBER, because whoever is a member in any way may become it.
_POWERS = text("""
    WITH owners AS (
        SELECT relowner AS oid FROM pg_class WHERE relnamespace = 'prefect_n8n'::regnamespace
        UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'prefect_n8n')
    SELECT r.rolname AS name, r.rolname = session_user AS is_login, r.rolsuper AS superuser,
           r.rolbypassrls AS bypasses, r.rolcreaterole AS creates_roles,
           r.oid IN (SELECT oid FROM owners) AS owns,
           ARRAY(SELECT m.rolname::text FROM pg_roles m
                 WHERE m.oid <> r.oid AND pg_has_role(r.oid, m.oid, 'MEMBER')
                   AND (m.rolsuper OR m.rolbypassrls OR m.oid IN (SELECT oid FROM owners)
                        OR m.rolname IN ('pg_read_server_files', 'pg_write_server_files',
                                         'pg_execute_server_program'))
                 ORDER BY 1) AS becomes
    FROM pg_roles r
    WHERE r.rolname IN (session_user, 'prefect_n8n_app', 'prefect_n8n_launcher',
                        'prefect_n8n_resolver')
    ORDER BY r.rolname
""")

# schema_version has no tenant's data.
_TABLES = text("""
    SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
           EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS has_policy
    FROM pg_class c
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relname <> 'schema_version'
    ORDER BY c.relname
""")

# holes: what shows a tenant's rows to another in spite of row security.
_HOLES = text("""
    SELECT 'policy ' || policyname || ' on ' || tablename AS hole FROM pg_policies
    WHERE schemaname = 'prefect_n8n' AND permissive = 'PERMISSIVE'
      AND roles && ARRAY['public', 'prefect_n8n_app']::name[]
      AND (position('prefect_n8n.tenant_id' IN qual) = 0
           OR position('prefect_n8n.tenant_id' IN with_check) = 0)
    UNION ALL
    SELECT 'view ' || c.relname FROM pg_class c
    WHERE c.relnamespace = 'prefect_n8n'::regnamespace AND c.relkind IN ('v', 'm')
      AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions)
                      WHERE option_name = 'security_invoker' AND option_value::boolean)
    UNION ALL
    SELECT 'function ' || p.proname FROM pg_proc p
    WHERE p.pronamespace = 'prefect_n8n'::regnamespace AND p.prosecdef
      AND NOT (p.proname IN ('resolve_endpoint', 'resolve_token')
               AND p.proowner = 'prefect_n8n_resolver'::regrole)
    ORDER BY 1
""")

# SQLSTATEs of a database that was not migrated, or not for this login.
_NO_SUCH_ROLE, _NO_SUCH_TABLE, _NOT_ALLOWED = "22023", "42P01", "42501"


async def check(
    database: Database, *, expected_version: str, allow_superuser: bool, role: Role = Role.APP
) -> list[str]:
    """Refuse a database that does not keep tenants apart, or is of another version.

    ``role`` is what the process acts as besides the application: the launcher's is its own. With
    ``allow_superuser``, what the login may do too much is not refused but returned, as sentences.

    Raises:
        ConfigurationError: all that was found, and what to do about it.
        LedgerUnavailable: PostgreSQL is away.
    """
    for each in dict.fromkeys((role, Role.APP)):
        await _act_as(database, each)
    async with database.transaction(None) as connection:
        await _check_versions(connection, expected_version)
        powers, wrong = await _powers(connection)
        wrong += await _tables(connection)
        wrong += await _holes(connection)
    refused = wrong if allow_superuser else powers + wrong
    if refused:
        raise ConfigurationError(" ".join(refused))
    return powers


async def _act_as(database: Database, role: Role) -> None:
    try:
        async with database.transaction(None, role=role):
            pass
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state == _NO_SUCH_ROLE:
            raise ConfigurationError(
                f"PostgreSQL has no role {role}: run `prefect-n8n migrate`."
            ) from error
        if state == _NOT_ALLOWED:
            raise ConfigurationError(
                f"The database login {database.url.username} may not act as {role}: log in as"
                f" {role}, or GRANT {role} TO the login."
            ) from error
        raise


async def _check_versions(connection: AsyncConnection, expected: str) -> None:
    server = int((await connection.execute(_SERVER)).scalar_one())
    if server < MIN_SERVER_VERSION:
        raise ConfigurationError(
            f"This PostgreSQL is version {server // 10_000}; prefect-n8n needs"
            f" {MIN_SERVER_VERSION // 10_000} or newer."
        )
    try:
        found: str | None = (await connection.execute(_VERSION)).scalar_one()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_SUCH_TABLE:
            raise
        found = None
    if found is None:
        raise ConfigurationError("This database has no ledger yet: run `prefect-n8n migrate`.")
    if found > expected:
        raise ConfigurationError(
            f"The ledger is at version {found} and this prefect-n8n knows {expected}: install the"
            " newer prefect-n8n that ran `prefect-n8n migrate`."
        )
    if found < expected:
        raise ConfigurationError(
            f"The ledger is at version {found} and this prefect-n8n needs {expected}: run"
            " `prefect-n8n migrate`."
        )


async def _powers(connection: AsyncConnection) -> tuple[list[str], list[str]]:
    """Return what the login may do too much, and what our own roles may."""
    of_login: list[str] = []
    of_roles: list[str] = []
    for row in (await connection.execute(_POWERS)).mappings():
        excess = _excess(row)
        if excess and row["is_login"]:
            of_login.append(
                f"The database login {row['name']} {excess}, so row security does not bind it:"
                f" log in as {Role.APP} (launchers as {Role.LAUNCHER})."
            )
        elif excess:
            of_roles.append(
                f"The role {row['name']} {excess}, so row security does not bind it: take that"
                " from it."
            )
    return of_login, of_roles


def _excess(row: RowMapping) -> str:
    """Say in words which powers a row of ``powers`` has; nothing more of a superuser."""
    if row["superuser"]:
        return "is a superuser"
    found = [
        words
        for column, words in (
            ("bypasses", "has BYPASSRLS"),
            ("creates_roles", "has CREATEROLE"),
            ("owns", "owns parts of schema prefect_n8n"),
        )
        if row[column]
    ]
    found += [f"may become {name}" for name in row["becomes"]]
    return ", ".join(found)


async def _tables(connection: AsyncConnection) -> list[str]:
    found: list[str] = []
    for row in (await connection.execute(_TABLES)).mappings():
        lacking = [word for word in ("enabled", "forced") if not row[word]]
        if lacking:
            found.append(
                f"Row security on prefect_n8n.{row['name']} is not {' and not '.join(lacking)}:"
                " ALTER TABLE … ENABLE and FORCE ROW LEVEL SECURITY."
            )
        if not row["has_policy"]:
            found.append(f"Table prefect_n8n.{row['name']} has no policy: CREATE POLICY for it.")
    return found


async def _holes(connection: AsyncConnection) -> list[str]:
    return [
        f"The {row.hole} of schema prefect_n8n may show one tenant's rows to another: drop it."
        for row in await connection.execute(_HOLES)
    ]
