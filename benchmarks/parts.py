"""The parts that benchmarks run on: an embedded PostgreSQL, a Prefect server, our own processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from prefect_n8n.cli.databases import migrate_embedded
from prefect_n8n.cli.postgres import EmbeddedPostgres, start_postgres
from prefect_n8n.cli.prefect_server import prefect_server, server_env
from prefect_n8n.cli.trigrams import provide_trigrams

SECRET = "a-secret-for-benchmarks-0123456789"
COMMAND = [sys.executable, "-m", "prefect_n8n.cli.app"]


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(argv: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
    """Run a command in a session of its own, and end all of it."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv, env=os.environ | env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for(url: str, seconds: float = 120.0) -> None:
    """Wait until the address answers with 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not answer")


@contextmanager
def ground(folder: Path) -> Iterator[tuple[EmbeddedPostgres, dict[str, str]]]:
    """Start PostgreSQL, the migrated ledger and Prefect; yield what leads to them."""
    postgres = start_postgres(folder / "pg")
    try:
        env = migrate_embedded(postgres)
        provide_trigrams(postgres.url, folder / "pg")
        postgres.ensure_database("prefect")
        port = free_port()
        server = prefect_server(
            database_url=postgres.url_of("prefect"),
            host="127.0.0.1",
            port=port,
            folder=folder,
        )
        api = server.env["PREFECT_API_URL"]
        env |= server_env(folder, "127.0.0.1", port)
        env |= {"N8N_WEBHOOK_SECRET": SECRET, "PREFECT_N8N_DATA_DIR": str(folder)}
        env |= {"PREFECT_N8N_PORT": str(free_port())}
        with process(server.argv, server.env, folder / "prefect.log"):
            wait_for(f"{api}/health")
            yield postgres, env
    finally:
        postgres.stop()
