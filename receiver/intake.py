"""``POST /api/webhooks/n8n/{endpoint}``: verify, parse, commit, 202. The order is the safety."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..core.errors import BodyInvalid, EventConflict, RequestError
from ..core.redaction import redact_headers
from ..core.signing import Headers, Proof, claim_of, verify
from ..core.strict_json import parse_object
from ..ledger.inbox import Arrival, Recorded
from ..ledger.registry import Endpoint
from .admission import Admission
from .edge import read_body
from .lookup import Lookup

DEFAULT_ENDPOINT = "default"
MAX_TEXT = 256

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON_TYPE = re.compile(
    rb"application/(?:[\w.+-]+\+)?json\s*(?:;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE
)


class Intake:
    """The receiving route."""

    def __init__(self, lookup: Lookup, admission: Admission) -> None:
        self._lookup = lookup
        self._admission = admission

    async def __call__(self, request: Request) -> Response:
        """Answer 202 once the event is committed; see the errors for every other answer."""
        headers: Headers = request.scope["headers"]
        door = await self._lookup.find(request.path_params.get("endpoint", DEFAULT_ENDPOINT))
        claim = claim_of(door.scheme, headers)
        check_identity_encoding(headers)
        body = await read_body(request.receive, door.endpoint.max_body)
        proof = verify(claim, body, door.secrets, now=time.time())
        check_json_type(headers)
        arrival = arrival_of(door.endpoint, proof, headers, body)
        recorded = await self._admission.accept(door.endpoint.tenant_id, arrival)
        return _answer(recorded)


def arrival_of(endpoint: Endpoint, proof: Proof, headers: Headers, body: bytes) -> Arrival:
    """Turn a verified request into an arrival.

    Raises:
        BodyInvalid: not a strict JSON object, or its id or type is not a short text.
    """
    payload = parse_object(body)
    return Arrival(
        endpoint_id=endpoint.id,
        event_id=_event_id(endpoint, proof, payload, body),
        type=_short_text(_field(payload, endpoint.event_type_field), endpoint.event_type_field),
        body=body,
        body_hash=hashlib.sha256(body).digest(),
        headers=redact_headers(list(headers)),
        traceparent=_traceparent(headers),
    )


def _event_id(endpoint: Endpoint, proof: Proof, payload: dict[str, Any], body: bytes) -> str:
    """The dedup key comes from what is signed alone: a header that is not could be changed."""
    if proof.event_id is not None:
        return proof.event_id
    value = _short_text(_field(payload, endpoint.event_id_field), endpoint.event_id_field)
    if value:
        return value
    stamp = "" if proof.timestamp is None else str(proof.timestamp)
    return "sha256:" + hashlib.sha256(stamp.encode() + b"." + body).hexdigest()


def _field(payload: dict[str, Any], path: str) -> Any:
    value: Any = payload
    for part in path.split("."):
        value = cast(dict[str, Any], value).get(part) if isinstance(value, dict) else None
    return value


def _short_text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise BodyInvalid(f"The body's {name!r} must be a printable text of at most {MAX_TEXT}.")
    return value


def _traceparent(headers: Headers) -> str | None:
    found = [value for name, value in headers if name == b"traceparent"]
    return found[0].decode() if len(found) == 1 and _TRACEPARENT.fullmatch(found[0]) else None


def check_identity_encoding(headers: Headers) -> None:
    """Demand a body that is not compressed.

    Raises:
        RequestError: 415.
    """
    encodings = [value.lower() for name, value in headers if name == b"content-encoding"]
    if encodings not in ([], [b"identity"]):
        raise RequestError(
            "A compressed body is not accepted.", code="encoding-unsupported", status=415
        )


def check_json_type(headers: Headers) -> None:
    """Demand JSON in UTF-8.

    Raises:
        RequestError: 415.
    """
    types = [value.strip() for name, value in headers if name == b"content-type"]
    if len(types) != 1 or not _JSON_TYPE.fullmatch(types[0]):
        raise RequestError(
            "The content type must be application/json.", code="not-json", status=415
        )


def _answer(recorded: Recorded) -> Response:
    if not recorded.same_body:
        raise EventConflict("This event id is known with another body.")
    return JSONResponse(
        {"id": str(recorded.id), "state": recorded.state, "duplicate": recorded.duplicate},
        status_code=202,
        headers={"cache-control": "no-store"},
    )
