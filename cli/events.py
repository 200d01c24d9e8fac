"""``prefect-n8n events …``: what operators do with events. Each command is thin."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from cyclopts import App, Parameter

from ..core.settings import settings
from . import local
from .console import say, sentences

events = App(name="events", help="Look after events: put dead ones back.")

State = Literal["dead", "cancelled", "completed"]


@events.command
def redrive(
    *ids: Annotated[UUID, Parameter(help="Row ids of events; without any, all that fit.")],
    endpoint: Annotated[str | None, Parameter(help="The slug of their endpoint.")] = None,
    direction: Annotated[
        Literal["inbound", "outbound"] | None, Parameter(help="Events, or deliveries to n8n.")
    ] = None,
    type: Annotated[str | None, Parameter(help="A glob of event types, such as order.*")] = None,
    state: Annotated[
        list[State] | None,
        Parameter(
            help="dead (as usual), cancelled, or completed as no trigger matched.", negative=""
        ),
    ] = None,
    since: Annotated[datetime | None, Parameter(help="Came in then or later (UTC).")] = None,
    until: Annotated[datetime | None, Parameter(help="Came in before (UTC).")] = None,
    limit: Annotated[int, Parameter(help="At most so many, the oldest first.")] = 10_000,
    rate: Annotated[float, Parameter(help="How many come due each second.")] = 10.0,
    press: Annotated[
        UUID | None, Parameter(help="Id of this press: given again, nothing is done twice.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Only count them.", negative="")] = False,
    yes: Annotated[bool, Parameter(help="Do not ask.", negative="")] = False,
    json: Annotated[bool, Parameter(help="Answer in JSON.", negative="")] = False,
) -> None:
    """Put ended events back to pending: dead events run again, dead deliveries are sent again.

    Says how many fit, and asks. Without ids or anything that narrows it, all dead events fit.

    Example: prefect-n8n events redrive --endpoint orders --type 'order.*' --rate 5
    """
    from ..ledger.redrives import Selection
    from .redriving import Redriving, aware

    with sentences():
        local.adopt()
        selection = Selection(
            ids=ids,
            endpoint=endpoint,
            direction=direction,
            states=state or (),
            type=type,
            since=aware(since),
            until=aware(until),
            limit=limit,
        )
        work = Redriving(settings(), selection, rate=rate, press=press, json=json, say=say)
        asyncio.run(work.run(dry_run=dry_run, yes=yes))
