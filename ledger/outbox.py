"""The outbox: a delivery is recorded in a transaction, and goes out only once that commits."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.errors import ConfigurationError, RequestError
from ..core.strict_json import parse_object
from .inbox import Recorded

MAX_BODY = 16_777_216
"""Bytes of a body: n8n takes no more."""

MAX_DELAY = 31_536_000.0

_EVENT_ID = re.compile(r"[!-~]{1,256}")

# record_delivery: one function of the database, so that a caller's own transaction can call it.
_RECORD = """
    SELECT row_id, row_state, duplicate, same_body FROM prefect_n8n.record_delivery(
        CAST(:tenant AS uuid), CAST(:endpoint AS text), CAST(:event_id AS text),
        CAST(:type AS text), CAST(:body AS bytea), CAST(:trace AS text),
        CAST(:delay AS double precision), CAST(:url AS text), CAST(:parent AS uuid),
        CAST(:actor AS text))
"""
RECORD = text(_RECORD)
"""For SQLAlchemy."""

RECORD_PSYCOPG = re.sub(r":(\w+)", r"%(\1)s", _RECORD).encode()
"""For psycopg."""


def arguments(
    tenant: UUID,
    *,
    endpoint: str,
    body: bytes,
    event_id: str,
    type: str = "",
    trace: str | None = None,
    delay: float = 0.0,
    url: str | None = None,
    parent: UUID | None = None,
    actor: str,
) -> dict[str, Any]:
    """Check a delivery and return the parameters of ``record_delivery``.

    Raises:
        BodyInvalid: the body is no strict JSON object.
        RequestError: 413, the body is larger than n8n takes; 422, an id, type or delay that
            cannot be.
    """
    if len(body) > MAX_BODY:
        raise RequestError(
            f"n8n takes at most {MAX_BODY} bytes; this body has {len(body)}.",
            code="body-too-large",
            status=413,
        )
    parse_object(body)
    if not _EVENT_ID.fullmatch(event_id):
        raise _unprocessable("The event id must be 1 to 256 printable ASCII characters, no spaces.")
    if len(type) > 256 or not type.isprintable():
        raise _unprocessable("The type must be a printable text of at most 256.")
    if not 0 <= delay <= MAX_DELAY:
        raise _unprocessable("The delay must be 0 seconds to a year.")
    return {
        "tenant": tenant,
        "endpoint": endpoint,
        "event_id": event_id,
        "type": type,
        "body": body,
        "trace": trace,
        "delay": delay,
        "url": url,
        "parent": parent,
        "actor": actor,
    }


def recorded(row: Any, endpoint: str) -> Recorded:
    """Turn the function's row into what was recorded.

    Raises:
        ConfigurationError: no row: there is no such outbound endpoint.
    """
    if row is None:
        raise ConfigurationError(f"There is no outbound endpoint {endpoint!r}.")
    return Recorded(*row)


async def record(
    connection: AsyncConnection,
    tenant: UUID,
    *,
    endpoint: str,
    body: bytes,
    event_id: str,
    type: str = "",
    trace: str | None = None,
    delay: float = 0.0,
    url: str | None = None,
    parent: UUID | None = None,
    actor: str,
) -> Recorded:
    """Record a delivery to ``endpoint``, due after ``delay`` seconds, in the caller's transaction.

    ``url`` stands in for the endpoint's own; ``parent`` is the event that it stands in for.

    Raises:
        ConfigurationError: there is no such outbound endpoint.
        RequestError: as ``arguments``.
    """
    values = arguments(
        tenant,
        endpoint=endpoint,
        body=body,
        event_id=event_id,
        type=type,
        trace=trace,
        delay=delay,
        url=url,
        parent=parent,
        actor=actor,
    )
    return recorded((await connection.execute(RECORD, values)).one_or_none(), endpoint)


def _unprocessable(message: str) -> RequestError:
    return RequestError(message, code="delivery-invalid", status=422)
