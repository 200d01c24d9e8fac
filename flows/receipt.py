"""Shows in the Prefect UI what a run received: a redacted copy, and a link to the event."""

from __future__ import annotations

import json
import logging
import re

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact

from ..core.redaction import redact
from ..core.settings import settings
from .event import WebhookEvent

logger = logging.getLogger("prefect_n8n.flows")

MAX_SHOWN = 50_000
"""Characters of a body that the artifact shows; the ledger keeps all of it."""


async def show_receipt(event: WebhookEvent) -> None:
    """Create the run's artifacts. A failure is logged: the run matters more than its picture."""
    key = f"n8n-{event.endpoint.replace('_', '-')}"
    try:
        await acreate_markdown_artifact(
            markdown=markdown_of(event), key=f"{key}-event", description="What the run received"
        )
        await acreate_link_artifact(
            link=event_link(event),
            link_text=f"Event {event.row_id}",
            key=f"{key}-link",
            description="The event in the ledger (asks for an API token)",
        )
    except Exception:
        logger.warning("the artifacts of event %s were not created", event.row_id, exc_info=True)


def event_link(event: WebhookEvent) -> str:
    """Return the address of the event at the receiver."""
    return f"{settings().receiver_url}/api/webhooks/n8n/events/{event.row_id}"


def markdown_of(event: WebhookEvent) -> str:
    """Describe the event, its body redacted, as markdown that the body cannot break out of."""
    body = json.dumps(redact(event.body), indent=2, ensure_ascii=False)
    if len(body) > MAX_SHOWN:
        body = f"{body[:MAX_SHOWN]}\n… {len(body) - MAX_SHOWN} characters more"
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    facts = {
        "Event id": event.id,
        "Type": event.type or "(none)",
        "Endpoint": event.endpoint,
        "Received": event.received_at.isoformat(timespec="milliseconds"),
        "Trace": event.trace or "(none)",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"| | |\n|---|---|\n{table}\n\n{fence}json\n{body}\n{fence}\n"


def _cell(value: str) -> str:
    """A sender's text inside a table cell: code, with nothing that ends the code or the cell."""
    return "`" + re.sub(r"[\r\n]", " ", value).replace("`", "'").replace("|", "¦") + "`"
