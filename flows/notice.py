"""What a fallback's notification says: what failed, where, and what to do. Never a payload."""

from __future__ import annotations

from prefect.utilities.urls import url_for

from ..ledger.fallbacks import Fallback, trail
from .event import WebhookEvent
from .receipt import event_link

MAX_CAUSE = 300


def notice_of(event: WebhookEvent, fallback: Fallback) -> tuple[str, str]:
    """Return subject and body. The subject is the same each time for the same failure."""
    what = "delivery" if fallback.execution_id is None else "event"
    subject = f"n8n {what} failed on {event.endpoint}: {event.row_id}"
    tried = [step for step in fallback.steps if step.number <= fallback.step]
    facts = {
        "What": f"{what} {event.row_id}, redrive {fallback.redrive}",
        "Type": event.type or "(none)",
        "Endpoint": event.endpoint,
        "Cause": fallback.cause[:MAX_CAUSE],
        "Tried": trail(tried)[:MAX_CAUSE] if tried else None,
        "Flow run": url_for("flow-run", obj_id=fallback.failed_run_id)
        if fallback.failed_run_id
        else None,
        "Event": event_link(event),
        "Redrive": f"prefect-n8n events redrive {event.row_id}",
    }
    return subject, "\n".join(f"{name}: {value}" for name, value in facts.items() if value)
