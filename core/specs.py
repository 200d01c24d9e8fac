"""What users ask for: endpoints, triggers and syncs, defined once.

The same values come from flow files, the HTTP API, ``webhooks.yaml`` and the command line; their
JSON Schema is made from these definitions. Whether a thing is on or paused is not asked for here:
that is an operator's doing.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass

from .errors import CallRefused, ConfigurationError
from .ladder import parse_ladder
from .retry import RetryPolicy, SuccessRule
from .settings import settings
from .signing import scheme_of
from .slugs import SLUG
from .urls import check_url

_CONFIG = ConfigDict(extra="forbid")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
MAX_SCHEMA = 65_536
"""Characters of a JSON Schema: it is read for every event."""


def _slug(value: str) -> str:
    if not SLUG.fullmatch(value):
        raise ValueError(f"{value!r} is no slug: a-z, 0-9, - and _, at most 63")
    return value


Slug = Annotated[
    str,
    AfterValidator(_slug),
    WithJsonSchema({"type": "string", "pattern": f"^{SLUG.pattern}$", "examples": ["orders"]}),
]
Name = Annotated[str, Field(pattern=r"^[^\x00/]{1,200}$", examples=["on-order"])]
BlockName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$", examples=["default"])]
Glob = Annotated[str, Field(min_length=1, max_length=256, examples=["order.*"])]
DeploymentName = Annotated[
    str, Field(pattern=r"^[^/\x00]+/[^/\x00]+$", examples=["on-order/orders"])
]
FieldPath = Annotated[str, Field(min_length=1, max_length=256, examples=["id"])]
Json = dict[str, Any]


class Spec(ABC):
    """What all of them can do."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The name that tells it from others of its kind in a tenant."""

    def check(self) -> None:  # noqa: B027 - not every kind has more to check
        """Check what its types do not say.

        Raises:
            ConfigurationError: a rule that cannot be followed.
        """

    def as_json(self) -> Json:
        """Return it as a JSON object, as it is stored, exported and shown."""
        return asdict(self)  # pyright: ignore[reportArgumentType]

    def etag(self) -> str:
        """Return a tag that another value of the same thing does not have."""
        text = json.dumps(self.as_json(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, config=_CONFIG)
class InboundEndpoint(Spec):
    """Where n8n sends events, ``POST /api/webhooks/n8n/<slug>``, and by which rules they are taken.

    ``rate_limit`` is in events a second, for each receiver process; ``max_body`` in bytes.
    ``body_schema`` is a JSON Schema (2020-12) that bodies have to fit. ``event_id_field`` and
    ``event_type_field`` are dotted paths in the body.
    """

    slug: Slug
    direction: Literal["inbound"] = "inbound"
    scheme: Literal["standard", "hmac"] = "standard"
    scheme_options: Json = field(default_factory=Json)
    credentials_block: BlockName = "default"
    event_id_field: FieldPath = "id"
    event_type_field: FieldPath = "type"
    max_body: Annotated[int, Field(ge=16_384, le=26_214_400)] = 1_048_576
    body_schema: Json | None = None
    rate_limit: Annotated[float, Field(gt=0, le=100_000)] | None = None

    @property
    def key(self) -> str:
        """Its slug."""
        return self.slug

    def check(self) -> None:
        """Check the scheme and the schema.

        Raises:
            ConfigurationError: one that cannot be.
        """
        scheme_of(self.scheme, self.scheme_options)
        if self.body_schema is not None:
            check_schema(self.body_schema)


@dataclass(frozen=True, config=_CONFIG)
class OutboundEndpoint(Spec):
    """Where deliveries go, and by which rules: what a user asks of an outbound endpoint.

    At the top of a flow file it is made by ``up FILE``, ``serve FILE`` and ``launch FILE``::

        crm = OutboundEndpoint("crm", url="crm/contact", fallback=[{"endpoint": "crm-backup"}])

    ``url`` is absolute, or a path under the webhook base of the credentials' n8n; None where each
    delivery brings its own. ``retry_policy`` and ``success_rule`` are in the stored form of
    ``core.retry``. ``on_unknown``: ``ask`` n8n, or ``resend`` to a target that drops known ids.
    ``n8n_workflow_id`` spares the search for the workflow behind the URL.
    """

    slug: Slug
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    direction: Literal["outbound"] = "outbound"
    scheme: Literal["standard", "hmac"] = "standard"
    scheme_options: Json = field(default_factory=Json)
    credentials_block: BlockName = "default"
    n8n_workflow_id: str | None = None
    timeout_seconds: Annotated[float, Field(ge=1, le=300)] = 30.0
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    retry_policy: Json = field(default_factory=Json)
    success_rule: Json = field(default_factory=Json)
    on_unknown: Literal["ask", "resend"] = "ask"
    fallback: list[Json] = field(default_factory=list[Json])

    @property
    def key(self) -> str:
        """Its slug."""
        return self.slug

    def check(self) -> None:
        """Check the target and the rules.

        Raises:
            ConfigurationError: one that cannot be followed.
        """
        if self.url is not None and _ABSOLUTE.match(self.url):
            # Refused on save, as it would be at every call.
            try:
                check_url(self.url, settings().allow_list())
            except CallRefused as error:
                raise ConfigurationError(f"url: {error}") from error
        scheme_of(self.scheme, self.scheme_options)
        RetryPolicy.parse(self.retry_policy, on_unknown=self.on_unknown)
        SuccessRule.parse(self.success_rule)
        parse_ladder(self.fallback)


Endpoint = Annotated[InboundEndpoint | OutboundEndpoint, Field(discriminator="direction")]


@dataclass(frozen=True, config=_CONFIG)
class Trigger(Spec):
    """A rule: events of ``types`` (globs) on inbound ``endpoint`` start ``deployment`` (flow/name).

    ``parameters`` is a template of the deployment's parameters; None gives it the event's row id.
    ``fallback`` is the ladder (``core.ladder``) of those whose run fails for good.
    """

    name: Name
    endpoint: Slug
    deployment: Annotated[
        str, Field(pattern=r"^[^/\x00]+/[^/\x00]+$", examples=["on-order/orders"])
    ]
    types: Annotated[list[Glob], Field(min_length=1, max_length=100)] = field(
        default_factory=lambda: ["*"]
    )
    parameters: Json | None = None
    fallback: list[Json] = field(default_factory=list[Json])

    @property
    def key(self) -> str:
        """``<endpoint>/<name>``."""
        return f"{self.endpoint}/{self.name}"

    def check(self) -> None:
        """Check the fallback.

        Raises:
            ConfigurationError: it is no ladder.
        """
        parse_ladder(self.fallback)


@dataclass(frozen=True, config=_CONFIG)
class Sync(Spec):
    """A pair of sides whose rows are kept equal: see the documentation of each kind of side.

    ``owners`` names the side that owns a field; ``policy`` settles conflicts of the others.
    ``schedule`` is a cron expression, or None for passes by hand alone.
    """

    name: Name
    left: Json
    right: Json
    key_fields: Annotated[list[FieldPath], Field(min_length=1, max_length=20)]
    owners: dict[str, Literal["left", "right"]] = field(
        default_factory=dict[str, Literal["left", "right"]]
    )
    policy: Literal["left", "right", "newest", "manual"] = "newest"
    schedule: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @property
    def key(self) -> str:
        """Its name."""
        return self.name


def parse(kind: Any, value: object, *, where: str = "") -> Any:
    """Return ``value``, as it was read from JSON or YAML, as a checked spec of ``kind``.

    ``kind`` is a class of this module or ``Endpoint``.

    Raises:
        ConfigurationError: it is none; the message names the field, after ``where``.
    """
    try:
        spec = TypeAdapter[Any](kind).validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(where + explain(error)) from None
    try:
        spec.check()
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}{error}") from None
    return spec


def explain(error: ValidationError) -> str:
    """Say in words which fields are wrong and why, without their values."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(_said(each["loc"], each["msg"]) for each in details)


def _said(place: tuple[int | str, ...], what: str) -> str:
    # An argument that was given by its position has no name, and the union of both endpoints is
    # told apart by a tag that the user did not write.
    names = [str(part) for part in place]
    if names and (names[0].isdigit() or names[0] in ("inbound", "outbound")):
        del names[0]
    what = what.removeprefix("Value error, ")
    return f"{'.'.join(names)}: {what}" if names else what


def check_schema(schema: Json) -> None:
    """Check a JSON Schema for bodies.

    Raises:
        ConfigurationError: it is none, too large, or points outside of itself.
    """
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA:
        raise ConfigurationError(f"body_schema: at most {MAX_SCHEMA} characters.")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigurationError(f"body_schema: {error.message}") from None
    if outside := [ref for ref in _refs(schema) if not ref.startswith("#")]:
        raise ConfigurationError(f"body_schema: $ref {outside[0]!r} points outside of the schema.")


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [v for k, v in value.items() if k in ("$ref", "$dynamicRef") and isinstance(v, str)]  # pyright: ignore
        return own + [ref for each in value.values() for ref in _refs(each)]  # pyright: ignore
    if isinstance(value, list):
        return [ref for each in value for ref in _refs(each)]  # pyright: ignore
    return []
