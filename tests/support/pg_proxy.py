"""A proxy before PostgreSQL that a test can take away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url


class PgProxy:
    """Stands before PostgreSQL, and can refuse, drop, stall, or keep back what a commit says."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._holds_commits = False
        self._port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[PgProxy]:
        """Run one before the server of ``url``."""
        proxy = cls(url)
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.stop()

    @property
    def url(self) -> str:
        """The database's URL through the proxy, in clear."""
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        url = self._target.set(host="127.0.0.1", port=self._port, query=plain)
        return url.render_as_string(hide_password=False)

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and drop those there are."""
        if self._server is not None:
            self._server.close()
        self.resume()
        self.drop()

    def drop(self) -> None:
        """Drop all connections; new ones are whole again."""
        self._holds_commits = False
        self._speaks.set()
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Keep everything back, both ways."""
        self._flows.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._flows.set()

    def hold_commits(self) -> None:
        """Pass commits on, but not what PostgreSQL says afterwards."""
        self._holds_commits = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await self._connect()
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._ask(reader, far_writer), self._answer(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._target.port or 5432
        folder = self._target.query.get("host")
        if folder is not None:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.host, port)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(65_536):
                await self._flows.wait()
                if self._holds_commits and b"COMMIT" in data:
                    self._speaks.clear()
                writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(65_536):
                await self._flows.wait()
                await self._speaks.wait()
                writer.write(data)
