"""What n8n answers, typed: tolerant of fields we do not know, strict about those we use.

Answers are untrusted input. :func:`read_json` and :func:`read_as` turn them into these models, or
say which field is not what it must be, without its value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Annotated, Any, NoReturn, TypeVar, cast

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from ..core.errors import BodyInvalid
from ..core.strict_json import check_depth

MAX_DEPTH = 200
"""Deeper JSON is not read: Python could not write it again, nor PostgreSQL's driver read it."""
WEBHOOK_NODE = "n8n-nodes-base.webhook"
WAIT_NODE = "n8n-nodes-base.wait"

Json = dict[str, Any]
Headers = dict[str, str]
Model = TypeVar("Model", bound=BaseModel)


def _text(value: object) -> object:
    """n8n gives the same id as text in one answer and as a number in another."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _known_status(value: object) -> object:
    """A status that a later n8n may add."""
    unknown = isinstance(value, str) and value not in _STATUSES
    return ExecutionStatus.UNKNOWN if unknown else value


Id = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]


class ExecutionStatus(StrEnum):
    """The states of an execution, by n8n's names."""

    NEW = "new"
    """Accepted, not yet begun."""
    RUNNING = "running"
    WAITING = "waiting"
    """On a Wait node, stored."""
    SUCCESS = "success"
    ERROR = "error"
    CANCELED = "canceled"
    """Stopped, or over the workflow's time limit."""
    CRASHED = "crashed"
    """Lost with its process; it is not resumed."""
    UNKNOWN = "unknown"


_STATUSES = frozenset(status.value for status in ExecutionStatus)
ENDED = frozenset(
    {
        ExecutionStatus.SUCCESS,
        ExecutionStatus.ERROR,
        ExecutionStatus.CANCELED,
        ExecutionStatus.CRASHED,
    }
)


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class Tag(_Answer):
    """A label of workflows."""

    id: Id
    name: str


class Workflow(_Answer):
    """A workflow. ``nodes`` is the draft; what runs are :meth:`live_nodes`."""

    id: Id
    name: str
    active: bool = False
    is_archived: bool = False
    nodes: list[Json] = Field(default_factory=list[Json])
    connections: Annotated[Json, BeforeValidator(_or_empty)] = Field(default_factory=dict)
    settings: Annotated[Json, BeforeValidator(_or_empty)] = Field(default_factory=dict)
    tags: list[Tag] = Field(default_factory=list[Tag])
    active_version: Json | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None

    def live_nodes(self) -> list[Json]:
        """Return the nodes of the published version; before n8n 2, those there are."""
        return _objects(self.active_version.get("nodes")) if self.active_version else self.nodes


@dataclass(frozen=True, slots=True)
class ExecutionFailure:
    """Why an execution failed: n8n's message, the node where it did, and more about it."""

    message: str
    node: str | None = None
    description: str | None = None


class Execution(_Answer):
    """One run of a workflow. ``data`` and ``workflow_data`` are there where they were asked for and
    n8n has kept them."""

    id: Id
    workflow_id: Id
    status: Annotated[ExecutionStatus, BeforeValidator(_known_status)]
    mode: str = ""
    started_at: AwareDatetime | None = None
    stopped_at: AwareDatetime | None = None
    wait_till: AwareDatetime | None = None
    retry_of: Id | None = None
    data: Json | None = None
    workflow_data: Json | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not run on; ``waiting`` will."""
        return self.status in ENDED

    @property
    def error(self) -> ExecutionFailure | None:
        """Why it failed, where the data says so."""
        raw = self._result().get("error")
        if not isinstance(raw, dict):
            return None
        fields = cast(Json, raw)
        node: object = fields.get("node")
        name = cast(Json, node).get("name") if isinstance(node, dict) else node
        name = name or self._result().get("lastNodeExecuted")
        return ExecutionFailure(
            message=str(fields.get("message") or fields.get("name") or "no message"),
            node=str(name) if name else None,
            description=str(fields["description"]) if fields.get("description") else None,
        )

    def last_output(self) -> list[Json]:
        """Return the JSON items that the last node put out; empty where the data has none."""
        last = self._result().get("lastNodeExecuted")
        runs = self._runs(last) if isinstance(last, str) else []
        return _items(runs[-1]) if runs else []

    def webhook_headers(self) -> Headers | None:
        """Return the headers of the request that started it, where the data shows them."""
        return next(self.received_headers(WEBHOOK_NODE), None)

    def received_headers(self, *node_types: str) -> Iterator[Headers]:
        """Yield the headers of every request that nodes of these types took in.

        Names are in lower case, as n8n has them.
        """
        for node in _objects((self.workflow_data or {}).get("nodes")):
            if node.get("type") not in node_types:
                continue
            for run in self._runs(str(node.get("name"))):
                for item in _items(run):
                    headers = item.get("headers")
                    if isinstance(headers, dict):
                        pairs = cast(Json, headers).items()
                        yield {name: value for name, value in pairs if isinstance(value, str)}

    def _result(self) -> Json:
        found: object = (self.data or {}).get("resultData")
        return cast(Json, found) if isinstance(found, dict) else {}

    def _runs(self, node: str) -> list[Json]:
        found: object = self._result().get("runData")
        return _objects(cast(Json, found).get(node)) if isinstance(found, dict) else []


class DataTableColumn(_Answer):
    """A column; ``type`` is string, number, boolean or date."""

    id: Id
    name: str
    type: str


class DataTable(_Answer):
    """A table of n8n, without its rows."""

    id: Id
    name: str
    columns: list[DataTableColumn] = Field(default_factory=list[DataTableColumn])
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None


class DataTableRow(_Answer):
    """A row: ``values`` by column; ``created_at`` and ``updated_at`` have milliseconds."""

    id: int
    created_at: AwareDatetime
    updated_at: AwareDatetime
    values: Json = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _columns_apart(cls, row: object) -> object:
        """n8n gives the columns and its own three fields side by side."""
        if not isinstance(row, dict):
            return row
        fields = dict(cast(Json, row))
        own = {name: fields.pop(name, None) for name in ("id", "createdAt", "updatedAt")}
        return own | {"values": fields}


class Page(_Answer):
    """One page of a list; ``next_cursor`` leads to the next one."""

    data: list[Json]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """What a webhook answered, whatever its status. ``headers`` have lower-case names; ``seconds``
    is how long the call took."""

    status: int
    headers: Headers
    body: bytes
    seconds: float

    def json(self) -> Any | None:
        """Return the body's JSON; None where it is not JSON by content type and content."""
        try:
            return read_json(self.headers, self.body)
        except ValueError:
            return None

    def retry_after(self) -> float | None:
        """Return the seconds that ``Retry-After`` asks for, where it does."""
        return retry_after(self.headers)


def read_json(headers: Mapping[str, str], body: bytes) -> Any:
    """Return the JSON of an answer.

    Raises:
        ValueError: another content type or coding, not JSON, or nested too deep; it says which.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ValueError("the answer is compressed, which was not asked for")
    if kind != "application/json" and not kind.endswith("+json"):
        raise ValueError(f"the answer is {kind[:100] or 'of no type'}, not JSON")
    try:
        text = body.decode("utf-8")
        check_depth(text, MAX_DEPTH)
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError, BodyInvalid):
        raise ValueError("the answer is not valid JSON") from None


def read_as(model: type[Model], value: object) -> Model:
    """Return the value as the model.

    Raises:
        ValueError: a field is missing or of another type; it names the first one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "all"
        raise ValueError(f"the answer is no {model.__name__}: {where}: {first['type']}") from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or a date; never below 0."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    at = http_date(text)
    return None if at is None else max(0.0, (at - datetime.now(UTC)).total_seconds())


def http_date(text: str) -> datetime | None:
    """Return the time of a header such as ``Date``, where it is one."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _objects(value: object) -> list[Json]:
    """The objects of a list, where it is one."""
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Json, item) for item in items if isinstance(item, dict)]


def _items(run: Json) -> list[Json]:
    """The JSON of a node's run: of the first output that has items."""
    data: object = run.get("data")
    main: object = cast(Json, data).get("main") if isinstance(data, dict) else None
    for output in cast(list[object], main) if isinstance(main, list) else []:
        items: list[object] = [item.get("json") for item in _objects(output)]
        if items:
            return _objects(items)
    return []


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
