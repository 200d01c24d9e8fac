"""LISTEN: a connection of its own that hears one channel. Polling is the net under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import URL

from ..core.errors import LedgerUnavailable

CHECK_SECONDS = 10.0
"""A quiet connection is asked this often whether it is still alive, and has as long to answer."""


async def listen(url: URL, channel: str, name: str, heard: Callable[[str | None], None]) -> None:
    """Call ``heard`` with the payload of every notification on ``channel``; runs for ever.

    At the start it is called with None: what was said before may have been missed. ``name`` is the
    connection's application name.

    Raises:
        LedgerUnavailable: the connection was lost.
    """
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        async with await AsyncConnection.connect(
            address, autocommit=True, connect_timeout=5, application_name=name
        ) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            heard(None)
            while True:
                async for notify in connection.notifies(timeout=CHECK_SECONDS):
                    heard(notify.payload)
                async with asyncio.timeout(CHECK_SECONDS):
                    await connection.execute("SELECT 1")
    except (psycopg.Error, TimeoutError) as error:
        raise LedgerUnavailable("The listening connection to PostgreSQL was lost.") from error
