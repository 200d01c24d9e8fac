"""Where the receiver's keys come from: the credentials blocks in Prefect."""

from __future__ import annotations

from ..blocks.loading import load_credentials


async def block_secrets(block: str) -> tuple[bytes, ...]:
    """Return the live keys of credentials block ``block``, newest first.

    Raises:
        PrefectUnavailable: Prefect is away.
        SecretsUnusable: the block is missing or has no good secret.
    """
    return (await load_credentials(block)).keys()
