"""prefect-n8n: the bridge between n8n and Prefect that never loses, repeats or forges work.

Blocks are imported eagerly, because ``prefect block register -m prefect_n8n`` scans this module;
all else on first use, because Prefect imports this package on its own in every process.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.argv and sys.argv[0].rpartition("/")[2] == "prefect-n8n":
    # Our own command takes seconds to load, and Ctrl-C has nothing to tidy up until it has handlers
    # of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from .blocks import N8nCredentials, N8nWorkflow

if TYPE_CHECKING:
    from .core.specs import OutboundEndpoint
    from .flows.event import WebhookEvent
    from .flows.n8n_workflow import (
        aget_n8n_execution,
        atrigger_n8n_workflow,
        get_n8n_execution,
        run_n8n_workflow,
        trigger_n8n_workflow,
    )
    from .flows.send import Sent, asend, send
    from .flows.webhook import webhook

__version__ = "0.1.0"
__all__ = [
    "N8nCredentials",
    "N8nWorkflow",
    "OutboundEndpoint",
    "Sent",
    "WebhookEvent",
    "aget_n8n_execution",
    "asend",
    "atrigger_n8n_workflow",
    "get_n8n_execution",
    "run_n8n_workflow",
    "send",
    "trigger_n8n_workflow",
    "webhook",
]

_LAZY = {
    "OutboundEndpoint": ".core.specs",
    "Sent": ".flows.send",
    "WebhookEvent": ".flows.event",
    "aget_n8n_execution": ".flows.n8n_workflow",
    "asend": ".flows.send",
    "atrigger_n8n_workflow": ".flows.n8n_workflow",
    "get_n8n_execution": ".flows.n8n_workflow",
    "run_n8n_workflow": ".flows.n8n_workflow",
    "send": ".flows.send",
    "trigger_n8n_workflow": ".flows.n8n_workflow",
    "webhook": ".flows.webhook",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)
