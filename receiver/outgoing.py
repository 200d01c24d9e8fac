"""``PATCH /api/webhooks/n8n``: record a delivery to n8n; launchers make it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..core.errors import BodyInvalid, ConfigurationError, EventConflict, RequestError
from ..core.specs import explain
from ..core.strict_json import parse_object
from ..ledger.database import Database
from ..ledger.outbox import MAX_BODY, record
from .authentication import require
from .edge import read_body
from .intake import check_identity_encoding, check_json_type
from .patience import QUERY_SECONDS, in_time

MAX_ENVELOPE = 65_536
"""What a request may have around the body to be delivered."""


class DeliveryRequest(BaseModel):
    """What is to be delivered: ``body``, a JSON object, to the outbound endpoint of that slug."""

    model_config = ConfigDict(extra="forbid", strict=True)

    endpoint: str = Field(max_length=63)
    body: dict[str, Any]
    type: str = Field(default="", max_length=256)
    id: str | None = Field(default=None, max_length=256)
    delay: float = Field(default=0.0, ge=0)


class Outgoing:
    """The sending route."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, request: Request) -> Response:
        """Answer 202 once the delivery is committed. ``Idempotency-Key`` is its event id."""
        token = await require(request, self._database, "send")
        headers = request.scope["headers"]
        check_identity_encoding(headers)
        check_json_type(headers)
        wanted = _parse(await read_body(request.scope, request.receive, MAX_BODY + MAX_ENVELOPE))
        event_id = _event_id(wanted, request.headers.getlist("idempotency-key"))
        try:
            async with (
                in_time(QUERY_SECONDS),
                self._database.transaction(token.tenant_id) as connection,
            ):
                recorded = await record(
                    connection,
                    token.tenant_id,
                    endpoint=wanted.endpoint,
                    body=json.dumps(wanted.body, ensure_ascii=False).encode(),
                    event_id=event_id,
                    type=wanted.type,
                    delay=wanted.delay,
                    actor=f"token/{token.id}",
                )
        except ConfigurationError as error:
            raise RequestError(str(error), code="not-found", status=404) from None
        if not recorded.same_body:
            raise EventConflict("This event id is known with another body.")
        answer = {
            "id": str(recorded.id),
            "event_id": event_id,
            "state": recorded.state,
            "duplicate": recorded.duplicate,
        }
        return JSONResponse(answer, 202, headers={"cache-control": "no-store"})


def _parse(raw: bytes) -> DeliveryRequest:
    try:
        return DeliveryRequest.model_validate(parse_object(raw))
    except ValidationError as error:
        raise RequestError(explain(error), code="delivery-invalid", status=422) from None


def _event_id(wanted: DeliveryRequest, keys: list[str]) -> str:
    if len(keys) > 1 or (keys and wanted.id not in (None, keys[0])):
        raise BodyInvalid("Give one id: the header Idempotency-Key or the field id.")
    return keys[0] if keys else wanted.id or uuid4().hex
