"""LISTEN: the receivers' commits wake this launcher. Polling is the net under it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import URL

from ..core.errors import LedgerUnavailable
from ..ledger.inbox import CHANNEL
from ..ledger.status import LAUNCHER_NAME

CHECK_SECONDS = 10.0
"""A quiet connection is asked this often whether it is still alive."""


async def listen(url: URL, owner: str, wake: Callable[[], None]) -> None:
    """Call ``wake`` for every notification, and once at the start; runs for ever.

    The connection's application name tells operators that this launcher is alive.

    Raises:
        LedgerUnavailable: the connection was lost.
    """
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        async with await AsyncConnection.connect(
            address, autocommit=True, connect_timeout=5, application_name=LAUNCHER_NAME + owner
        ) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            wake()
            while True:
                async for _ in connection.notifies(timeout=CHECK_SECONDS):
                    wake()
                await connection.execute("SELECT 1")
    except psycopg.Error as error:
        raise LedgerUnavailable("The listening connection to PostgreSQL was lost.") from error
