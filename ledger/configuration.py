"""Endpoints, triggers and syncs as operators keep them: found, listed, saved and removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.errors import ConfigurationConflict, ConfigurationError
from ..core.specs import InboundEndpoint, Spec, Trigger
from . import audit, callbacks
from .kinds import ENDPOINTS, Kind, kind_of, spec_of, values_of

MAX_PAGE = 200

_CLOSED: dict[str, Any] = {
    "breaker": "closed",
    "breaker_until": null(),
    "failures": 0,
    "failing_since": null(),
}


@dataclass(frozen=True, slots=True)
class Saved:
    """A spec as it is stored. ``state`` is an operator's doing, or for endpoints the breaker's."""

    id: UUID
    spec: Spec
    state: str
    state_reason: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """A tag that changes with the spec."""
        return self.spec.etag()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a save did: ``before`` is None where it is new, and equal to ``saved`` where nothing
    changed."""

    saved: Saved
    before: Saved | None

    @property
    def word(self) -> str:
        """``created``, ``changed`` or ``unchanged``."""
        if self.before is None:
            return "created"
        return "unchanged" if self.before == self.saved else "changed"


async def find(connection: AsyncConnection, tenant: UUID, kind: Kind, key: str) -> Saved | None:
    """Return the row with that key, which others cannot save until the transaction's end."""
    query = kind.all.where(kind.table.c.tenant_id == tenant, kind.key == key)
    found = await connection.execute(query.with_for_update(of=kind.table))
    row = found.mappings().one_or_none()
    return None if row is None else _saved(kind, row)


async def page(
    connection: AsyncConnection, tenant: UUID, kind: Kind, *, after: str = "", limit: int = MAX_PAGE
) -> list[Saved]:
    """Return at most ``limit`` rows in the order of their keys, those after key ``after``."""
    query = kind.all.where(kind.table.c.tenant_id == tenant, kind.key > after)
    if kind.removed_state is not None:
        query = query.where(kind.table.c.state != kind.removed_state)
    rows = await connection.execute(query.order_by(kind.key).limit(limit))
    return [_saved(kind, row) for row in rows.mappings()]


async def everything(connection: AsyncConnection, tenant: UUID, kind: Kind) -> list[Saved]:
    """Return all rows of the kind in the order of their keys."""
    rows: list[Saved] = []
    while more := await page(connection, tenant, kind, after=rows[-1].spec.key if rows else ""):
        rows += more
    return rows


async def save(
    connection: AsyncConnection,
    tenant: UUID,
    spec: Spec,
    *,
    actor: str,
    match: str | None = None,
    new: bool = False,
) -> Outcome:
    """Create what ``spec`` asks for, or change it. Audited only when something changes.

    ``match`` is the etag that it has to have before; with ``new`` it must not be there.

    Raises:
        ConfigurationError: a rule that cannot be followed, or a trigger of no inbound endpoint.
        ConfigurationConflict: it is not as ``match`` or ``new`` say, or an endpoint of the other
            direction has its slug.
    """
    _check(spec)
    kind = kind_of(spec)
    values = values_of(spec)
    if isinstance(spec, Trigger):
        values["endpoint_id"] = await _inbound(connection, tenant, spec.endpoint)
    before = await find(connection, tenant, kind, spec.key)
    if before is None and match is None:
        made = insert(kind.table).values(tenant_id=tenant, id=uuid4(), **values)
        done = await connection.execute(made.on_conflict_do_nothing().returning(kind.table.c.id))
        if done.scalar_one_or_none() is None:
            # Another made it meanwhile, and has committed.
            before = await find(connection, tenant, kind, spec.key)
    if before is not None or match is not None:
        before = _matched(kind, before, spec, match=match, new=new)
        if before.spec == spec and before.state != kind.removed_state:
            return Outcome(before, before)
        if before.state == kind.removed_state:
            values["state"] = "on"
        await _update(connection, tenant, kind, before.id, values)
    saved = await find(connection, tenant, kind, spec.key)
    assert saved is not None, "it was saved in this transaction"
    removed = before is not None and before.state == kind.removed_state
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"{kind.noun}.saved",
        subject=f"{kind.noun}/{spec.key}",
        before=None if before is None or removed else before.spec.as_json(),
        after=spec.as_json(),
    )
    return Outcome(saved, None if removed else before)


async def remove(
    connection: AsyncConnection,
    tenant: UUID,
    kind: Kind,
    key: str,
    *,
    actor: str,
    match: str | None = None,
) -> bool:
    """Remove it; False where it is not there. A trigger that events refer to is only retired.

    Raises:
        ConfigurationConflict: it is not as ``match`` says, or an endpoint that still has events or
            triggers.
    """
    known = await find(connection, tenant, kind, key)
    if known is None or known.state == kind.removed_state:
        return False
    if match is not None and match != known.etag:
        raise _changed(kind, key)
    table = kind.table
    try:
        async with connection.begin_nested():
            await connection.execute(
                delete(table).where(table.c.tenant_id == tenant, table.c.id == known.id)
            )
    except IntegrityError:
        if kind.removed_state is None:
            raise ConfigurationConflict(
                f"{kind.noun} {key!r} has events or triggers: remove its triggers, and pause it."
            ) from None
        await _update(connection, tenant, kind, known.id, {"state": kind.removed_state})
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"{kind.noun}.removed",
        subject=f"{kind.noun}/{key}",
        before=known.spec.as_json(),
    )
    return True


async def set_state(
    connection: AsyncConnection,
    tenant: UUID,
    kind: Kind,
    key: str,
    state: str,
    *,
    reason: str | None = None,
    actor: str,
) -> bool:
    """Pause it, or let it go on; False where it is so already, or is not there.

    What the breaker of an endpoint knows is forgotten with it.
    """
    known = await find(connection, tenant, kind, key)
    if known is None or known.state in (state, kind.removed_state):
        return False
    values: dict[str, Any] = {"state": state}
    if kind is ENDPOINTS:
        values |= {"state_reason": reason} | _CLOSED
    await _update(connection, tenant, kind, known.id, values)
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"{kind.noun}.{state}",
        subject=f"{kind.noun}/{key}",
        before={"state": known.state},
        after={"state": state},
        reason=reason,
    )
    return True


def _check(spec: Spec) -> None:
    spec.check()
    if isinstance(spec, InboundEndpoint) and callbacks.is_reserved(spec.slug):
        raise ConfigurationError(f"{spec.slug!r} is an outbound endpoint: choose another name.")


def _matched(kind: Kind, known: Saved | None, spec: Spec, *, match: str | None, new: bool) -> Saved:
    """Return what is there, if the caller's conditions and the spec allow to change it."""
    there = known is not None and known.state != kind.removed_state
    if (new and there) or (match is not None and (known is None or match != known.etag)):
        raise _changed(kind, spec.key)
    assert known is not None, "without a match it is there"
    if kind is ENDPOINTS and known.spec.as_json()["direction"] != spec.as_json()["direction"]:
        direction = known.spec.as_json()["direction"]
        raise ConfigurationConflict(
            f"Endpoint {spec.key!r} is {direction}: give this one another name."
        )
    return known


def _changed(kind: Kind, key: str) -> ConfigurationConflict:
    return ConfigurationConflict(
        f"{kind.noun} {key!r} is not as you last saw it: read it again.", precondition=True
    )


async def _update(
    connection: AsyncConnection, tenant: UUID, kind: Kind, id: UUID, values: Mapping[str, Any]
) -> None:
    table = kind.table
    changed = update(table).where(table.c.tenant_id == tenant, table.c.id == id)
    await connection.execute(changed.values(updated_at=func.now(), **values))


async def _inbound(connection: AsyncConnection, tenant: UUID, slug: str) -> UUID:
    of = ENDPOINTS.table.c
    found = await connection.execute(
        select(of.id).where(of.tenant_id == tenant, of.slug == slug, of.direction == "inbound")
    )
    id: UUID | None = found.scalar_one_or_none()
    if id is None:
        raise ConfigurationError(f"endpoint: there is no inbound endpoint {slug!r}.")
    return id


def _saved(kind: Kind, row: Mapping[Any, Any]) -> Saved:
    own = {name: row[name] for name in ("id", "state", "state_reason", "created_at", "updated_at")}
    return Saved(spec=spec_of(kind, row), **own)
