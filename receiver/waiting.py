"""Requests that wait for their event's end: woken by NOTIFY, with polling as the net under it.

However many wait, one connection listens and one query looks; a waiter holds none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ..core.errors import LedgerUnavailable
from ..ledger.answers import Answer, ended
from ..ledger.database import Database
from ..ledger.endings import CHANNEL
from ..ledger.listening import listen
from .patience import QUERY_SECONDS, in_time

logger = logging.getLogger("prefect_n8n.receiver")

POLL_SECONDS = 1.0
"""How often all waiters' events are looked at without a notification."""

RETRY_SECONDS = 1.0
"""Pause before a lost listening connection is made again."""

MAX_LOOK = 100
"""Events in one query: each may bring its flows' results along."""

NAME = "prefect-n8n receiver"
"""The application_name of the listening connection."""


@dataclass(frozen=True, slots=True)
class Waited:
    """How a wait went: the answer of an ended event; ``whole``: it was not cut short by us."""

    answer: Answer | None
    whole: bool


@dataclass(slots=True)
class _Awaited:
    tenant: UUID
    futures: set[asyncio.Future[Answer | None]] = field(
        default_factory=set[asyncio.Future[Answer | None]]
    )


class Waiters:
    """All waiting requests of this process, at most ``most``."""

    def __init__(self, database: Database, *, most: int) -> None:
        self._database = database
        self._most = most
        self._count = 0
        self._awaited: dict[UUID, _Awaited] = {}
        self._called: set[UUID] = set()
        self._bell = asyncio.Event()
        self._look_at = 0.0
        self._stopped = False
        self._hears = True
        self._sees = True
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def count(self) -> int:
        """How many requests wait now."""
        return self._count

    def start(self) -> None:
        """Begin to listen and to look; needs the running event loop."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    def stop(self) -> None:
        """Let all waiters go without an answer, and take no more."""
        self._stopped = True
        for awaited in self._awaited.values():
            _give(awaited, None)

    async def close(self) -> None:
        """Stop, and close the listening connection."""
        self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, tenant: UUID, event: UUID, seconds: float, receive: Receive) -> Waited:
        """Wait until the event (row id) has ended, at most so many seconds.

        ``receive`` is the request's, its body read: it then tells when the client goes away.

        Raises:
            ClientDisconnect: the client went away.
        """
        if self._stopped or self._count >= self._most:
            return Waited(None, whole=False)
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._count += 1
        self._awaited.setdefault(event, _Awaited(tenant)).futures.add(future)
        # It may have ended before it was waited for.
        self._call(event)
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({future, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                answer = future.result()
                return Waited(answer, whole=answer is not None)
            if gone.done():
                raise ClientDisconnect
            return Waited(None, whole=True)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            self._forget(event, future)

    def _forget(self, event: UUID, future: asyncio.Future[Answer | None]) -> None:
        self._count -= 1
        awaited = self._awaited[event]
        awaited.futures.discard(future)
        if not awaited.futures:
            del self._awaited[event]

    def _call(self, event: UUID) -> None:
        self._called.add(event)
        self._bell.set()

    def _heard(self, payload: str | None) -> None:
        """Take a notification; None: some may have been missed."""
        if payload is None:
            self._hears = True
            self._look_at = 0.0
            self._bell.set()
            return
        try:
            event = UUID(payload)
        except ValueError:
            return
        if event in self._awaited:
            self._call(event)

    async def _listen(self) -> None:
        while True:
            try:
                await listen(self._database.url, CHANNEL, NAME, self._heard)
            except LedgerUnavailable as error:
                if self._hears:
                    logger.warning("ends of events are looked for every second: %s", error)
                self._hears = False
            except Exception:
                logger.exception("ends of events cannot be heard")
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        while True:
            await self._next_bell()
            due = time.monotonic() >= self._look_at
            called, self._called = self._called, set()
            events = list(self._awaited) if due else called & self._awaited.keys()
            if due:
                self._look_at = time.monotonic() + POLL_SECONDS
            try:
                await self._look(events)
                self._sees = True
            except LedgerUnavailable as error:
                # The next poll looks for every waiter again.
                if self._sees:
                    logger.warning("results cannot be read: %s", error)
                self._sees = False
            except Exception:
                logger.exception("results cannot be read")

    async def _next_bell(self) -> None:
        """Wait for a call; while there are waiters no longer than until the next poll."""
        rest = self._look_at - time.monotonic() if self._awaited else None
        try:
            async with asyncio.timeout(None if rest is None else max(rest, 0.0)):
                await self._bell.wait()
        except TimeoutError:
            pass
        self._bell.clear()

    async def _look(self, events: Iterable[UUID]) -> None:
        by_tenant: dict[UUID, list[UUID]] = {}
        for event in events:
            by_tenant.setdefault(self._awaited[event].tenant, []).append(event)
        for tenant, ids in by_tenant.items():
            for at in range(0, len(ids), MAX_LOOK):
                await self._answer(tenant, ids[at : at + MAX_LOOK])

    async def _answer(self, tenant: UUID, events: Sequence[UUID]) -> None:
        async with in_time(QUERY_SECONDS), self._database.transaction(tenant) as connection:
            answers = await ended(connection, tenant, events)
        for event, answer in answers.items():
            if event in self._awaited:
                _give(self._awaited[event], answer)


def _give(awaited: _Awaited, answer: Answer | None) -> None:
    for future in awaited.futures:
        if not future.done():
            future.set_result(answer)


async def _gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
