"""A TCP proxy that a test can take away: what is behind it seems to be down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from prefect.client.orchestration import PrefectClient, get_client
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT
from support.bridge import Bridge


class Proxy:
    """Forwards connections to ``host:port`` from a port of its own, while it is started."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Proxy]:
        """Run a proxy before the server of ``url``."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        proxy = cls(parts.hostname, parts.port)
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.stop()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[PrefectClient]:
        """Make Prefect's clients use the proxy, and return one."""
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{self.port}/api"}):
            async with get_client() as client:
                yield client
            # What was logged meanwhile goes through here too.
            await asyncio.to_thread(APILogWorker.drain_all, timeout=5)

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def refused(self, bridge: Bridge) -> bool:
        """Whether an event has been given back: its launcher found nobody here."""
        async with bridge.database.transaction(DEFAULT_TENANT) as connection:
            found = await connection.execute(
                text(
                    "SELECT count(*) FROM prefect_n8n.webhook_events"
                    " WHERE state = 'pending' AND scheduled_at > received_at"
                )
            )
            return found.scalar_one() > 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._open |= both
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._open -= both
            for each in both:
                each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
