"""The command ``prefect-n8n``. Each command is thin: the work is in the module it names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .. import __version__
from ..core.settings import Settings, settings
from . import local
from .console import log_to_stderr, say, sentences
from .events import events

app = App(
    name="prefect-n8n",
    version=__version__,
    help="The bridge between n8n and Prefect that never loses, repeats or forges work.",
    help_format="plaintext",
)

app.command(events)

File = Annotated[Path | None, Parameter(help="A Python file with @webhook flows.")]


@app.command
def up(
    file: File = None,
    /,
    *,
    port: Annotated[int | None, Parameter(help="Port of the receiver.")] = None,
    prefect_port: Annotated[int, Parameter(help="Port of Prefect and its UI.")] = 4200,
    data_dir: Annotated[Path | None, Parameter(help="Where the embedded parts keep data.")] = None,
) -> None:
    """Start everything on this machine: PostgreSQL, Prefect and its UI, receiver, launcher.

    DATABASE_URL and PREFECT_API_URL, where they are set, are used instead of the embedded
    PostgreSQL and Prefect. Ctrl-C stops everything that was started; the data stays.

    Example: prefect-n8n up examples/orders.py
    """
    from .checking import FileCheck

    with sentences():
        given = settings()
        check = None
        if file is not None:
            say(f"Loading {file} …")
            check = FileCheck(file, prefect_port=prefect_port)
        from .processes import until_signal
        from .up import Up

        if check is not None:
            check.result()
        folder = (data_dir or given.data_dir).absolute()
        with local.exclusive(folder):
            (folder / "logs").mkdir(exist_ok=True)
            run = Up(
                file, folder, given.host, given.port if port is None else port, prefect_port, say
            )
            asyncio.run(until_signal(run, run.kill, say))


@app.command
def serve(
    file: File = None,
    /,
    *,
    launcher: Annotated[bool, Parameter(help="Also run a launcher beside the receiver.")] = True,
    defaults: Annotated[
        bool, Parameter(help="Make the default block and endpoint where they are missing.")
    ] = True,
) -> None:
    """Run a receiver, and a launcher beside it, on DATABASE_URL and PREFECT_API_URL.

    Replicas share one database. Migrate it first: prefect-n8n migrate.
    """
    from .processes import until_signal
    from .serving import Both, receive

    with sentences():
        local.adopt()
        log_to_stderr()
        if launcher:
            both = Both(settings(), file, say)
            asyncio.run(until_signal(both, both.kill, say))
        else:
            asyncio.run(receive(settings(), defaults=defaults))


@app.command
def launch(
    file: File = None,
    /,
    *,
    only: Annotated[
        bool,
        Parameter(help="No other launcher has another file: retire its triggers.", negative=""),
    ] = False,
) -> None:
    """Run a launcher: it turns events into flow runs, and executes those of FILE itself.

    Runs of other deployments are left to their work pools. Replicas share the work.
    """
    from .launching import launch as work

    with sentences():
        local.adopt()
        log_to_stderr()
        work(settings(), file, only=only)


@app.command
def migrate(
    *,
    dev_data: Annotated[
        bool, Parameter(help="Also add example endpoints and triggers, for development.")
    ] = False,
) -> None:
    """Create or upgrade the schema prefect_n8n in DATABASE_URL. Safe to repeat.

    The login must be allowed to create roles and schemas; give it as
    PREFECT_N8N_MIGRATION_DATABASE_URL where the servers' own login is not.
    """
    from ..migrations.dev_data import apply
    from ..migrations.run import migrate as run
    from .serving import database_url

    with sentences():
        local.adopt()
        at = settings().migration_database_url
        url = at.get_secret_value() if at else database_url(settings())
        say(f"The ledger is at version {run(url)}.")
        if dev_data:
            apply(database_url(settings()))
            say("Example endpoints and triggers are there: see `prefect-n8n status`.")


@app.command
def send_test(
    endpoint: Annotated[str, Parameter(help="The endpoint's slug.")] = "default",
    *,
    type: Annotated[
        str | None, Parameter(help="The event type; else one that the endpoint's flows take.")
    ] = None,
    body: Annotated[str, Parameter(help="More fields of the body, as a JSON object.")] = "{}",
) -> None:
    """Send a signed test event to the receiver, as n8n would.

    Example: prefect-n8n send-test orders --type order.created --body '{"total": 12.5}'
    """
    from .testing import send_test as send

    with sentences():
        local.adopt()
        asyncio.run(send(settings(), endpoint, type, body, say))


@app.command
def status() -> None:
    """Show how many events are in which state, who works on them, and the last error."""
    from .reporting import report

    with sentences():
        local.adopt()
        say(json.dumps(asyncio.run(report(settings())), indent=2, default=str))


@app.command
def config() -> None:
    """Show every setting: its environment variable, its value here, and what it does."""
    from .reporting import describe_settings

    with sentences():
        for line in describe_settings(Settings()):
            say(line)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
