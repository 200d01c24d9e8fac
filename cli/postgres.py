"""The embedded PostgreSQL of ``up``: server binaries out of a wheel, also as root.

The wheel's own way of starting it passes paths through a shell, opens the folders above the data
for everyone, leaves a half-made cluster behind when it is killed, and prints all that goes wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from ..core.errors import ConfigurationError
from .binaries import VERSION, Binaries, find_binaries

STOP_SECONDS = 30.0
RETRY_SECONDS = 10.0
"""How long what is left of a lost server may hold its memory."""

MAX_SOCKET_FOLDER = 80
"""Bytes; the path of a Unix socket has about 100, also where the system allows more."""

_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


class _Stopped(ConfigurationError):
    """``stop`` was called while the server was being started; nobody waits for this."""


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What the server's pid file says. A server that came with another process has it, too."""

    pid: int
    socket_folder: str
    ready: bool

    @classmethod
    def read(cls, folder: Path) -> _Postmaster | None:
        """Return the running server's, or None."""
        try:
            lines = (folder / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        complete = len(lines) >= 8
        ready = complete and lines[7].strip() == "ready"
        return cls(pid, lines[4].strip() if complete else "", ready) if _lives(pid) else None


class EmbeddedPostgres:
    """A cluster whose data is in ``folder``. It belongs to this process alone.

    ``say`` gets the sentences that a user should read. ``stop`` may be called from any thread, also
    while ``start`` is at work.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._say = say
        self._lock = threading.Lock()
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._socket_folder: Path | None = None

    @property
    def url(self) -> str:
        """A superuser's URL, of the maintenance database. The socket trusts who reaches it."""
        return f"postgresql://postgres:@/postgres?host={quote(str(self._socket_folder))}"

    def url_of(self, database: str, user: str | None = None) -> str:
        """Return the URL of another database, or for another login."""
        url = make_url(self.url).set(database=database)
        if user is not None:
            url = url.set(username=user)
        return url.render_as_string(hide_password=False)

    def ensure_database(self, name: str) -> None:
        """Create the database if it is not there."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if known.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def is_alive(self) -> bool:
        """Whether the server's process lives; it may be too busy to answer."""
        if self._child is not None:
            return self._child.poll() is None
        found = _Postmaster.read(self._folder)
        return found is not None and found.pid == self._pid

    def start(self) -> None:
        """Start the server, or find the one that another process left running.

        Raises:
            ConfigurationError: the wheel is not installed, the data is of another PostgreSQL
                version or no data of it, or the server does not start.
        """
        binaries = find_binaries()
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        _check_data(self._folder)
        binaries.open_way(self._folder.parent, self._say)
        if not self._folder.exists():
            self._make(binaries)
        found = _Postmaster.read(self._folder)
        if found is None:
            self._start(binaries)
        else:
            self._child, self._pid = None, found.pid
            while found is not None and not found.ready:
                self._pause()
                found = _Postmaster.read(self._folder)
            if found is not None:
                self._socket_folder = Path(found.socket_folder)

    def stop(self) -> None:
        """Stop the server, and what makes or starts one."""
        with self._lock:
            self._stopping = True
            child = self._child
        if child is not None:
            _end(child.pid, lambda: child.poll() is None)
        elif self._pid:
            _end(self._pid, self.is_alive)
        if self._socket_folder not in (None, self._folder):
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _make(self, binaries: Binaries) -> None:
        """Make the cluster beside its place: where it is, it is whole."""
        new = self._folder.with_name(f"{self._folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        binaries.give(new)
        options = ("--auth=trust", "--encoding=utf8", "--username=postgres", "--pgdata", str(new))
        with tempfile.TemporaryFile() as output:
            child = self._spawn(binaries, ["initdb", *options], output.fileno())
            code = child.wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
        with self._lock:
            self._child = None
            if self._stopping:
                shutil.rmtree(new, ignore_errors=True)
                raise _Stopped("PostgreSQL's data was not made.")
        if code != 0:
            raise ConfigurationError(f"PostgreSQL's data could not be made: {_worst(said)}")
        new.rename(self._folder)
        parent = os.open(self._folder.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _start(self, binaries: Binaries) -> None:
        # A lost server's children know its folder: it stays the same when it is started again.
        self._socket_folder = self._socket_folder or _socket_folder(self._folder, binaries)
        where = ["-D", str(self._folder), "-h", "", "-k", str(self._socket_folder)]
        log = self._folder / "log"
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            with log.open("ab") as output:
                begin = output.tell()
                child = self._spawn(binaries, ["postgres", *where], output.fileno())
            while child.poll() is None:
                found = _Postmaster.read(self._folder)
                if found is not None and found.pid == child.pid and found.ready:
                    return
                self._pause()
            with log.open("rb") as output:
                output.seek(begin)
                said = output.read().decode(errors="replace")
            if "still in use" not in said or time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The embedded PostgreSQL did not start: {_worst(said)} Its log is {log}."
                )
            self._pause()

    def _spawn(
        self, binaries: Binaries, argv: Sequence[str], output: int
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping:
                raise _Stopped("PostgreSQL was not started.")
            self._child = binaries.run(argv, output)
            self._pid = self._child.pid
            return self._child

    def _pause(self) -> None:
        if self._stopping:
            raise _Stopped("PostgreSQL was not started.")
        time.sleep(0.05)


def start_postgres(folder: Path) -> EmbeddedPostgres:
    """Return the running cluster whose data is in ``folder``; see ``EmbeddedPostgres.start``."""
    server = EmbeddedPostgres(folder)
    server.start()
    return server


def _check_data(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if not folder.exists():
        return
    file = folder / "PG_VERSION"
    found = file.read_text().strip() if file.exists() else None
    if found is not None and found != str(VERSION):
        raise ConfigurationError(
            f"The data in {folder} is PostgreSQL {found}'s, and the embedded one is"
            f" {VERSION}: move that folder away (or dump it with the old version),"
            " or set DATABASE_URL."
        )
    if not (folder / "global" / "pg_control").exists():
        raise ConfigurationError(
            f"{folder} is no whole data folder of PostgreSQL: move it away, or set DATABASE_URL."
        )


def _socket_folder(data: Path, binaries: Binaries) -> Path:
    """Return a folder for the socket, whose path every part of the software takes as it is."""
    if _PLAIN.fullmatch(str(data)) and len(str(data)) <= MAX_SOCKET_FOLDER:
        return data
    folder = Path(tempfile.mkdtemp(prefix="prefect-n8n-", dir="/tmp"))
    binaries.give(folder)
    return folder


def _end(pid: int, lives: Callable[[], bool]) -> None:
    """Stop the server: its clients are cut off, and what is committed is on the disk."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        while lives() and time.monotonic() < deadline:
            if number is not None:
                os.kill(pid, number)
                number = None
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    """Whether the process is a running postgres: after a crash its id may be another's."""
    try:
        name, _, state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
        # Not Linux.
        ps = ["ps", "-o", "state=,comm=", "-p", str(pid)]
        said = subprocess.run(ps, capture_output=True, text=True, check=False)  # noqa: S603
        state, _, name = said.stdout.strip().partition(" ")
    return "postgres" in name and not state.strip().startswith("Z")


def _worst(said: str) -> str:
    """Return the line that says what went wrong, as a sentence."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"FATAL|PANIC|error", line)]
    text = (wrong or lines or ["it said nothing"])[-1]
    text = re.sub(r"^.*?(FATAL|PANIC|ERROR|error): *", "", text)
    return text if text.endswith(".") else f"{text}."
