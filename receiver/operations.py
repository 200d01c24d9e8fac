"""Routes for operators and load balancers: status, one event, liveness, readiness."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..core.errors import LedgerUnavailable, RequestError
from ..core.redaction import redact, redact_url
from ..ledger.database import Database
from ..ledger.status import event_with_executions, overview
from .admission import Admission
from .authentication import require
from .lookup import Lookup
from .patience import QUERY_SECONDS, in_time
from .problems import problem

STUCK_SECONDS = 5.0
"""A commit that takes longer means that the receiver makes no progress."""


class Operations:
    """The operators' routes."""

    def __init__(self, database: Database, lookup: Lookup, admission: Admission) -> None:
        self._database = database
        self._lookup = lookup
        self._admission = admission

    async def status(self, request: Request) -> Response:
        """Counts by state, oldest pending age, launchers and leases, last error."""
        token = await require(request, self._database, "read")
        async with (
            in_time(QUERY_SECONDS),
            self._database.transaction(token.tenant_id) as connection,
        ):
            return _json(await overview(connection, token.tenant_id))

    async def event(self, request: Request) -> Response:
        """One event with its executions, its body and their results redacted."""
        token = await require(request, self._database, "read")
        try:
            id = UUID(request.path_params["id"])
        except ValueError:
            raise _NO_EVENT from None
        async with (
            in_time(QUERY_SECONDS),
            self._database.transaction(token.tenant_id) as connection,
        ):
            found = await event_with_executions(connection, token.tenant_id, id)
        if found is None:
            raise _NO_EVENT
        return _json(_shown(found))

    async def healthz(self, _: Request) -> Response:
        """The process is alive."""
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """The receiver can accept: the ledger answers, no request is stuck in the queue, and the
        endpoints' secrets were loaded."""
        waited = self._admission.oldest_wait
        if waited > STUCK_SECONDS:
            raise LedgerUnavailable(f"the oldest request has waited {waited:.0f} s")
        async with in_time(QUERY_SECONDS), self._database.transaction(None) as connection:
            await overview(connection, UUID(int=0))
        await self._lookup.check_ready()
        return _json({"status": "ready"})


_NO_EVENT = RequestError("No such event.", code="not-found", status=404)


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    """Mask what an operator need not see: the ledger keeps it."""
    callback = event["callback_url"]
    return event | {
        "payload": redact(event["payload"]),
        "callback_url": None if callback is None else redact_url(callback),
        "executions": [x | {"result": redact(x["result"])} for x in event["executions"]],
    }


async def not_found(_: Request, __: Exception) -> Response:
    """No such path."""
    return problem(404, "not-found", "No such path.")


async def method_not_allowed(_: Request, error: Exception) -> Response:
    """The path is known with other methods."""
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    return problem(405, "method-not-allowed", "This path takes another method.", headers)


def _json(value: Any) -> Response:
    return Response(
        json.dumps(value, default=str, ensure_ascii=False),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
