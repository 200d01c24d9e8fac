"""``send``, ``asend``: record a delivery to n8n, in the caller's own transaction if it has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from ..blocks.identity import identify
from ..core.errors import BodyInvalid, ConfigurationError, EventConflict, LedgerUnavailable
from ..core.settings import settings
from ..ledger.database import driver_url
from ..ledger.outbox import RECORD, RECORD_PSYCOPG, arguments, recorded
from .inbox import database, tenant

ACTOR = "send"

AsyncCaller = AsyncConnection | AsyncSession | psycopg.AsyncConnection[Any]
SyncCaller = Connection | Session | psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A delivery that is recorded: its row's id, its state, and whether it was known already."""

    id: UUID
    state: str
    duplicate: bool


async def asend(
    endpoint: str,
    body: Mapping[str, Any],
    *,
    type: str = "",
    event_id: str | None = None,
    delay: float = 0.0,
    connection: AsyncCaller | None = None,
) -> Sent:
    """Record a delivery to an outbound endpoint; launchers make it, retry it for days, fall back.

    Args:
        endpoint: The outbound endpoint's slug.
        body: A JSON object of at most 16 MiB.
        type: The event type, such as ``order.paid``.
        event_id: What makes it one delivery however often it is sent. By default a new one; in a
            flow run one that a retry of the run, or of the task, has again.
        delay: Seconds until the first attempt.
        connection: The caller's own SQLAlchemy or psycopg connection or session, inside a
            transaction: the delivery is made if, and only if, that commits. Its login must be a
            member of the role ``prefect_n8n_app``.

    Raises:
        ConfigurationError: there is no such outbound endpoint.
        RequestError: the body, id, type or delay cannot be.
        EventConflict: the event id is known with another body.
        LedgerUnavailable: nothing was recorded: PostgreSQL is away.
    """
    values = _values(endpoint, body, type, event_id, delay)
    if connection is None:
        async with database().transaction(values["tenant"]) as own:
            return _sent((await own.execute(RECORD, values)).one_or_none(), endpoint)
    if isinstance(connection, psycopg.AsyncConnection):
        cursor = connection.cursor(row_factory=tuple_row)
        return _sent(await (await cursor.execute(RECORD_PSYCOPG, values)).fetchone(), endpoint)
    return _sent((await connection.execute(RECORD, values)).one_or_none(), endpoint)


def send(
    endpoint: str,
    body: Mapping[str, Any],
    *,
    type: str = "",
    event_id: str | None = None,
    delay: float = 0.0,
    connection: SyncCaller | None = None,
) -> Sent:
    """Record a delivery to an outbound endpoint, for code that is not async; see ``asend``.

    Example:
        ```python
        with engine.begin() as connection:
            connection.execute(insert(orders).values(id=7))
            send("crm", {"order": 7}, type="order.paid", connection=connection)
        ```

    Raises:
        PrefectN8nError: as ``asend``.
    """
    values = _values(endpoint, body, type, event_id, delay)
    if connection is None:
        return _send_alone(values, endpoint)
    if isinstance(connection, psycopg.Connection):
        cursor = connection.cursor(row_factory=tuple_row)
        return _sent(cursor.execute(RECORD_PSYCOPG, values).fetchone(), endpoint)
    return _sent(connection.execute(RECORD, values).one_or_none(), endpoint)


def _send_alone(values: dict[str, Any], endpoint: str) -> Sent:
    url = settings().database_url
    if url is None:
        raise ConfigurationError("Set DATABASE_URL, or give a connection: that is the outbox.")
    address = driver_url(url.get_secret_value()).set(drivername="postgresql")
    try:
        with psycopg.connect(
            address.render_as_string(hide_password=False), connect_timeout=5
        ) as own:
            cursor = own.cursor(row_factory=tuple_row)
            return _sent(cursor.execute(RECORD_PSYCOPG, values).fetchone(), endpoint)
    except psycopg.OperationalError as error:
        raise LedgerUnavailable("PostgreSQL is not reachable or did not answer.") from error


def _values(
    endpoint: str, body: Mapping[str, Any], type: str, event_id: str | None, delay: float
) -> dict[str, Any]:
    try:
        raw = json.dumps(dict(body), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise BodyInvalid(f"The body is not JSON: {error}") from error
    return arguments(
        tenant.get() or settings().tenant_id,
        endpoint=endpoint,
        body=raw,
        event_id=event_id or identify(f"send:{endpoint}", raw).base,
        type=type,
        delay=delay,
        actor=ACTOR,
    )


def _sent(row: Any, endpoint: str) -> Sent:
    known = recorded(row, endpoint)
    if not known.same_body:
        raise EventConflict("This event id is known with another body.")
    return Sent(known.id, known.state, known.duplicate)
