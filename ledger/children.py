"""The children of the seven tables: attempts, fallbacks with their steps, and redrives."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    UniqueConstraint,
    text,
)
from sqlmodel import Field

from .columns import SCHEMA, LedgerTable, jsonb, number, one_of, text_column, time
from .states import AttemptOutcome, FallbackState, StepState


def _of_event(column: str = "webhook_event_id") -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{SCHEMA}.webhook_events.tenant_id", f"{SCHEMA}.webhook_events.id"],
    )


class AttemptRow(LedgerTable, table=True):
    """One attempt to deliver an event: written before the wire, closed after it."""

    __tablename__ = "webhook_attempts"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "webhook_event_id", "number"),
        _of_event(),
        ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            [f"{SCHEMA}.webhook_endpoints.tenant_id", f"{SCHEMA}.webhook_endpoints.id"],
        ),
        one_of("outcome", AttemptOutcome),
        CheckConstraint("number > 0", name="number_from_one"),
        CheckConstraint("(finished_at IS NULL) = (outcome = 'open')", name="finished_when_closed"),
        CheckConstraint("octet_length(body) <= 16384", name="body_is_capped"),
        # breaker_window: what an endpoint answered lately.
        Index("ix_webhook_attempts_window", "tenant_id", "endpoint_id", "finished_at"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    webhook_event_id: UUID
    endpoint_id: UUID
    redrive: int = Field(default=0, sa_column_kwargs=number())
    number: int
    outcome: str = Field(default="open", sa_column=text_column(default="open"))
    status: int | None = None
    headers: dict[str, str] | None = Field(default=None, sa_column=jsonb(nullable=True))
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    error: str | None = Field(default=None, sa_column=text_column(nullable=True))
    started_at: datetime | None = Field(default=None, sa_column=time(now=True))
    finished_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    seconds: float | None = Field(default=None, sa_column=Column(Double, nullable=True))
    owner: str = Field(sa_column=text_column())
    flow_run_id: UUID | None = None
    n8n_execution_id: str | None = Field(default=None, sa_column=text_column(nullable=True))


class FallbackRow(LedgerTable, table=True):
    """What is done in place of a delivery or an execution that failed: a ladder of steps.

    ``subject_id`` is the execution's id where there is one, else the event's.
    """

    __tablename__ = "fallbacks"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "subject_id", "redrive"),
        _of_event(),
        ForeignKeyConstraint(
            ["tenant_id", "execution_id"],
            [f"{SCHEMA}.workflow_executions.tenant_id", f"{SCHEMA}.workflow_executions.id"],
        ),
        one_of("state", FallbackState),
        CheckConstraint(
            "(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_is_whole"
        ),
        CheckConstraint(
            "lease_owner IS NULL OR state = 'processing'", name="lease_only_processing"
        ),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'dead'))",
            name="finished_when_final",
        ),
        # claim_fallbacks: what is due, oldest first, over all tenants.
        Index(
            "ix_fallbacks_due",
            "scheduled_at",
            postgresql_where=text("finished_at IS NULL"),
        ),
        # Those of one event.
        Index("ix_fallbacks_event", "tenant_id", "webhook_event_id"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    webhook_event_id: UUID
    execution_id: UUID | None = None
    subject_id: UUID
    redrive: int = Field(default=0, sa_column_kwargs=number())
    ladder: list[dict[str, Any]] = Field(sa_column=jsonb(default=None))
    step: int = Field(default=0, sa_column_kwargs=number())
    state: str = Field(default="pending", sa_column=text_column(default="pending"))
    claims: int = Field(default=0, sa_column_kwargs=number())
    cause: str = Field(sa_column=text_column())
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    scheduled_at: datetime | None = Field(default=None, sa_column=time(now=True))
    finished_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    lease_owner: str | None = Field(default=None, sa_column=text_column(nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    flow_run_id: UUID | None = None


class FallbackStepRow(LedgerTable, table=True):
    """One step of a fallback that was begun; ``ref`` is what it started, to find it again."""

    __tablename__ = "fallback_steps"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "fallback_id", "number"),
        ForeignKeyConstraint(
            ["tenant_id", "fallback_id"],
            [f"{SCHEMA}.fallbacks.tenant_id", f"{SCHEMA}.fallbacks.id"],
        ),
        one_of("kind", ("endpoint", "workflow", "deployment", "notification")),
        one_of("state", StepState),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state <> 'started')", name="finished_when_final"
        ),
    )

    tenant_id: UUID
    fallback_id: UUID
    number: int
    kind: str = Field(sa_column=text_column())
    target: str = Field(sa_column=text_column())
    state: str = Field(default="started", sa_column=text_column(default="started"))
    ref: str | None = Field(default=None, sa_column=text_column(nullable=True))
    error: str | None = Field(default=None, sa_column=text_column(nullable=True))
    started_at: datetime | None = Field(default=None, sa_column=time(now=True))
    finished_at: datetime | None = Field(default=None, sa_column=time(nullable=True))


class RedriveRow(LedgerTable, table=True):
    """One press of redrive: repeated, it changes nothing."""

    __tablename__ = "redrives"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "id"),)

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    selection: dict[str, Any] = Field(sa_column=jsonb(default=None))
    rate: float = Field(sa_column=Column(Double, nullable=False))
    events: int
    actor: str = Field(sa_column=text_column())
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
