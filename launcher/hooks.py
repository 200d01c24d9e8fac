"""``on_cancellation`` hooks: Prefect's engine leaves them to whoever runs the flow."""

from __future__ import annotations

import asyncio
import inspect
import logging

from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from ..flows.webhook import WebhookFlow

logger = logging.getLogger("prefect_n8n.launcher")


async def run_cancellation_hooks(flow: WebhookFlow, flow_run: FlowRun) -> None:
    """Call the flow's hooks in their order; a failing one is logged, the next one called."""
    for hook in flow.on_cancellation_hooks:
        try:
            if inspect.iscoroutinefunction(hook):
                await hook(flow, flow_run, Cancelling())
            else:
                await asyncio.to_thread(hook, flow, flow_run, Cancelling())
        except Exception:
            logger.exception("flow run %s: an on_cancellation hook failed", flow_run.id)
