"""Whether a delivery whose outcome is unknown has reached n8n: asked of n8n's executions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from .answers import Execution
from .client import N8nClient

DELIVERY_HEADERS = ("x-prefect-n8n-delivery", "webhook-id")
"""Headers of a delivery that carry its id; one of them is enough."""

Verdict = Literal["arrived", "not_arrived", "not_known"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """The verdict, its reason as a sentence, and the execution where it arrived."""

    verdict: Verdict
    reason: str
    execution: Execution | None = None


async def find_arrival(
    client: N8nClient,
    *,
    target: str,
    delivery_id: str,
    since: datetime,
    workflow_id: str | None = None,
) -> Arrival:
    """Say whether the delivery arrived that was posted to the absolute URL ``target``."""
    return Arrival("not_known", "n8n has not been asked.")
