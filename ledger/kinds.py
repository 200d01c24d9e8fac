"""How each kind of configuration is stored: its table, and which column holds which field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, Table, and_, null, select

from ..core.specs import InboundEndpoint, OutboundEndpoint, Spec, Sync, Trigger
from .tables import EndpointRow, SyncConfigRow, TriggerRow

_ENDPOINTS = cast(Table, EndpointRow.__table__)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
_TRIGGERS = cast(Table, TriggerRow.__table__)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
_SYNCS = cast(Table, SyncConfigRow.__table__)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: ``noun`` is its word in audit entries and errors.

    ``columns`` maps a spec's fields to columns. ``key`` is what tells rows of a tenant apart;
    ``all`` selects rows with their state, times, and fields under the fields' names.
    ``removed_state`` is that of a row that is only kept for what refers to it.
    """

    noun: str
    table: Table
    columns: Mapping[str, str]
    key: ColumnElement[str]
    all: Select[Any]
    removed_state: str | None = None


_STORED = ("id", "state", "created_at", "updated_at")


def _select(table: Table, columns: Mapping[str, str]) -> Select[Any]:
    fields = [table.c[column].label(field) for field, column in columns.items()]
    return select(*(table.c[name] for name in _STORED), *fields)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_ENDPOINT_FIELDS = {
    name: name for spec in (InboundEndpoint("x"), OutboundEndpoint("x")) for name in spec.as_json()
}
_TRIGGER_FIELDS = _same("name", "types", "deployment", "parameters", "fallback")
_SYNC_FIELDS = _same("name", "key_fields", "policy", "schedule") | {
    "left": "left_side",
    "right": "right_side",
    "owners": "field_owners",
}

ENDPOINTS = Kind(
    noun="endpoint",
    table=_ENDPOINTS,
    columns=_ENDPOINT_FIELDS,
    key=_ENDPOINTS.c.slug,
    all=_select(_ENDPOINTS, _ENDPOINT_FIELDS).add_columns(_ENDPOINTS.c.state_reason),
)
TRIGGERS = Kind(
    noun="trigger",
    table=_TRIGGERS,
    columns=_TRIGGER_FIELDS,
    key=_ENDPOINTS.c.slug + "/" + _TRIGGERS.c.name,
    all=_select(_TRIGGERS, _TRIGGER_FIELDS)
    .add_columns(_ENDPOINTS.c.slug.label("endpoint"), null().label("state_reason"))
    .join(
        _ENDPOINTS,
        and_(
            _ENDPOINTS.c.tenant_id == _TRIGGERS.c.tenant_id,
            _ENDPOINTS.c.id == _TRIGGERS.c.endpoint_id,
        ),
    ),
    removed_state="retired",
)
SYNCS = Kind(
    noun="sync",
    table=_SYNCS,
    columns=_SYNC_FIELDS,
    key=_SYNCS.c.name,
    all=_select(_SYNCS, _SYNC_FIELDS).add_columns(null().label("state_reason")),
)


def kind_of(spec: Spec) -> Kind:
    """Return the kind that the spec is of."""
    if isinstance(spec, Trigger):
        return TRIGGERS
    return SYNCS if isinstance(spec, Sync) else ENDPOINTS


def values_of(spec: Spec) -> dict[str, Any]:
    """Return the columns that hold the spec; a trigger's endpoint is not among them."""
    columns = kind_of(spec).columns
    return {
        columns[field]: null() if value is None else value
        for field, value in spec.as_json().items()
        if field in columns
    }


def spec_of(kind: Kind, row: Mapping[Any, Any]) -> Spec:
    """Return what a row of ``kind.all`` asks for."""
    made: type[Any] = Trigger if kind is TRIGGERS else Sync
    if kind is ENDPOINTS:
        made = InboundEndpoint if row["direction"] == "inbound" else OutboundEndpoint
    fields: Mapping[str, Any] = made.__dataclass_fields__
    return made(**{name: row[name] for name in fields})
