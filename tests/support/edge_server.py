"""A receiver in a process of its own, as ``prefect-n8n serve --no-launcher`` runs it.

Importing the package takes seconds, so one warm process imports it and every receiver is a fork of
that. The keys come from this module instead of a block in Prefect; all else is the command's.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from prefect_n8n.ledger.database import Database
from support.postgres import Cluster
from support.receiver import add_endpoint, secrets_of_tests
from support.wire import HEALTH, PATIENCE, Answer, Wire, request

DEADLINE = 1.0
"""The receivers' receive deadline, in seconds."""

SLACK = 4.0
"""Seconds that a busy machine may take longer."""

READY_SECONDS = 30.0
MAX_BODY = 16_384
"""The limit of the endpoints of fixture ``running``."""


@dataclass
class EdgeServer:
    """A running receiver."""

    port: int
    process: int
    """A pidfd: it never names another process, and is readable once ours has ended."""
    log: Path
    _port_held: socket.socket = field(repr=False)

    def wire(self) -> Wire:
        """Open a connection."""
        return Wire(self.port)

    def ask(self, *pieces: bytes) -> Answer | None:
        """Send the pieces on a connection of their own and return the first response."""
        with self.wire() as wire:
            for piece in pieces:
                wire.send(piece)
            return wire.answer()

    def healthy(self) -> bool:
        """Whether the process still answers."""
        answer = self.ask(HEALTH)
        return answer is not None and answer.status == 200

    def refuses(self) -> bool:
        """Whether it takes no connections."""
        try:
            self.wire().close()
        except ConnectionRefusedError:
            return True
        return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End it if it still runs, and give back its port."""
        if self.process >= 0:
            self.kill()
            os.close(self.process)
            self.process = -1
        self._port_held.close()

    def _end(self, number: signal.Signals) -> None:
        if not self._ended():
            signal.pidfd_send_signal(self.process, number)
        assert self._ended(PATIENCE), "the receiver does not end"

    def _ended(self, seconds: float = 0.0) -> bool:
        return bool(select.select([self.process], [], [], seconds)[0])

    def wait_ready(self) -> None:
        """Wait until it can commit."""
        until = time.monotonic() + READY_SECONDS
        probe = request(b"", method="GET", target="/readyz", headers=[])
        while time.monotonic() < until and not self._ended(0.01):
            try:
                answer = self.ask(probe)
            except ConnectionRefusedError:
                continue
            if answer is not None and answer.status == 200:
                return
        raise AssertionError(f"the receiver is not ready:\n{self.log.read_text()}")


def launch(
    database_url: str, folder: Path, *, constants: dict[str, float] | None = None
) -> EdgeServer:
    """Start a receiver on ``database_url``; it may not be ready yet.

    ``constants`` are set in its modules, as ``{"receiver.admission.MAX_BATCH": 1}``.
    """
    # Bound but not listening: nobody else is given the port, and the receiver can listen on it.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    log = folder / f"receiver-{port}.log"
    env = {
        "DATABASE_URL": database_url,
        "PREFECT_N8N_PORT": str(port),
        "PREFECT_N8N_RECEIVE_DEADLINE": str(DEADLINE),
        "PREFECT_N8N_DATA_DIR": str(folder),
    }
    order = {"env": env, "log": str(log), "constants": constants or {}}
    return EdgeServer(port, os.pidfd_open(_warm().fork(order)), log, held)


@contextmanager
def receiver(database_url: str, folder: Path) -> Iterator[EdgeServer]:
    """Run a receiver for the block's time."""
    server = launch(database_url, folder)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def running_receiver(
    database_url: str, folder: Path, *, constants: dict[str, float] | None = None
) -> AsyncIterator[EdgeServer]:
    """Run a receiver for the block's time, whose database is served by this event loop."""
    server = launch(database_url, folder, constants=constants)
    try:
        await asyncio.to_thread(server.wait_ready)
        yield server
    finally:
        server.close()


@dataclass(frozen=True)
class Stored:
    """What a ledger holds, seen by a superuser."""

    url: str

    def bodies(self) -> dict[str, bytes]:
        """The raw body of every event, by event id."""
        return dict(self._rows("SELECT event_id, body FROM prefect_n8n.webhook_events"))

    def ids(self) -> dict[str, str]:
        """The event id of every row, by the row's own id."""
        rows = self._rows("SELECT id, event_id FROM prefect_n8n.webhook_events")
        return {str(id): event_id for id, event_id in rows}

    def payloads(self) -> list[object]:
        """Every parsed body, read as a flow would."""
        return [row[0] for row in self._rows("SELECT payload FROM prefect_n8n.webhook_events")]

    def _rows(self, query: LiteralString) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query).fetchall()


@dataclass(frozen=True)
class Running:
    """A receiver with the endpoints ``orders`` (standard) and ``hmac``, and its ledger."""

    server: EdgeServer
    stored: Stored


@pytest.fixture(scope="session")
def running(
    cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    name = cluster.create(template)
    url = cluster.url_of(name, "prefect_n8n_app")

    async def prepare() -> None:
        database = Database(url)
        await add_endpoint(database, "orders")
        await add_endpoint(database, "hmac", scheme="hmac")
        await database.close()

    asyncio.run(prepare())
    with psycopg.connect(cluster.url_of(name)) as connection:
        connection.execute("UPDATE prefect_n8n.webhook_endpoints SET max_body = 16384")
    with receiver(url, tmp_path_factory.mktemp("edge")) as server:
        yield Running(server, Stored(cluster.url_of(name)))
    cluster.drop(name)


@pytest.fixture
def edge(running: Running) -> Iterator[EdgeServer]:
    """The receiver, which is alive after the test and has met nothing unexpected in it."""
    server = running.server
    before = server.log.stat().st_size
    yield server
    assert server.healthy()
    log = server.log.read_bytes()[before:]
    assert b"Traceback" not in log, log.decode()
    assert b"unexpected error" not in log, log.decode()


@pytest.fixture
def stored(running: Running) -> Stored:
    return running.stored


class _Warm:
    """The process that receivers are forked from. It and they end with this one."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.edge_server", str(os.getpid())],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.close)

    def fork(self, order: dict[str, object]) -> int:
        """Start a receiver and return its process id."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            self._log.seek(0)
            raise AssertionError(self._log.read().decode(errors="replace"))
        return int(line)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@cache
def _warm() -> _Warm:
    return _Warm()


def _die_with(parent: int) -> None:
    """Linux: end this process when the one that started it ends, however that is."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def _fork_receivers(parent: int) -> None:
    """The warm process: fork a receiver for each line of stdin."""
    import prefect_n8n.cli.app
    import prefect_n8n.cli.serving  # noqa: F401  imported before the forks

    _die_with(parent)
    # Ended receivers do not stay as zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    me = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _die_with(me)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(**order)
        print(pid, flush=True)


def _serve(env: dict[str, str], log: str, constants: dict[str, float]) -> None:
    """The forked process: run the command."""
    from prefect_n8n.cli import serving
    from prefect_n8n.cli.app import serve

    os.setsid()
    with Path(log).open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(env)
    serving.block_secrets = secrets_of_tests
    for path, value in constants.items():
        module, _, name = path.rpartition(".")
        setattr(sys.modules[f"prefect_n8n.{module}"], name, value)
    try:
        serve(launcher=False, defaults=False)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


if __name__ == "__main__":
    _fork_receivers(int(sys.argv[1]))
