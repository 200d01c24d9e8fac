"""The embedded PostgreSQL of ``up``: where its data may be, what a lost or killed one leaves."""

from __future__ import annotations

import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from prefect_n8n.cli.postgres import EmbeddedPostgres, start_postgres
from prefect_n8n.cli.trigrams import provide_trigrams
from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.ledger.database import driver_url

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that may be passed."""
    with tempfile.TemporaryDirectory(prefix="pn8n-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def answer(server: EmbeddedPostgres) -> int:
    """Ask it something."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT 42").fetchone()
    assert row is not None
    return int(row[0])


def pid_of(data: Path) -> int:
    """The server's process."""
    return int((data / "postmaster.pid").read_text().splitlines()[0])


ODD = ["a b/pg", 'it\'s $HOME & "more"/pg', "öre, dal/pg", "long" * 25 + "/pg", "50%/pg"]


@pytest.mark.parametrize("name", ODD)
async def test_its_data_may_be_in_any_folder(folder: Path, name: str) -> None:
    server = start_postgres(folder / name)
    try:
        assert answer(server) == 42
        provide_trigrams(server.url, folder / name)
        # As Prefect connects, and as the ledger does.
        engine = create_async_engine(driver_url(server.url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 42")) == 42
        await engine.dispose()
        other = create_engine(driver_url(server.url_of("postgres", "postgres")))
        with other.connect() as connection:
            assert connection.scalar(text("SELECT 42")) == 42
        other.dispose()
    finally:
        server.stop()
    assert not server.is_alive()
    left = make_url(server.url).query["host"]
    assert left == str(folder / name) or not os.path.exists(str(left))  # noqa: ASYNC240, PTH110


def test_a_lost_server_is_started_again_at_its_address(folder: Path) -> None:
    data = folder / "a b" / "pg"
    server = start_postgres(data)
    try:
        url = server.url
        os.kill(pid_of(data), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while server.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.start()
        assert server.is_alive()
        assert server.url == url
        assert answer(server) == 42
    finally:
        server.stop()


def test_one_that_was_left_running_is_found(folder: Path) -> None:
    data = folder / "a b" / "pg"
    left = start_postgres(data)
    try:
        server = start_postgres(data)
        assert server.url == left.url
        assert answer(server) == 42
        pid = pid_of(data)
        server.stop()
        assert not left.is_alive()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        left.stop()


def test_a_half_made_cluster_is_made_again(folder: Path) -> None:
    """As after a power cut while initdb was at work."""
    (folder / "pg.new" / "base").mkdir(parents=True)
    (folder / "pg.new" / "PG_VERSION").write_text("18\n")
    (folder / "pg").mkdir()
    server = start_postgres(folder / "pg")
    assert answer(server) == 42
    server.stop()
    assert {each.name for each in folder.iterdir()} == {"pg"}


@pytest.mark.parametrize("content", [["PG_VERSION"], ["mine.txt"]])
def test_what_is_no_cluster_is_left_alone(folder: Path, content: list[str]) -> None:
    (folder / "pg").mkdir()
    for name in content:
        (folder / "pg" / name).write_text("18\n")
    with pytest.raises(ConfigurationError, match="is no whole data folder of PostgreSQL"):
        start_postgres(folder / "pg")
    assert {each.name for each in (folder / "pg").iterdir()} == set(content)


@pytest.mark.parametrize("after", [0.3, 1.0])
def test_stopping_while_it_is_made(
    folder: Path, capfd: pytest.CaptureFixture[str], after: float
) -> None:
    server = EmbeddedPostgres(folder / "pg")
    ended: list[BaseException | None] = []

    def start() -> None:
        try:
            server.start()
            ended.append(None)
        except ConfigurationError as error:
            ended.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    time.sleep(after)
    begun = time.monotonic()
    server.stop()
    thread.join(10)
    assert time.monotonic() - begun < 5
    assert len(ended) == 1
    assert not server.is_alive()
    assert capfd.readouterr() == ("", "")
    again = start_postgres(folder / "pg")
    assert answer(again) == 42
    again.stop()


def test_what_goes_wrong_is_one_sentence(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start_postgres(folder / "pg").stop()
    with (folder / "pg" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(ConfigurationError, match="did not start") as caught:
        start_postgres(folder / "pg")
    assert str(caught.value).endswith(f" Its log is {folder / 'pg' / 'log'}.")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@as_root
def test_the_folders_above_are_opened_no_more_than_needed(folder: Path) -> None:
    said: list[str] = []
    closed = folder / "closed"
    data = closed / "open" / "pg"
    data.parent.mkdir(parents=True)
    closed.chmod(0o700)
    server = EmbeddedPostgres(data, said.append)
    server.start()
    server.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701
    assert stat.S_IMODE(data.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    (line,) = (line for line in said if str(closed) in line)
    assert f"{closed} was changed from mode 700 to 701." in line
