"""The Starlette application of the receiver."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

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

PREFIX = "/api/webhooks/n8n"


def create_app(database: Database, source: SecretSource, settings: Settings) -> Starlette:
    """Build the receiver; it closes ``database`` when it ends."""
    admission = Admission(database, max_waiting=settings.max_waiting)
    intake = Intake(Lookup(database, source, tenant=settings.tenant_id), admission)
    operations = Operations(database, admission)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
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
    # A redirect to the path without its last slash would repeat the Host that a stranger sent.
    app.router.redirect_slashes = False
    return app
