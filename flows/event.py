"""The event as a user's flow gets it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A verified event from n8n.

    Attributes:
        id: The event id that the sender gave; unique within its endpoint, for ever.
        type: The event type, such as ``order.created``; empty where the body has none.
        body: The parsed JSON body.
        headers: The request's headers, names in lower case, secrets masked.
        endpoint: The endpoint's slug.
        received_at: When the receiver committed it (UTC).
        trace: The W3C ``traceparent`` that came with it, if any.
        row_id: The id of its row; what Prefect calls the parameter ``event_id``.
    """

    id: str
    type: str
    body: dict[str, Any]
    headers: dict[str, str]
    endpoint: str
    received_at: datetime
    trace: str | None
    row_id: UUID
