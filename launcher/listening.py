"""LISTEN: the receivers' commits wake this launcher. Polling is the net under it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import URL

from ..ledger.inbox import CHANNEL
from ..ledger.listening import listen as listen_to
from ..ledger.status import LAUNCHER_NAME


async def listen(url: URL, owner: str, wake: Callable[[], None]) -> None:
    """Call ``wake`` for every notification, and once at the start; runs for ever.

    The connection's application name tells operators that this launcher is alive.

    Raises:
        LedgerUnavailable: the connection was lost.
    """
    await listen_to(url, CHANNEL, LAUNCHER_NAME + owner, lambda _: wake())
