"""A raw HTTP server that answers whatever a test wants, and knows what it was sent.

``answer`` is called for every request with its connection, once its head and body have come; what
it does not write was never answered. Connections end when it returns, unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.core.urls import AllowList

JSON = b"application/json"
WORKFLOW = {"id": "w1", "name": "Orders", "active": True, "nodes": [], "connections": {}}
LOOPBACK = AllowList.parse("127.0.0.0/8")
HEADERS = [(b"content-type", b"application/json"), (b"webhook-id", b"d_1")]


@dataclass
class Request:
    """One request as it came. ``line`` is its first; ``headers`` have lower-case names."""

    line: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        kind: bytes | None = JSON,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Write a whole answer."""
        lines = [b"HTTP/1.1 %d X" % status, b"content-length: %d" % len(body), b"connection: close"]
        lines += [b"content-type: " + kind] if kind is not None else []
        lines += [name + b": " + value for name, value in headers]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """Break the connection with a RST."""
        self.writer.transport.abort()


Answer = Callable[[Request], Awaitable[None]]


@dataclass
class Hostile:
    """The running server. ``requests`` are those that came; ``connections`` counts all."""

    port: int = 0
    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://127.0.0.1:{self.port}"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile(answer: Answer) -> AsyncIterator[Hostile]:
    """Run a server that answers so, on a free port of loopback."""
    server = Hostile()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader, writer)
        server.requests.append(request)
        await answer(request)
        await writer.drain()

    async with listening(serve, server):
        yield server


@asynccontextmanager
async def listening(serve: Serve, server: Hostile | None = None) -> AsyncIterator[Hostile]:
    """Run a server that does so with each connection, which ends when it returns."""
    server = server or Hostile()
    tasks: set[asyncio.Task[None]] = set()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if not writer.is_closing():
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.get_running_loop().create_task(hold(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(": ") for line in head[1:])
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0], headers, body, reader, writer)


@asynccontextmanager
async def calling(
    answer: Answer, *, timeout: float = 5.0, **options: Any
) -> AsyncIterator[tuple[N8nClient, Hostile]]:
    """A client of a server that answers so."""
    async with hostile(answer) as server:
        made = N8nClient(server.url, allowed=LOOPBACK, timeout=timeout, **options)
        async with made as client:
            yield client, server


def answers(
    status: int, body: bytes = b"{}", kind: bytes | None = JSON, **headers: bytes
) -> Answer:
    """Always this answer."""

    async def answer(request: Request) -> None:
        named = tuple((n.replace("_", "-").encode(), v) for n, v in headers.items())
        request.respond(status, body, kind, named)

    return answer


async def reset(request: Request) -> None:
    """A RST after the whole request."""
    request.reset()
