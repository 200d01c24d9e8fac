"""A receiver on a real socket in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from prefect_n8n.receiver.protocol import uvicorn_config


@dataclass
class Served:
    """A running server."""

    url: str
    server: uvicorn.Server
    loop: asyncio.Task[None]

    async def stop(self) -> None:
        """Stop it as SIGTERM does; requests at hand are answered first."""
        if not self.server.should_exit:
            self.server.should_exit = True
            await self.loop
            await self.server.shutdown()


@asynccontextmanager
async def served(app: Starlette, *, receive_deadline: float = 10.0) -> AsyncIterator[Served]:
    """Serve the receiver's ``app`` as the command does."""
    config = uvicorn_config(app, host="127.0.0.1", port=0, receive_deadline=receive_deadline)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not serve(): it takes the signals that are pytest's.
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    running = Served(f"http://127.0.0.1:{port}", server, asyncio.create_task(server.main_loop()))
    try:
        yield running
    finally:
        await running.stop()
