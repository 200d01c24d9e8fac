"""The check before serving: every way in which tenants could silently mix is refused by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from prefect_n8n.cli.postgres import start_postgres
from prefect_n8n.core.errors import ConfigurationError, LedgerUnavailable
from prefect_n8n.ledger import guard
from prefect_n8n.ledger.database import Database, Role
from prefect_n8n.migrations.run import head, migrate
from support.postgres import Cluster, Ledger

Login = Callable[..., str]


async def check(
    url: str,
    *,
    role: Role = Role.APP,
    allow_superuser: bool = False,
    expected_version: str | None = None,
) -> list[str]:
    """The guard over this URL, for the version that this package migrates to."""
    database = Database(url, pool_size=1)
    try:
        return await guard.check(
            database,
            expected_version=expected_version or head(),
            allow_superuser=allow_superuser,
            role=role,
        )
    finally:
        await database.close()


def change(url: str, *statements: str) -> None:
    """Do what an administrator may."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


@pytest.fixture
def login(ledger: Ledger) -> Iterator[Login]:
    """Makes a login of the test's own (roles belong to the whole cluster) that may act as the
    application; in the statements that give it more, it is ``{me}``."""
    made: list[str] = []

    def make(*statements: str, attributes: str = "") -> str:
        name = f"login_{uuid4().hex}"
        create = f"CREATE ROLE {name} LOGIN {attributes}"
        change(ledger.admin_url, create, f"GRANT prefect_n8n_app TO {name}")
        made.append(name)
        change(ledger.admin_url, *(statement.format(me=name) for statement in statements))
        url = make_url(ledger.admin_url).set(username=name)
        return url.render_as_string(hide_password=False)

    yield make
    for name in made:
        change(ledger.admin_url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL whose roles these tests may spoil."""
    with tempfile.TemporaryDirectory(prefix="pn8n-") as folder:
        Path(folder).chmod(0o755)
        server = start_postgres(Path(folder) / "pg")
        yield Cluster(server.url)
        server.stop()


async def test_the_logins_of_the_documentation_are_good(ledger: Ledger, login: Login) -> None:
    assert await check(ledger.app_url) == []
    assert await check(ledger.launcher_url, role=Role.LAUNCHER) == []
    assert await check(login()) == []


TOO_MUCH = {
    "bypassrls": ("BYPASSRLS", [], "has BYPASSRLS"),
    "createrole": ("CREATEROLE", [], "has CREATEROLE"),
    "owner": ("", ["GRANT prefect_n8n_owner TO {me}"], "may become prefect_n8n_owner"),
    "owner-by-set-role-alone": (
        "NOINHERIT",
        ["GRANT prefect_n8n_owner TO {me}"],
        "may become prefect_n8n_owner",
    ),
    "owner-of-a-table": (
        "",
        ["ALTER TABLE prefect_n8n.webhook_events OWNER TO {me}"],
        "owns parts of schema prefect_n8n",
    ),
    "owner-of-the-schema": (
        "",
        ["ALTER SCHEMA prefect_n8n OWNER TO {me}"],
        "owns parts of schema prefect_n8n",
    ),
    "server-files": ("", ["GRANT pg_read_server_files TO {me}"], "may become pg_read_server_files"),
    "server-programs": (
        "",
        ["GRANT pg_execute_server_program TO {me}"],
        "may become pg_execute_server_program",
    ),
}


@pytest.mark.parametrize(("attributes", "more", "words"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_login_that_may_too_much(
    login: Login, attributes: str, more: list[str], words: str
) -> None:
    url = login(*more, attributes=attributes)

    with pytest.raises(ConfigurationError, match=f"{words}.*log in as prefect_n8n_app"):
        await check(url)

    (warning,) = await check(url, allow_superuser=True)
    assert words in warning
    assert str(make_url(url).username) in warning


async def test_a_superuser_is_for_development(ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="is a superuser, so row security does not bind"):
        await check(ledger.admin_url)
    (warning,) = await check(ledger.admin_url, allow_superuser=True)
    assert "is a superuser" in warning


async def test_the_way_to_a_superuser_may_lead_over_others(login: Login, cluster: Cluster) -> None:
    group, bypassing = f"group_{uuid4().hex}", f"bypassing_{uuid4().hex}"
    change(
        cluster.url,
        f"CREATE ROLE {group}",
        f"CREATE ROLE {bypassing} BYPASSRLS",
        f"GRANT {bypassing} TO {group}",
    )
    try:
        url = login(f"GRANT {group} TO {{me}}")
        with pytest.raises(ConfigurationError, match=f"may become {bypassing}"):
            await check(url)
    finally:
        change(cluster.url, f"DROP ROLE {bypassing}", f"DROP ROLE {group}")


async def test_a_login_that_may_not_act_as_the_role_it_needs(ledger: Ledger, login: Login) -> None:
    nobody = login("REVOKE prefect_n8n_app FROM {me}")
    with pytest.raises(ConfigurationError, match="GRANT prefect_n8n_app TO the login"):
        await check(nobody)
    with pytest.raises(ConfigurationError, match="may not act as prefect_n8n_launcher"):
        await check(ledger.app_url, role=Role.LAUNCHER)


SPOILED = {
    "row security off": (
        "ALTER TABLE prefect_n8n.api_tokens DISABLE ROW LEVEL SECURITY",
        "prefect_n8n.api_tokens is not enabled:",
    ),
    "row security not forced": (
        "ALTER TABLE prefect_n8n.audit_log NO FORCE ROW LEVEL SECURITY",
        "prefect_n8n.audit_log is not forced:",
    ),
    "new table": (
        "CREATE TABLE prefect_n8n.news (tenant_id uuid)",
        "prefect_n8n.news is not enabled and not forced:.*prefect_n8n.news has no policy",
    ),
    "new partitioned table": (
        "CREATE TABLE prefect_n8n.news (tenant_id uuid) PARTITION BY LIST (tenant_id)",
        "prefect_n8n.news is not enabled",
    ),
    "policy for the application": (
        "CREATE POLICY ease ON prefect_n8n.webhook_events TO prefect_n8n_app USING (true)",
        "policy ease on webhook_events",
    ),
    "policy for all": (
        "CREATE POLICY ease ON prefect_n8n.webhook_events FOR SELECT USING (tenant_id IS NOT NULL)",
        "policy ease on webhook_events",
    ),
    "policy for writing": (
        "CREATE POLICY ease ON prefect_n8n.audit_log FOR INSERT TO prefect_n8n_app"
        " WITH CHECK (true)",
        "policy ease on audit_log",
    ),
    "view": (
        "CREATE VIEW prefect_n8n.news AS SELECT * FROM prefect_n8n.webhook_events",
        "view news",
    ),
    "view with another option": (
        "CREATE VIEW prefect_n8n.news WITH (security_barrier)"
        " AS SELECT * FROM prefect_n8n.webhook_events",
        "view news",
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW prefect_n8n.news AS SELECT * FROM prefect_n8n.webhook_events",
        "view news",
    ),
    "function": (
        "CREATE FUNCTION prefect_n8n.news() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
        " AS 'SELECT count(*) FROM prefect_n8n.webhook_events'",
        "function news",
    ),
    "function of another owner": (
        "ALTER FUNCTION prefect_n8n.resolve_token(bytea) OWNER TO CURRENT_USER",
        "function resolve_token",
    ),
}


@pytest.mark.parametrize("allow_superuser", [False, True])
@pytest.mark.parametrize(("statement", "words"), SPOILED.values(), ids=SPOILED)
async def test_a_schema_that_mixes_tenants(
    ledger: Ledger, statement: str, words: str, allow_superuser: bool
) -> None:
    """Nothing of this is excused by development."""
    change(ledger.admin_url, statement)
    with pytest.raises(ConfigurationError, match=words):
        await check(ledger.app_url, allow_superuser=allow_superuser)


async def test_what_keeps_tenants_apart_is_let_through(ledger: Ledger) -> None:
    """Views that ask as their reader, policies that only restrict, and those of other roles."""
    change(
        ledger.admin_url,
        "CREATE VIEW prefect_n8n.news WITH (security_invoker = on)"
        " AS SELECT * FROM prefect_n8n.webhook_events",
        "CREATE POLICY less ON prefect_n8n.webhook_events AS RESTRICTIVE USING (state <> 'dead')",
        "CREATE POLICY more ON prefect_n8n.audit_log TO prefect_n8n_owner USING (true)",
        "CREATE FUNCTION prefect_n8n.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    assert await check(ledger.app_url) == []


async def test_all_findings_are_told_at_once(ledger: Ledger) -> None:
    change(ledger.admin_url, *(SPOILED[name][0] for name in ("row security off", "function")))
    with pytest.raises(ConfigurationError) as caught:
        await check(ledger.admin_url)
    for words in ("is a superuser", "api_tokens is not enabled", "function news"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("9999", f"is at version {head()} .* needs 9999: run `prefect-n8n migrate`"),
        ("0000", f"is at version {head()} .* knows 0000: install the newer prefect-n8n"),
    ],
)
async def test_a_schema_of_another_version(ledger: Ledger, expected: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await check(ledger.app_url, expected_version=expected, allow_superuser=True)


async def test_a_database_that_was_never_migrated(
    ledger: Ledger, cluster: Cluster, own_cluster: Cluster
) -> None:
    empty = cluster.create()
    try:
        with pytest.raises(ConfigurationError, match="no ledger yet: run `prefect-n8n migrate`"):
            await check(cluster.url_of(empty, "prefect_n8n_app"))
        # Half a migration: the table of versions without a version.
        change(ledger.admin_url, "DELETE FROM prefect_n8n.schema_version")
        with pytest.raises(ConfigurationError, match="no ledger yet: run `prefect-n8n migrate`"):
            await check(ledger.app_url)
    finally:
        cluster.drop(empty)
    never = own_cluster.url_of(own_cluster.create())
    change(own_cluster.url, "DROP ROLE IF EXISTS prefect_n8n_app")
    with pytest.raises(ConfigurationError, match="no role prefect_n8n_app: run `prefect-n8n mig"):
        await check(never, allow_superuser=True)


async def test_a_server_that_is_too_old(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MIN_SERVER_VERSION", 990_000)
    with pytest.raises(ConfigurationError, match="needs 99 or newer"):
        await check(ledger.app_url)


async def test_a_server_that_is_away_is_no_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        await check(f"postgresql://nobody@/nothing?host={tmp_path}")


SPOILED_ROLES = {
    "superuser": ("ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER"),
    "bypassrls": ("ALTER ROLE {role} BYPASSRLS", "ALTER ROLE {role} NOBYPASSRLS"),
    "owner": ("GRANT prefect_n8n_owner TO {role}", "REVOKE prefect_n8n_owner FROM {role}"),
}


@pytest.fixture
def own_ledger(own_cluster: Cluster) -> Iterator[str]:
    """The superuser's URL of a migrated database in the cluster whose roles may be spoiled."""
    name = own_cluster.create()
    migrate(own_cluster.url_of(name))
    yield own_cluster.url_of(name)
    own_cluster.drop(name)


@pytest.mark.parametrize("role", ["prefect_n8n_app", "prefect_n8n_launcher"])
@pytest.mark.parametrize(("spoil", "mend"), SPOILED_ROLES.values(), ids=SPOILED_ROLES)
async def test_our_own_roles_may_not_do_more_either(
    own_ledger: str, role: str, spoil: str, mend: str
) -> None:
    """Also with a login that is allowed to: it acts as these roles to be bound by row security."""
    change(own_ledger, spoil.format(role=role))
    try:
        with pytest.raises(ConfigurationError, match=f"The role {role} .* does not bind it"):
            await check(own_ledger, allow_superuser=True)
    finally:
        change(own_ledger, mend.format(role=role))
    (warning,) = await check(own_ledger, allow_superuser=True)
    assert role in warning
    assert "The database login" in warning


async def test_no_finding_tells_a_password(ledger: Ledger, login: Login) -> None:
    url = make_url(login(attributes="PASSWORD 'hunter2' BYPASSRLS")).set(password="hunter2")
    with pytest.raises(ConfigurationError) as caught:
        await check(url.render_as_string(hide_password=False))
    assert "hunter2" not in str(caught.value)
