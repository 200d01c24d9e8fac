"""Credentials blocks for flows: kept for a while, and in use while Prefect is away."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from ..blocks.credentials import N8nCredentials
from ..core.errors import ConfigurationError, PrefectUnavailable

logger = logging.getLogger("prefect_n8n.flows")

FRESH_SECONDS = 15.0
LOAD_SECONDS = 10.0

_known: dict[str, tuple[float, N8nCredentials]] = {}


async def load_credentials(block: str) -> N8nCredentials:
    """Return block ``n8n-credentials/<block>``, at most 15 seconds old unless Prefect is away.

    Raises:
        PrefectUnavailable: it was never loaded, and cannot be now.
        ConfigurationError: it has no webhook secret, or a bad one.
    """
    until, known = _known.get(block, (0.0, None))
    if known is not None and time.monotonic() < until:
        return known
    try:
        async with asyncio.timeout(LOAD_SECONDS), get_client() as client:
            found = await N8nCredentials.aload(block, client=client)
    except (
        ValueError,
        TimeoutError,
        httpx.HTTPError,
        PrefectException,
        OSError,
        RuntimeError,
    ) as e:
        if known is None:
            raise PrefectUnavailable(f"Block n8n-credentials/{block} cannot be loaded.") from e
        logger.warning("block n8n-credentials/%s: the last good one stays in use", block)
        return known
    if not found.keys():
        raise ConfigurationError(f"Block n8n-credentials/{block} has no webhook secret.")
    _known[block] = (time.monotonic() + FRESH_SECONDS, found)
    return found
