"""The seven tables, in schema ``prefect_n8n``; their children are in ``children``.

Every key, foreign key and unique constraint begins with ``tenant_id``: a conflict or a reference
then never reveals another tenant's row. Row security, roles, triggers and functions are in
``migrations/``, which a test compares with these tables.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
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

from . import children as children
from .columns import (
    SCHEMA,
    LedgerTable,
    jsonb,
    metadata,
    number,
    one_of,
    text_array,
    text_column,
    time,
)
from .states import BreakerState, EndpointState, EventState, ExecutionState

__all__ = [
    "SCHEMA",
    "AuditRow",
    "EndpointRow",
    "EventRow",
    "ExecutionRow",
    "SyncConfigRow",
    "TokenRow",
    "TriggerRow",
    "metadata",
]


class EndpointRow(LedgerTable, table=True):
    """A configured address: where events come in, or (outbound) where they go."""

    __tablename__ = "webhook_endpoints"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "slug"),
        UniqueConstraint("tenant_id", "token_hash"),
        one_of("direction", ("inbound", "outbound")),
        one_of("state", EndpointState),
        one_of("breaker", BreakerState),
        one_of("on_unknown", ("ask", "resend")),
        CheckConstraint("timeout_seconds BETWEEN 1 AND 300", name="timeout_range"),
        CheckConstraint("max_in_flight BETWEEN 1 AND 64", name="max_in_flight_range"),
        CheckConstraint("slug ~ '^[a-z0-9][a-z0-9_-]{0,62}$'", name="slug_shape"),
        CheckConstraint("rate_limit > 0 AND rate_limit <= 100000", name="rate_limit_range"),
        CheckConstraint("max_body BETWEEN 16384 AND 26214400", name="max_body_range"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash_is_sha256"),
        # resolve_endpoint looks a token up before any tenant is known.
        Index("ix_webhook_endpoints_token_hash", "token_hash"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    slug: str = Field(sa_column=text_column())
    direction: str = Field(default="inbound", sa_column=text_column(default="inbound"))
    state: str = Field(default="on", sa_column=text_column(default="on"))
    scheme: str = Field(default="standard", sa_column=text_column(default="standard"))
    scheme_options: dict[str, Any] = Field(default_factory=dict, sa_column=jsonb())
    credentials_block: str = Field(default="default", sa_column=text_column(default="default"))
    event_id_field: str = Field(default="id", sa_column=text_column(default="id"))
    event_type_field: str = Field(default="type", sa_column=text_column(default="type"))
    max_body: int = Field(default=1_048_576, sa_column_kwargs=number(1048576))
    body_schema: dict[str, Any] | None = Field(default=None, sa_column=jsonb(nullable=True))
    rate_limit: float | None = Field(default=None, sa_column=Column(Double, nullable=True))
    token_hash: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    url: str | None = Field(default=None, sa_column=text_column(nullable=True))
    n8n_workflow_id: str | None = Field(default=None, sa_column=text_column(nullable=True))
    timeout_seconds: float = Field(
        default=30.0, sa_column=Column(Double, nullable=False, server_default=text("30"))
    )
    max_in_flight: int = Field(default=8, sa_column_kwargs=number(8))
    retry_policy: dict[str, Any] = Field(default_factory=dict, sa_column=jsonb())
    success_rule: dict[str, Any] = Field(default_factory=dict, sa_column=jsonb())
    on_unknown: str = Field(default="ask", sa_column=text_column(default="ask"))
    fallback: list[dict[str, Any]] = Field(default_factory=list, sa_column=jsonb(default="[]"))
    breaker: str = Field(default="closed", sa_column=text_column(default="closed"))
    breaker_until: datetime | None = Field(default=None, sa_column=time(nullable=True))
    failures: int = Field(default=0, sa_column_kwargs=number())
    failing_since: datetime | None = Field(default=None, sa_column=time(nullable=True))
    state_reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    updated_at: datetime | None = Field(default=None, sa_column=time(now=True))


class EventRow(LedgerTable, table=True):
    """One event, once: its bytes as they came, and where it is on its way."""

    __tablename__ = "webhook_events"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        # The dedup key: for ever, so that a replay does not return after the signature's tolerance.
        UniqueConstraint("tenant_id", "endpoint_id", "event_id"),
        ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            [f"{SCHEMA}.webhook_endpoints.tenant_id", f"{SCHEMA}.webhook_endpoints.id"],
        ),
        ForeignKeyConstraint(
            ["tenant_id", "parent_event_id"],
            [f"{SCHEMA}.webhook_events.tenant_id", f"{SCHEMA}.webhook_events.id"],
        ),
        one_of("state", EventState),
        one_of("direction", ("inbound", "outbound")),
        CheckConstraint("octet_length(body_hash) = 32", name="body_hash_is_sha256"),
        CheckConstraint("length(event_id) BETWEEN 1 AND 256", name="event_id_length"),
        CheckConstraint("length(type) <= 256", name="type_length"),
        CheckConstraint(
            "(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_is_whole"
        ),
        CheckConstraint(
            "lease_owner IS NULL OR state = 'processing'", name="lease_only_processing"
        ),
        CheckConstraint(
            "(finalized_at IS NOT NULL) = (state IN ('completed', 'dead', 'cancelled'))",
            name="finalized_when_final",
        ),
        # claim_events: what is due, oldest first, over all tenants.
        Index(
            "ix_webhook_events_due",
            "scheduled_at",
            postgresql_where=text("direction = 'inbound' AND state IN ('pending', 'retryable')"),
        ),
        # claim_deliveries: what is due at one endpoint, oldest first.
        Index(
            "ix_webhook_events_outbox",
            "tenant_id",
            "endpoint_id",
            "scheduled_at",
            postgresql_where=text("direction = 'outbound' AND state IN ('pending', 'retryable')"),
        ),
        # A fallback's deliveries, by the event they stand in for.
        Index(
            "ix_webhook_events_parent",
            "tenant_id",
            "parent_event_id",
            postgresql_where=text("parent_event_id IS NOT NULL"),
        ),
        # claim_events: leases of lost launchers.
        Index(
            "ix_webhook_events_lease",
            "lease_expires_at",
            postgresql_where=text("lease_owner IS NOT NULL"),
        ),
        # Listing, newest first.
        Index("ix_webhook_events_listing", "tenant_id", "received_at", "id"),
        # Status: counts by state and the oldest pending one.
        Index("ix_webhook_events_state", "tenant_id", "state", "received_at"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    endpoint_id: UUID
    event_id: str = Field(sa_column=text_column())
    type: str = Field(default="", sa_column=text_column(default=""))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    body_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    payload: dict[str, Any] = Field(sa_column=jsonb(default=None))
    headers: dict[str, str] = Field(default_factory=dict, sa_column=jsonb())
    traceparent: str | None = Field(default=None, sa_column=text_column(nullable=True))
    state: str = Field(default="pending", sa_column=text_column(default="pending"))
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    claims: int = Field(default=0, sa_column_kwargs=number())
    redrive: int = Field(default=0, sa_column_kwargs=number())
    received_at: datetime | None = Field(default=None, sa_column=time(now=True))
    scheduled_at: datetime | None = Field(default=None, sa_column=time(now=True))
    lease_owner: str | None = Field(default=None, sa_column=text_column(nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    finalized_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    errors: list[str] = Field(default_factory=list, sa_column=text_array())
    direction: str = Field(default="inbound", sa_column=text_column(default="inbound"))
    attempts: int = Field(default=0, sa_column_kwargs=number())
    target_url: str | None = Field(default=None, sa_column=text_column(nullable=True))
    callback_url: str | None = Field(default=None, sa_column=text_column(nullable=True))
    parent_event_id: UUID | None = None
    flow_run_id: UUID | None = None


class TriggerRow(LedgerTable, table=True):
    """A rule: events of these types on this endpoint start this Prefect deployment."""

    __tablename__ = "workflow_triggers"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "endpoint_id", "name"),
        ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            [f"{SCHEMA}.webhook_endpoints.tenant_id", f"{SCHEMA}.webhook_endpoints.id"],
        ),
        # retired: made from a file that no longer has it; comes back with it.
        one_of("state", ("on", "paused", "retired")),
        CheckConstraint("cardinality(types) > 0", name="has_types"),
        CheckConstraint("deployment ~ '^[^/]+/[^/]+$'", name="deployment_is_flow_slash_name"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    endpoint_id: UUID
    name: str = Field(sa_column=text_column())
    types: list[str] = Field(sa_column=text_array())
    deployment: str = Field(sa_column=text_column())
    parameters: dict[str, Any] | None = Field(default=None, sa_column=jsonb(nullable=True))
    fallback: list[dict[str, Any]] = Field(default_factory=list, sa_column=jsonb(default="[]"))
    state: str = Field(default="on", sa_column=text_column(default="on"))
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    updated_at: datetime | None = Field(default=None, sa_column=time(now=True))


class ExecutionRow(LedgerTable, table=True):
    """One run, on either engine, of one trigger for one event."""

    __tablename__ = "workflow_executions"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        # One run per event, trigger and redrive, whatever crashes in between.
        UniqueConstraint("tenant_id", "webhook_event_id", "trigger_id", "redrive"),
        UniqueConstraint("tenant_id", "flow_run_id"),
        ForeignKeyConstraint(
            ["tenant_id", "webhook_event_id"],
            [f"{SCHEMA}.webhook_events.tenant_id", f"{SCHEMA}.webhook_events.id"],
        ),
        ForeignKeyConstraint(
            ["tenant_id", "trigger_id"],
            [f"{SCHEMA}.workflow_triggers.tenant_id", f"{SCHEMA}.workflow_triggers.id"],
        ),
        one_of("engine", ("prefect", "n8n")),
        one_of("state", ExecutionState),
        CheckConstraint(
            "(lease_owner IS NULL) = (lease_expires_at IS NULL)", name="lease_is_whole"
        ),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled', 'dead'))",
            name="finished_when_final",
        ),
        CheckConstraint(
            "state NOT IN ('launched', 'running') OR flow_run_id IS NOT NULL OR engine = 'n8n'",
            name="launched_has_run",
        ),
        # take, renew, open_runs: open executions by flow run, before their tenant is known.
        Index(
            "ix_workflow_executions_run",
            "flow_run_id",
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index("ix_workflow_executions_listing", "tenant_id", "created_at", "id"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    webhook_event_id: UUID
    trigger_id: UUID
    redrive: int = Field(default=0, sa_column_kwargs=number())
    engine: str = Field(default="prefect", sa_column=text_column(default="prefect"))
    state: str = Field(default="pending", sa_column=text_column(default="pending"))
    flow_run_id: UUID | None = None
    n8n_workflow_id: str | None = Field(default=None, sa_column=text_column(nullable=True))
    n8n_execution_id: str | None = Field(default=None, sa_column=text_column(nullable=True))
    rescues: int = Field(default=0, sa_column_kwargs=number())
    lease_owner: str | None = Field(default=None, sa_column=text_column(nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    started_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    error: str | None = Field(default=None, sa_column=text_column(nullable=True))
    result: Any = Field(default=None, sa_column=jsonb(nullable=True))
    link: str | None = Field(default=None, sa_column=text_column(nullable=True))


class SyncConfigRow(LedgerTable, table=True):
    """A pair of sides whose rows are kept equal."""

    __tablename__ = "data_sync_configs"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "name"),
        one_of("policy", ("left", "right", "newest", "manual")),
        one_of("state", ("on", "paused")),
        CheckConstraint("cardinality(key_fields) > 0", name="has_key"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    name: str = Field(sa_column=text_column())
    left_side: dict[str, Any] = Field(sa_column=jsonb(default=None))
    right_side: dict[str, Any] = Field(sa_column=jsonb(default=None))
    key_fields: list[str] = Field(sa_column=text_array())
    field_owners: dict[str, str] = Field(default_factory=dict, sa_column=jsonb())
    policy: str = Field(default="newest", sa_column=text_column(default="newest"))
    cursor: dict[str, Any] | None = Field(default=None, sa_column=jsonb(nullable=True))
    schedule: str | None = Field(default=None, sa_column=text_column(nullable=True))
    state: str = Field(default="on", sa_column=text_column(default="on"))
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    updated_at: datetime | None = Field(default=None, sa_column=time(now=True))


class AuditRow(LedgerTable, table=True):
    """One change: who, what, on what, before and after, chained by hash within its tenant.

    ``seq``, ``at``, ``previous_hash`` and ``hash`` are set by the database.
    """

    __tablename__ = "audit_log"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "seq"),)

    tenant_id: UUID
    seq: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, autoincrement=False))
    at: datetime | None = Field(default=None, sa_column=time(now=True))
    actor: str = Field(sa_column=text_column())
    action: str = Field(sa_column=text_column())
    subject: str = Field(sa_column=text_column())
    before: dict[str, Any] | None = Field(default=None, sa_column=jsonb(nullable=True))
    after: dict[str, Any] | None = Field(default=None, sa_column=jsonb(nullable=True))
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    previous_hash: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    hash: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class TokenRow(LedgerTable, table=True):
    """A bearer token of an operator, stored as its SHA-256."""

    __tablename__ = "api_tokens"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "name"),
        UniqueConstraint("tenant_id", "token_hash"),
        CheckConstraint("scopes <@ ARRAY['read', 'send', 'admin']", name="known_scopes"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash_is_sha256"),
        # resolve_token looks a token up before any tenant is known.
        Index("ix_api_tokens_token_hash", "token_hash"),
    )

    tenant_id: UUID
    id: UUID = Field(default_factory=uuid4)
    name: str = Field(sa_column=text_column())
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    scopes: list[str] = Field(sa_column=text_array())
    created_at: datetime | None = Field(default=None, sa_column=time(now=True))
    expires_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
    last_used_at: datetime | None = Field(default=None, sa_column=time(nullable=True))
