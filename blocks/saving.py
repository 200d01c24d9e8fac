"""Make a block where it is missing, also where several processes do so at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient

from ..core.errors import ConfigurationError

ATTEMPTS = 5

B = TypeVar("B", bound=Block)


async def ensure_block(client: PrefectClient, kind: type[B], name: str, make: Callable[[], B]) -> B:
    """Return the block ``name`` of that type, saved as ``make`` gives it where there is none.

    A refused save is looked into and repeated: on a fresh Prefect server the first block also makes
    the server's encryption key, and of two first blocks one is refused as if it were known.

    Raises:
        ConfigurationError: it is refused again and again.
    """
    refused: ValueError | None = None
    for _ in range(ATTEMPTS):
        try:
            return await kind.aload(name, client=client)
        except ValueError:
            made = make()
        try:
            await made.asave(name, client=client)
        except ValueError as error:
            refused = error
        else:
            return made
    raise ConfigurationError(
        f"Prefect refuses to save block {kind.get_block_type_slug()}/{name}: {refused}"
    ) from refused
