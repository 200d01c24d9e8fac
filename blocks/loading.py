"""Loads credentials blocks from Prefect, bounded in time, with one exception for every failure."""

from __future__ import annotations

import asyncio

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from ..core.errors import ConfigurationError, PrefectUnavailable, SecretsUnusable
from .credentials import N8nCredentials

LOAD_SECONDS = 10.0


async def load_credentials(block: str) -> N8nCredentials:
    """Return block ``n8n-credentials/<block>``, which has at least one good webhook secret.

    Raises:
        PrefectUnavailable: Prefect is away.
        SecretsUnusable: the block is missing or has no good secret.
    """
    try:
        async with asyncio.timeout(LOAD_SECONDS), get_client() as client:
            credentials = await N8nCredentials.aload(block, client=client)
        keys = credentials.keys()
    except ValueError as error:
        raise SecretsUnusable(f"Block n8n-credentials/{block} cannot be loaded.") from error
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
        raise PrefectUnavailable(f"Prefect did not answer: {type(error).__name__}") from error
    except ConfigurationError as error:
        raise SecretsUnusable(f"Block n8n-credentials/{block}: {error}") from error
    if not keys:
        raise SecretsUnusable(f"Block n8n-credentials/{block} has no webhook secret.")
    return credentials
