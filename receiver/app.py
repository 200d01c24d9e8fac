"""The Starlette application of the receiver."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ..core.settings import Settings
from ..ledger.database import Database
from .admission import Admission
from .edge import Edge
from .intake import Intake
from .lookup import Lookup, SecretSource
from .operations import Operations, method_not_allowed, not_found
from .outgoing import Outgoing
from .protocol import STOPPING
from .waiting import Waiters

PREFIX = "/api/webhooks/n8n"


def create_app(database: Database, source: SecretSource, settings: Settings) -> Starlette:
    """Build the receiver; it closes ``database`` when it ends. Its ``state.waiters`` are who waits.

    Raises:
        ConfigurationError: the allow-list of targets cannot be read.
    """
    admission = Admission(database, max_waiting=settings.max_waiting)
    waiters = Waiters(database, most=settings.max_waiters)
    lookup = Lookup(database, source, tenant=settings.tenant_id)
    intake = Intake(
        lookup,
        admission,
        waiters,
        events_url=f"{settings.receiver_url}{PREFIX}/events",
        allowed=settings.allow_list(),
    )
    operations = Operations(database, lookup, admission)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, Any]]:
        waiters.start()
        # The server tells its connections to end before it ends the lifespan.
        yield {STOPPING: waiters.stop}
        await waiters.close()
        await admission.close()
        await database.close()

    app = Starlette(
        routes=[
            Route("/healthz", operations.healthz),
            Route("/readyz", operations.readyz),
            Route(PREFIX, operations.status, methods=["GET"]),
            Route(PREFIX + "/events/{id}", operations.event, methods=["GET"]),
            Route(PREFIX, Outgoing(database).__call__, methods=["PATCH"]),
            Route(PREFIX, intake.__call__, methods=["POST"]),
            Route(PREFIX + "/{endpoint}", intake.__call__, methods=["POST"]),
        ],
        middleware=[Middleware(Edge)],
        exception_handlers={404: not_found, 405: method_not_allowed},
        lifespan=lifespan,
    )
    app.state.waiters = waiters
    # A redirect to the path without its last slash would repeat the Host that a stranger sent.
    app.router.redirect_slashes = False
    return app
