"""A real Prefect server on PostgreSQL, as ``up`` runs it: one for all tests of a process.

Tests share it and are isolated by names of their own: each has its own flows and deployments.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.logging.handlers import APILogWorker

from prefect_n8n.cli import local
from prefect_n8n.cli.prefect_server import prefect_server as describe
from prefect_n8n.cli.trigrams import provide_trigrams
from support.postgres import Cluster

READY_SECONDS = 120.0


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent() -> None:
    """Linux: end this process when the one that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture(scope="session")
def prefect_api(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's address of a running Prefect server."""
    folder = tmp_path_factory.mktemp("prefect")
    if cluster.home is not None:
        provide_trigrams(cluster.url, cluster.home)
    port = free_port()
    url = cluster.url_of(cluster.create())
    child = describe(database_url=url, host="127.0.0.1", port=port, folder=folder)
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            child.argv,
            env=os.environ | child.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    api = child.env["PREFECT_API_URL"]
    try:
        _wait(server, api, log)
        # For all of the process: Prefect's own threads follow no context.
        local.use({"PREFECT_API_URL": api})
        yield api
        APILogWorker.drain_all(timeout=5)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], api: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{api}/health", trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"The Prefect server did not start:\n{log.read_text()[-4000:]}")


@pytest_asyncio.fixture
async def prefect(prefect_api: str) -> AsyncIterator[PrefectClient]:
    """A client of the server."""
    assert prefect_api
    async with get_client() as client:
        yield client
