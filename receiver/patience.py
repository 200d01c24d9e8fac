"""How long a request waits for a database that neither answers nor goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..core.errors import LedgerUnavailable

QUERY_SECONDS = 5.0
"""For one transaction. The time limits inside it are the server's own, which may not be there."""

ANSWER_SECONDS = 10.0
"""For a place in a group and its commit."""


@asynccontextmanager
async def in_time(seconds: float) -> AsyncGenerator[None]:
    """Give the block so many seconds.

    Raises:
        LedgerUnavailable: it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise LedgerUnavailable(f"PostgreSQL did not answer in {seconds:.0f} s.") from error
