"""The states of events and executions, each named once.

An event::

    pending ──▶ processing ──▶ completed
       ▲            │  │
       │            ▼  ├─────▶ dead ───────┐
       └──────── retryable     cancelled ──┴─(redrive)──▶ pending

An execution, one run of one trigger for one event::

    pending ──▶ launched ──▶ running ──▶ completed | failed | cancelled | dead

The database refuses any other word by a CHECK, and each transition is one UPDATE guarded by the
state it leaves.
"""

from __future__ import annotations

from enum import StrEnum


class EventState(StrEnum):
    """Where an event is on its way."""

    PENDING = "pending"
    """Committed; due at ``scheduled_at``."""
    PROCESSING = "processing"
    """Claimed by a launcher under a lease, or its runs are under way (no lease)."""
    RETRYABLE = "retryable"
    """An attempt failed; the next is due at ``scheduled_at``."""
    COMPLETED = "completed"
    """Every execution ended well, or no trigger matched."""
    DEAD = "dead"
    """Attempts used up, or a permanent error. Leaves by redrive only."""
    CANCELLED = "cancelled"
    """Ended by an operator. Leaves by redrive only."""


class ExecutionState(StrEnum):
    """Where one run of one trigger for one event is."""

    PENDING = "pending"
    """Decided; no flow run id is stored yet."""
    LAUNCHED = "launched"
    """The flow run exists in Prefect."""
    RUNNING = "running"
    """A runner has claimed the flow run under a lease, or Prefect reports it running."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"
    """It could never be started; ``error`` says why."""


EVENT_FINAL = frozenset({EventState.COMPLETED, EventState.DEAD, EventState.CANCELLED})
EXECUTION_FINAL = frozenset(
    {
        ExecutionState.COMPLETED,
        ExecutionState.FAILED,
        ExecutionState.CANCELLED,
        ExecutionState.DEAD,
    }
)
