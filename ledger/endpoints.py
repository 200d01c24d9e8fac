"""Outbound endpoints: where deliveries go, and by which rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.errors import CallRefused, ConfigurationError
from ..core.ladder import parse_ladder
from ..core.retry import RetryPolicy, SuccessRule
from ..core.settings import settings
from ..core.signing import scheme_of
from ..core.urls import check_url
from . import audit
from .states import EndpointState


@dataclass(frozen=True, slots=True)
class OutboundEndpoint:
    """Where deliveries go, and by which rules: what a user asks of an outbound endpoint.

    At the top of a flow file it is made by ``up FILE``, ``serve FILE`` and ``launch FILE``::

        crm = OutboundEndpoint("crm", url="crm/contact", fallback=[{"endpoint": "crm-backup"}])

    ``url`` is absolute, or a path under the webhook base of the credentials' n8n; None where each
    delivery brings its own. ``retry_policy`` and ``success_rule`` are in the stored form of
    ``core.retry``. ``on_unknown``: ``ask`` n8n, or ``resend`` to a target that drops known ids.
    ``n8n_workflow_id`` spares the search for the workflow behind the URL.
    """

    slug: str
    url: str | None
    scheme: str = "standard"
    scheme_options: dict[str, Any] = field(default_factory=dict[str, Any])
    credentials_block: str = "default"
    n8n_workflow_id: str | None = None
    timeout_seconds: float = 30.0
    max_in_flight: int = 8
    retry_policy: dict[str, Any] = field(default_factory=dict[str, Any])
    success_rule: dict[str, Any] = field(default_factory=dict[str, Any])
    on_unknown: str = "ask"
    fallback: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def check(self) -> None:
        """Check what needs no database.

        Raises:
            ConfigurationError: a rule that cannot be followed.
        """
        if not _SLUG.fullmatch(self.slug):
            raise ConfigurationError(f"{self.slug!r} is no slug: a-z, 0-9, - and _, at most 63.")
        if self.url is not None and _ABSOLUTE.match(self.url):
            _check_target(self.url)
        scheme_of(self.scheme, self.scheme_options)
        parse_ladder(self.fallback)
        RetryPolicy.parse(self.retry_policy, on_unknown=self.on_unknown)
        SuccessRule.parse(self.success_rule)
        parse_ladder(self.fallback)


_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

# ensure_outbound: nothing is written, and nothing returned, where nothing changes.
_COLUMNS = (
    "url, scheme, scheme_options, credentials_block, n8n_workflow_id, timeout_seconds,"
    " max_in_flight, retry_policy, success_rule, on_unknown, fallback"
)
_ENSURE = text(f"""
    INSERT INTO prefect_n8n.webhook_endpoints AS e (tenant_id, id, slug, direction, {_COLUMNS})
    VALUES (:tenant, :id, :slug, 'outbound', :url, :scheme, CAST(:scheme_options AS jsonb),
            :credentials_block, :n8n_workflow_id, :timeout_seconds, :max_in_flight,
            CAST(:retry_policy AS jsonb), CAST(:success_rule AS jsonb), :on_unknown,
            CAST(:fallback AS jsonb))
    ON CONFLICT (tenant_id, slug) DO UPDATE
    SET ({_COLUMNS}, updated_at) = ROW ({", ".join("excluded." + c for c in _COLUMNS.split(", "))},
                                        now())
    WHERE e.direction = 'outbound' AND ({", ".join("e." + c for c in _COLUMNS.split(", "))})
          IS DISTINCT FROM ({", ".join("excluded." + c for c in _COLUMNS.split(", "))})
    RETURNING id
""")  # noqa: S608 - constants only
_FIND = text("""
    SELECT id, direction FROM prefect_n8n.webhook_endpoints
    WHERE tenant_id = :tenant AND slug = :slug
""")
# set_state: by an operator; what the breaker knows is forgotten with it.
_SET_STATE = text("""
    UPDATE prefect_n8n.webhook_endpoints
    SET state = :state, state_reason = :reason, breaker = 'closed', breaker_until = NULL,
        failures = 0, failing_since = NULL, updated_at = now()
    WHERE tenant_id = :tenant AND slug = :slug AND state <> :state
""")


async def ensure_outbound(
    connection: AsyncConnection, tenant: UUID, spec: OutboundEndpoint, *, actor: str
) -> UUID:
    """Create the endpoint or change it to ``spec``; return its id. Audited only when it changes.

    Raises:
        ConfigurationError: a rule that cannot be followed, or an inbound endpoint of that name.
    """
    spec.check()
    values = {name: _stored(value) for name, value in asdict(spec).items()}
    done = await connection.execute(_ENSURE, values | {"tenant": tenant, "id": uuid4()})
    changed: UUID | None = done.scalar_one_or_none()
    if changed is not None:
        await audit.record(
            connection,
            tenant,
            actor=actor,
            action="endpoint.saved",
            subject=f"endpoint/{spec.slug}",
            after=asdict(spec) | {"direction": "outbound"},
        )
        return changed
    found = (await connection.execute(_FIND, {"tenant": tenant, "slug": spec.slug})).one()
    if found.direction != "outbound":
        raise ConfigurationError(f"Endpoint {spec.slug!r} is inbound: give this one another name.")
    return found.id


async def set_state(
    connection: AsyncConnection,
    tenant: UUID,
    slug: str,
    state: EndpointState,
    *,
    reason: str | None = None,
    actor: str,
) -> bool:
    """Pause an endpoint, or let it go on; False where it is so already, or does not exist."""
    values = {"tenant": tenant, "slug": slug, "state": state.value, "reason": reason}
    if not (await connection.execute(_SET_STATE, values)).rowcount:
        return False
    await audit.record(
        connection,
        tenant,
        actor=actor,
        action=f"endpoint.{state.value}",
        subject=f"endpoint/{slug}",
        reason=reason,
    )
    return True


def _check_target(url: str) -> None:
    """Refuse on save what would be refused at every call."""
    try:
        check_url(url, settings().allow_list())
    except CallRefused as error:
        raise ConfigurationError(f"{error}") from error


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | Mapping) else value
