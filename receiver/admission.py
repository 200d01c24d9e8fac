"""Group commit: requests that arrive during one commit share the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError

from ..core.errors import BodyInvalid, LedgerUnavailable, RequestError
from ..ledger.database import Database
from ..ledger.inbox import Arrival, Recorded, record_arrivals
from .patience import ANSWER_SECONDS, QUERY_SECONDS, in_time

logger = logging.getLogger("prefect_n8n.receiver")

MAX_BATCH = 64
MAX_BATCH_BYTES = 4_194_304


@dataclass(slots=True, eq=False)
class _Waiting:
    arrival: Arrival
    answer: asyncio.Future[Recorded]
    since: float = field(default_factory=time.monotonic)


class Admission:
    """Commits arrivals in groups, one group at a time per tenant."""

    def __init__(self, database: Database, *, max_waiting: int) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._queues: dict[UUID, deque[_Waiting]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}
        self._waiting = 0

    async def accept(self, tenant: UUID, arrival: Arrival) -> Recorded:
        """Return once ``arrival`` is committed (or was, earlier, under the same event id).

        Raises:
            LedgerUnavailable: not known to be committed: too many wait, or PostgreSQL is away.
            BodyInvalid: PostgreSQL cannot hold this body.
        """
        if self._waiting >= self._max_waiting:
            raise LedgerUnavailable("Too many requests wait for a commit.")
        item = _Waiting(arrival, asyncio.get_running_loop().create_future())
        queue = self._queues.setdefault(tenant, deque())
        queue.append(item)
        self._waiting += 1
        if tenant not in self._writers:
            self._writers[tenant] = asyncio.create_task(self._write(tenant))
        try:
            async with in_time(ANSWER_SECONDS):
                return await item.answer
        except BaseException:
            with contextlib.suppress(ValueError):
                queue.remove(item)
            raise
        finally:
            self._waiting -= 1

    @property
    def oldest_wait(self) -> float:
        """Seconds that the oldest request has been waiting for its commit."""
        heads = [queue[0].since for queue in self._queues.values() if queue]
        return time.monotonic() - min(heads) if heads else 0.0

    async def close(self) -> None:
        """Commit what is waiting."""
        while self._writers:
            await asyncio.gather(*self._writers.values())

    async def _write(self, tenant: UUID) -> None:
        queue = self._queues[tenant]
        try:
            while queue:
                batch = _next_batch(queue)
                await self._commit(tenant, batch)
        finally:
            del self._writers[tenant]
            del self._queues[tenant]

    async def _commit(self, tenant: UUID, batch: list[_Waiting]) -> None:
        try:
            async with in_time(QUERY_SECONDS), self._database.transaction(tenant) as connection:
                outcome = await record_arrivals(connection, tenant, [w.arrival for w in batch])
        except (DataError, IntegrityError) as error:
            await self._isolate(tenant, batch, error)
        except Exception as error:
            if not isinstance(error, LedgerUnavailable):
                logger.exception("the inbox refused a group of %d", len(batch))
            for waiting in batch:
                _fail(waiting, LedgerUnavailable("The event was not committed."), error)
        else:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_result(outcome[waiting.arrival.id])

    async def _isolate(self, tenant: UUID, batch: list[_Waiting], error: Exception) -> None:
        """One bad row fails its whole group: commit each alone to find it."""
        if len(batch) > 1:
            for waiting in batch:
                await self._commit(tenant, [waiting])
            return
        logger.warning("the inbox refused event %s: %s", batch[0].arrival.id, type(error).__name__)
        refusal: RequestError | LedgerUnavailable = (
            BodyInvalid("The body has a value that cannot be stored.")
            if isinstance(error, DataError)
            else LedgerUnavailable("The endpoint has just changed.")
        )
        _fail(batch[0], refusal, error)


def _next_batch(queue: deque[_Waiting]) -> list[_Waiting]:
    batch = [queue.popleft()]
    size = len(batch[0].arrival.body)
    while queue and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
        batch.append(queue.popleft())
        size += len(batch[-1].arrival.body)
    return batch


def _fail(waiting: _Waiting, refusal: Exception, cause: Exception) -> None:
    if not waiting.answer.done():
        refusal.__cause__ = cause
        waiting.answer.set_exception(refusal)
