"""Endpoints and secrets, kept in memory: accepting then needs neither look-up nor Prefect."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from ..core.errors import PrefectUnavailable, SecretsUnusable, Unavailable
from ..core.settings import DEFAULT_TENANT
from ..core.signing import Scheme, scheme_of
from ..ledger.database import Database
from ..ledger.registry import (
    Endpoint,
    credentials_blocks,
    endpoint_by_id,
    endpoint_by_slug,
    resolve_endpoint,
)
from .patience import QUERY_SECONDS, in_time

logger = logging.getLogger("prefect_n8n.receiver")

FRESH_SECONDS = 5.0
MAX_ENTRIES = 10_000
LOAD_SECONDS = 2.0
"""How long a question for readiness waits for secrets, and for another try to load them."""

# The shape of slugs and tokens. What it leaves out costs neither a query nor memory.
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}")

SecretSource = Callable[[str], Awaitable[tuple[bytes, ...]]]
"""Loads the live keys of a credentials block by its name; raises ``PrefectUnavailable``."""


@dataclass(frozen=True, slots=True)
class Door:
    """What is needed to verify and record a request for an endpoint."""

    endpoint: Endpoint
    scheme: Scheme
    secrets: tuple[bytes, ...]


@dataclass(slots=True)
class _Entry:
    door: Door
    since: float


class Lookup:
    """Finds the endpoint of a path. An unknown one gets a door that no signature opens, so that it
    looks and costs like a wrong signature."""

    def __init__(
        self, database: Database, source: SecretSource, *, tenant: UUID = DEFAULT_TENANT
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._secrets = SecretCache(source)
        self._entries: dict[str, _Entry] = {}
        self._was_ready = False
        self._closed_door = Door(
            Endpoint(tenant, UUID(int=0), "", "standard", {}, "", "id", "type", 1_048_576),
            scheme_of("standard"),
            (secrets.token_bytes(32),),
        )

    async def find(self, path: str) -> Door:
        """Return the door for the path's last part: a slug of our tenant, or any tenant's token.

        Raises:
            Unavailable: nothing is known yet and the database or Prefect is away.
        """
        if not _NAME.fullmatch(path):
            return self._closed_door
        entry = self._entries.get(path)
        if entry is not None and time.monotonic() - entry.since < FRESH_SECONDS:
            return entry.door
        try:
            door = await self._load(path)
        except Unavailable:
            if entry is None or entry.door is self._closed_door:
                raise
            logger.warning("endpoint %s: keeping what was known", entry.door.endpoint.slug)
            door = entry.door
        if path not in self._entries and len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[path] = _Entry(door, time.monotonic())
        return door

    async def check_ready(self) -> None:
        """Make sure that the signed events of our tenant's endpoints can be verified.

        Secrets that were loaded stay, so what was ready once is not asked again: a new endpoint, or
        a Prefect that goes away, takes nothing from the others.

        Raises:
            Unavailable: the secrets of an endpoint are not known yet.
        """
        if self._was_ready:
            return
        async with in_time(QUERY_SECONDS), self._database.transaction(self._tenant) as connection:
            blocks = await credentials_blocks(connection, self._tenant)
        await self._secrets.load(blocks)
        self._was_ready = bool(blocks)

    async def _load(self, path: str) -> Door:
        async with in_time(QUERY_SECONDS):
            endpoint = await self._endpoint(path)
        if endpoint is None:
            return self._closed_door
        keys = await self._secrets.get(endpoint.credentials_block)
        return Door(endpoint, scheme_of(endpoint.scheme, endpoint.scheme_options), keys)

    async def _endpoint(self, path: str) -> Endpoint | None:
        async with self._database.transaction(self._tenant) as connection:
            endpoint = await endpoint_by_slug(connection, self._tenant, path)
            owner = None if endpoint else await resolve_endpoint(connection, path)
        if owner is None:
            return endpoint
        async with self._database.transaction(owner[0]) as connection:
            return await endpoint_by_id(connection, *owner)


class SecretCache:
    """The keys of credentials blocks. The last good ones stay while Prefect is away."""

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self._known: dict[str, tuple[bytes, ...]] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, float] = {}
        self._errors: dict[str, PrefectUnavailable] = {}

    async def load(self, blocks: Sequence[str]) -> None:
        """Load what is not known yet. A block that Prefect says is missing or without secrets is
        no reason to wait, unless there is no other: its endpoint alone does not work.

        Raises:
            PrefectUnavailable: the secrets of a block are not known.
        """
        now = time.monotonic()
        unknown = [block for block in blocks if block not in self._known]
        due = [b for b in unknown if b not in self._since or now - self._since[b] >= LOAD_SECONDS]
        if due:
            await asyncio.wait([self._refresh(block) for block in due], timeout=LOAD_SECONDS)
        for block in unknown:
            unusable = isinstance(self._errors.get(block), SecretsUnusable)
            if block not in self._known and not (unusable and self._known):
                raise PrefectUnavailable(f"the secrets of block {block} are not known yet")

    async def get(self, block: str) -> tuple[bytes, ...]:
        """Return the block's live keys; an aged entry is refreshed behind the caller's back.

        Raises:
            PrefectUnavailable: they were never loaded and Prefect is away.
        """
        if block in self._known:
            if time.monotonic() - self._since[block] > FRESH_SECONDS:
                self._refresh(block)
            return self._known[block]
        await self._refresh(block)
        if block not in self._known:
            raise PrefectUnavailable("The webhook secrets could not be loaded from Prefect.")
        return self._known[block]

    def _refresh(self, block: str) -> asyncio.Task[None]:
        if block not in self._loads:
            self._loads[block] = asyncio.create_task(self._load(block))
        return self._loads[block]

    async def _load(self, block: str) -> None:
        try:
            self._known[block] = await self._source(block)
            self._errors.pop(block, None)
        except PrefectUnavailable as error:
            if str(error) != str(self._errors.get(block, "")):
                logger.warning("secrets of block %s: %s", block, error)
            self._errors[block] = error
        finally:
            self._since[block] = time.monotonic()
            del self._loads[block]
