"""The states of events and executions, each named once.

An event::

    pending ──▶ processing ──▶ completed
       ▲            │  │
       │            ▼  ├─────▶ dead ───────┐
       └──────── retryable     cancelled ──┴─(redrive)──▶ pending

An execution, one run of one trigger for one event::

    pending ──▶ launched ──▶ running ──▶ completed | failed | cancelled | dead
                                 └──▶ falling_back ──▶ completed | dead

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
    FALLING_BACK = "falling_back"
    """Its run failed; the trigger's fallback is under way."""
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


class EndpointState(StrEnum):
    """Whether an endpoint's events go on."""

    ON = "on"
    PAUSED = "paused"
    """An operator holds its events; they are accepted and stay ``pending``."""
    DISABLED = "disabled"
    """Its target failed for days or said that it is gone; holds like ``paused``."""


class BreakerState(StrEnum):
    """The circuit breaker of an outbound endpoint."""

    CLOSED = "closed"
    OPEN = "open"
    """Too many calls failed: deliveries are held until ``breaker_until``."""
    HALF_OPEN = "half_open"
    """One delivery probes; another may after ``breaker_until``."""


class AttemptOutcome(StrEnum):
    """What one attempt to deliver came to."""

    OPEN = "open"
    """On the wire, or its launcher was killed."""
    DELIVERED = "delivered"
    FAILED = "failed"
    """The target answered, and not with what the endpoint promises."""
    NOT_SENT = "not_sent"
    """Nothing reached the target."""
    UNKNOWN = "unknown"
    """It went out and no whole answer came."""
    REFUSED = "refused"
    """Our guard did not let it out."""
    SNOOZED = "snoozed"
    """The target asked for patience; no attempt is spent."""


class FallbackState(StrEnum):
    """Where a fallback is on its ladder."""

    PENDING = "pending"
    """Due at ``scheduled_at``: the next step, or a look at the one begun."""
    PROCESSING = "processing"
    """Claimed by a launcher under a lease."""
    COMPLETED = "completed"
    """A step did what was to be done."""
    DEAD = "dead"
    """No step did."""


class StepState(StrEnum):
    """What one step of a fallback came to."""

    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
