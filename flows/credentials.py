"""Credentials blocks for flows: kept for a while, and in use while Prefect is away."""

from __future__ import annotations

import logging
import time

from ..blocks.credentials import N8nCredentials
from ..blocks.loading import load_credentials
from ..core.errors import PrefectUnavailable

logger = logging.getLogger("prefect_n8n.flows")

FRESH_SECONDS = 15.0

_known: dict[str, tuple[float, N8nCredentials]] = {}


async def credentials_of(block: str) -> N8nCredentials:
    """Return block ``n8n-credentials/<block>``, at most 15 seconds old unless Prefect is away.

    Raises:
        PrefectUnavailable: it was never loaded, and cannot be now.
    """
    until, known = _known.get(block, (0.0, None))
    if known is not None and time.monotonic() < until:
        return known
    try:
        found = await load_credentials(block)
    except PrefectUnavailable as error:
        if known is None:
            raise
        logger.warning("%s The last good secrets stay in use.", error)
        return known
    _known[block] = (time.monotonic() + FRESH_SECONDS, found)
    return found
